package ingress

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/tools/record"

	"github.com/google/go-cmp/cmp"
)

func newNotices(t *testing.T, objects ...runtime.Object) (*notices, *record.FakeRecorder) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	recorder := record.NewFakeRecorder(16)
	recorder.IncludeObject = true
	return &notices{
		recorder: recorder, owners: owners{metadatafake.NewSimpleMetadataClient(scheme, objects...), slog.New(slog.DiscardHandler)},
		known: make(map[types.NamespacedName]notice),
	}, recorder
}

// told returns the events since the last call.
func told(r *record.FakeRecorder) []string {
	var list []string
	for {
		select {
		case e := <-r.Events:
			list = append(list, e)
		default:
			return list
		}
	}
}

func TestANoticeIsToldOncePerChange(t *testing.T) {
	n, recorder := newNotices(t)
	i := demo("demo", "demo.default.example.com", "demo-00001")
	for _, step := range []struct {
		name, relayed string
		wrong         error
		want          string // "" is no event
	}{
		{name: "nothing to tell"},
		{name: "a relayed revision", relayed: "demo-00001", want: reasonSessionOff},
		{name: "the same"},
		{name: "another revision", relayed: "demo-00002", want: "demo-00002"},
		{name: "wrong annotations", relayed: "demo-00002", wrong: errors.New("got first, expected a number"), want: reasonMisconfigured},
		{name: "all is well"},
		{name: "wrong again", wrong: errors.New("got first, expected a number"), want: reasonMisconfigured},
	} {
		if step.name != "the same" {
			n.set(keyOf(i), step.wrong, step.relayed)
		}
		n.tell(t.Context(), i)
		got := told(recorder)
		if step.want == "" && len(got) > 0 || step.want != "" && (len(got) != 1 || !strings.Contains(got[0], step.want)) {
			t.Errorf("%s: told %q, want %q", step.name, got, step.want)
		}
	}
	n.forget(keyOf(i))
	if len(n.known) > 0 {
		t.Errorf("after forget there are %v, want nothing", n.known)
	}
}

func TestLimpetsActivatorsKeepSessions(t *testing.T) {
	n, recorder := newNotices(t)
	n.relayedWorks = true
	i := demo("demo", "demo.default.example.com", "demo-00001")
	n.set(keyOf(i), nil, "demo-00001")
	n.tell(t.Context(), i)
	if got := told(recorder); len(got) > 0 {
		t.Errorf("told %q, want nothing", got)
	}
}

func TestOwnersAreFoundUpToTheService(t *testing.T) {
	yes := true
	route := &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "serving.knative.dev/v1", Kind: "Route"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "serving.knative.dev/v1", Kind: "Service", Name: "demo", UID: "service", Controller: &yes},
		}},
	}
	n, _ := newNotices(t, route)
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.OwnerReferences = []metav1.OwnerReference{{APIVersion: "serving.knative.dev/v1", Kind: "Route", Name: "demo", UID: "route", Controller: &yes}}
	var got []string
	for _, o := range n.owners.of(t.Context(), i) {
		got = append(got, o.Kind+" "+o.Name+" "+string(o.UID))
	}
	if diff := cmp.Diff([]string{"Route demo route", "Service demo service"}, got); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}
