package todo

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

func TestWhatIsNotedTwiceIsThereOnce(t *testing.T) {
	l := New[string]()
	l.Add("shop/demo")
	l.Add("shop/cart")
	l.Add("shop/demo")
	<-l.Wake()
	if keys, all := l.Take(); len(keys) != 2 || !keys["shop/demo"] || !keys["shop/cart"] || all {
		t.Errorf("Take() = %v, %v, want the two names", keys, all)
	}
	if keys, all := l.Take(); len(keys) != 0 || all {
		t.Errorf("Take() afterwards = %v, %v, want nothing", keys, all)
	}
}

func TestWhatIsNotedWhileSomebodyWorksWakesAgain(t *testing.T) {
	l := New[string]()
	l.Add("shop/demo")
	<-l.Wake()
	taken, _ := l.Take()
	l.AddAll()
	l.Add("shop/cart")
	<-l.Wake()
	keys, all := l.Take()
	if got := slices.Collect(maps.Keys(keys)); !slices.Equal(got, []string{"shop/cart"}) || !all {
		t.Errorf("Take() = %v, %v, want shop/cart and everything", got, all)
	}
	if len(taken) != 1 {
		t.Errorf("what was taken before = %v, want it left alone", taken)
	}
	select {
	case <-l.Wake():
		t.Error("Wake() yields, want it silent: nothing was noted since")
	default:
	}
}

func TestFollowCallsForEveryChange(t *testing.T) {
	var notes []string
	version := func(o metav1.Object) string {
		if o == nil {
			return "none"
		}
		return o.GetResourceVersion()
	}
	handler := Follow(func(before, after metav1.Object) { notes = append(notes, version(before)+" to "+version(after)) })
	at := func(v int) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "demo-00001", ResourceVersion: fmt.Sprint(v)}}
	}
	handler.OnAdd(at(1), true)
	handler.OnUpdate(at(1), at(2))
	handler.OnUpdate(at(2), at(2)) // a resync
	handler.OnDelete(at(2))
	handler.OnDelete(cache.DeletedFinalStateUnknown{Key: "demo-00001", Obj: at(3)})
	handler.OnDelete(cache.DeletedFinalStateUnknown{Key: "demo-00001"})
	if want := []string{"none to 1", "1 to 2", "2 to none", "3 to none"}; !slices.Equal(notes, want) {
		t.Errorf("notes = %q, want %q", notes, want)
	}
}

func TestFollowLatestCallsWithWhatIsThereOrWas(t *testing.T) {
	var notes []string
	handler := FollowLatest(func(o metav1.Object) { notes = append(notes, o.GetResourceVersion()) })
	at := func(v int) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "demo-00001", ResourceVersion: fmt.Sprint(v)}}
	}
	handler.OnAdd(at(1), false)
	handler.OnUpdate(at(1), at(2))
	handler.OnDelete(at(3))
	if want := []string{"1", "2", "3"}; !slices.Equal(notes, want) {
		t.Errorf("notes = %q, want %q", notes, want)
	}
}
