package scaledown

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

func TestCostsChangeSeldom(t *testing.T) {
	for sessions, want := range map[int64]int64{-1: 0, 0: 0, 1: 1, 9: 1, 10: 10, 99: 10, 100: 100, 999: 100, 1000: 1000, 1_000_000: 1000} {
		if got := cost(sessions); got != want {
			t.Errorf("cost(%d) = %d, want %d", sessions, got, want)
		}
	}
}

// demo is the pod n of demo-00001 with so many sessions.
func demo(n int, sessions int64) Pod {
	name := fmt.Sprintf("demo-00001-deployment-7c9d8b6f5-%05d", n)
	return Pod{Namespace: "shop", Revision: "demo-00001", Name: name, UID: types.UID("uid-of-" + name), Sessions: sessions}
}

func unknown(p Pod) Pod {
	p.Unknown = true
	return p
}

func fixed(p Pod) Pod {
	p.Fixed = true
	return p
}

func TestACostIsWrittenWhenItChanges(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	l := newLedger()
	for _, step := range []struct {
		name string
		at   time.Duration
		pods []Pod
		want []int64 // costs, in the order in which they are written
		err  error   // of each write
	}{
		{name: "what another process wrote is not known", pods: []Pod{demo(1, 0), demo(2, 12)}, want: []int64{0, 10}},
		{name: "as many sessions as to tell", at: 15 * time.Second, pods: []Pod{demo(1, 0), demo(2, 99)}},
		{name: "not twice in a minute", at: 30 * time.Second, pods: []Pod{demo(1, 0), demo(2, 100)}},
		{name: "a pod that came later has no cost", at: 45 * time.Second, pods: []Pod{demo(1, 0), demo(2, 10), demo(3, 0)}},
		{name: "after a minute, and at once if it was never written", at: time.Minute, pods: []Pod{demo(1, 0), demo(2, 100), demo(3, 5)}, want: []int64{1, 100}},
		{name: "what is not known stays as it is", at: 2 * time.Minute, pods: []Pod{demo(1, 0), unknown(demo(2, 0)), unknown(demo(3, 2000))}},
		{name: "what the user says stays as it is", at: 2 * time.Minute, pods: []Pod{demo(1, 0), fixed(demo(2, 0)), fixed(demo(3, 2000))}},
		{name: "a write fails", at: 3 * time.Minute, pods: []Pod{demo(1, 0), demo(2, 0), demo(3, 5)}, want: []int64{0}, err: errors.New("the API server is away")},
		{name: "it is not tried again at once", at: 3*time.Minute + 15*time.Second, pods: []Pod{demo(1, 0), demo(2, 0), demo(3, 5)}},
		{name: "it is later", at: 4 * time.Minute, pods: []Pod{demo(1, 0), demo(2, 0), demo(3, 5)}, want: []int64{0}},
		{name: "the pods are gone", at: 5 * time.Minute},
	} {
		var got []int64
		now := begin.Add(step.at)
		for _, c := range l.due(step.pods, now) {
			got = append(got, c.cost)
			l.note(c, now, step.err)
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: due() = %v, want %v", step.name, got, step.want)
		}
	}
	if len(l.entries) != 0 {
		t.Errorf("after all pods have gone %d are remembered, want none", len(l.entries))
	}
}

func TestNoPodIsForgottenForOthersThatChangeOften(t *testing.T) {
	l := newLedger()
	now := time.Unix(1_800_000_000, 0)
	var pods []Pod
	for n := range 300 {
		pods = append(pods, demo(n, 0))
	}
	l.due(pods, now)
	written := make(map[types.UID]bool)
	for round := range 8 {
		for i := range pods {
			pods[i].Sessions = int64(1 + round%2*10) // all change in each round
		}
		now = now.Add(time.Minute)
		for _, c := range l.due(pods, now)[:50] {
			l.note(c, now, nil)
			written[c.pod.UID] = true
		}
	}
	if len(written) != len(pods) {
		t.Errorf("in 8 rounds of 50 writes %d pods had their turn, want all %d", len(written), len(pods))
	}
}
