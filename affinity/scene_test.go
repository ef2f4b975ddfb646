package affinity

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A scene is one call of Decide in a service with the revisions demo-00001 (weight 95) and demo-00002 (weight 5), three pods
// each. Every session and flow was bound an hour before noon, and everything is as it is since long before that.
type scene struct {
	name    string
	policy  Policy
	edit    func(v *view)
	request func(r *Request)
	want    Decision // without Endpoint, which must be that of Target
	err     error
}

// A view is what a snapshot is made of.
type view struct {
	revisions []Revision
	pods      [][]Endpoint
	synced    bool
}

func (v *view) snapshot() *Snapshot {
	for i := range v.revisions {
		v.revisions[i].Pool = NewPool(v.pods[i])
	}
	return NewSnapshot(demo, v.revisions, v.synced)
}

var (
	hourAgo   = noon.Add(-time.Hour)
	justNow   = noon.Add(-time.Second)
	longAgo   = noon.Add(-24 * time.Hour)
	firstPod  = Target{Revision: "demo-00001", Endpoint: pod("demo-00001", 0)}
	secondPod = Target{Revision: "demo-00001", Endpoint: pod("demo-00001", 1)}
	canaryPod = Target{Revision: "demo-00002", Endpoint: pod("demo-00002", 0)}
	flowHome  = Target{Revision: "demo-00001"}
	flowAway  = Target{Revision: "demo-00002"}
)

func demoView() *view {
	return &view{
		revisions: []Revision{
			{Name: "demo-00001", Weight: 95, Since: longAgo, Tags: []string{"stable"}},
			{Name: "demo-00002", Weight: 5, Since: longAgo, Tags: []string{"canary"}},
		},
		pods:   [][]Endpoint{pods("demo-00001", 3), pods("demo-00002", 3)},
		synced: true,
	}
}

func (s scene) run(t *testing.T) {
	t.Helper()
	v := demoView()
	if s.edit != nil {
		s.edit(v)
	}
	snapshot := v.snapshot()
	r := Request{Now: noon, Random: 7}
	s.request(&r)
	got, err := Decide(s.policy.WithDefaults(), snapshot, r)
	if !errors.Is(err, s.err) {
		t.Fatalf("Decide = %v, want %v", err, s.err)
	}
	if e := got.Endpoint; e != nil {
		if e.Name != got.Target.Endpoint || snapshot.Revision(got.Target.Revision).Pool.Endpoint(e.Name) != e {
			t.Errorf("Endpoint = %v, want the one that Target names in the snapshot, %v", e, got.Target)
		}
	} else if got.Target.Endpoint != "" {
		t.Errorf("Endpoint = nil, want that of %v", got.Target)
	}
	got.Endpoint = nil
	if diff := cmp.Diff(s.want, got); diff != "" {
		t.Errorf("Decide (-want +got):\n%s", diff)
	}
}

func runAll(t *testing.T, scenes []scene) {
	t.Helper()
	for _, s := range scenes {
		t.Run(s.name, s.run)
	}
}

// Parts of requests.

func all(parts ...func(*Request)) func(*Request) {
	return func(r *Request) {
		for _, part := range parts {
			part(r)
		}
	}
}

func session(to Target) func(*Request) {
	return func(r *Request) {
		r.Session = sessionKey(1)
		if !to.IsZero() {
			r.SessionMemory = Memory{Target: to, Made: hourAgo}
		}
	}
}

func flow(to Target) func(*Request) {
	return func(r *Request) {
		r.Flow = flowKey(1)
		if !to.IsZero() {
			r.FlowMemory = Memory{Target: to, Made: hourAgo}
		}
	}
}

var none Target

func boundJustNow(r *Request)     { r.SessionMemory.Made, r.FlowMemory.Made = justNow, justNow }
func settled(r *Request)          { r.Settled = true }
func degraded(r *Request)         { r.Degraded = true }
func provisional(r *Request)      { r.SessionMemory.Provisional, r.FlowMemory.Provisional = true, true }
func expiredSession(r *Request)   { r.SessionMemory.Expired = true }
func expiredFlow(r *Request)      { r.FlowMemory.Expired = true }
func tag(t string) func(*Request) { return func(r *Request) { r.Tag = t } }
func avoid(names ...string) func(*Request) {
	return func(r *Request) { r.Avoid = names }
}

// Edits of the view.

func weight(i, weight int, since time.Time) func(*view) {
	return func(v *view) { v.revisions[i].Weight, v.revisions[i].Since = weight, since }
}

func state(i int, s RevisionState, since time.Time) func(*view) {
	return func(v *view) { v.revisions[i].State, v.revisions[i].Since = s, since }
}

func endpointState(i, n int, s EndpointState, since time.Time) func(*view) {
	return func(v *view) { v.pods[i][n].State, v.pods[i][n].Since = s, since }
}

func unlist(i int) func(*view) {
	return func(v *view) {
		v.revisions = append(v.revisions[:i:i], v.revisions[i+1:]...)
		v.pods = append(v.pods[:i:i], v.pods[i+1:]...)
	}
}

func unlistPod(i, n int) func(*view) {
	return func(v *view) { v.pods[i] = append(v.pods[i][:n:n], v.pods[i][n+1:]...) }
}

func scaledToZero(i int) func(*view) { return func(v *view) { v.pods[i] = nil } }

func unsynced(v *view) { v.synced = false }

func edits(list ...func(*view)) func(*view) {
	return func(v *view) {
		for _, edit := range list {
			edit(v)
		}
	}
}

var waits = Decision{WaitUntil: justNow.Add(2 * time.Second)}

// plainPod is where plain rendezvous puts the first session within a revision, without the pods left out.
func plainPod(revision string, without ...string) Target {
	best, most := "", uint64(0)
	k := sessionKey(1)
	for n := range 3 {
		name := pod(revision, n)
		if score := mix(k.hash(domainEndpoint) ^ seed(name)); (best == "" || score > most) && !slices.Contains(without, name) {
			best, most = name, score
		}
	}
	return Target{Revision: revision, Endpoint: best}
}
