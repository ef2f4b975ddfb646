package endpoint

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/limpet-project/limpet/affinity"
)

// A step is one thing that happens to a table in a random history.
type step struct {
	kind    string
	rev     int     // 0 or 1
	pod     int     // 0 to 4
	weights [2]int  // of services: -1 is not listed
	members [5]byte // of a pool: 0 not listed, 1 ready, 2 not ready, 3 draining
	wait    time.Duration
}

func drawStep(t *rapid.T) step {
	kinds := []string{"services", "members", "members", "drain", "cancel", "fail", "fail", "fail", "wait"}
	s := step{kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
	s.rev, s.pod = rapid.IntRange(0, 1).Draw(t, "revision"), rapid.IntRange(0, 4).Draw(t, "pod")
	switch s.kind {
	case "services":
		for i := range s.weights {
			s.weights[i] = rapid.IntRange(-1, 2).Draw(t, "weight") * 50
		}
	case "members":
		for i := range s.members {
			s.members[i] = rapid.SampledFrom([]byte{0, 1, 1, 1, 2, 3}).Draw(t, "member")
		}
	case "wait":
		waits := []time.Duration{time.Second, 11 * time.Second, time.Minute, 9 * time.Minute, 11 * time.Minute}
		s.wait = rapid.SampledFrom(waits).Draw(t, "wait")
	}
	return s
}

// A modelEndpoint is what the history says of one endpoint.
type modelEndpoint struct {
	known, listed, notReady, draining, ordered bool

	served bool // was open since it became known

	gone, failed time.Time
	slot         int32
	seen         affinity.Endpoint
}

// A modelRevision is what the history says of one revision of demo.
type modelRevision struct {
	known, listed bool
	weight        int
	removed       time.Time
	pods          [5]modelEndpoint
}

// A model is a table as it is to be, written down as plainly as can be.
type model struct {
	table *Table
	revs  [2]modelRevision
}

const modelMaxEjection = 20 * time.Second

func modelName(rev int) RevisionName { return RevisionName{"shop", fmt.Sprintf("demo-%05d", rev+1)} }

// apply lets a step happen to the table and to the model.
func (m *model) apply(s step) error {
	ctx, now := context.Background(), time.Now()
	r := &m.revs[s.rev]
	e := &r.pods[s.pod]
	name := modelName(s.rev)
	switch s.kind {
	case "services":
		m.setServices(s.weights, now)
	case "members":
		m.setMembers(s, now)
	case "drain", "cancel":
		d := Drain{Service: demo, Revision: name.Name, Endpoint: pod(name, s.pod), Cancel: s.kind == "cancel"}
		err := m.table.Drain(ctx, d)
		if want := s.kind == "cancel" || e.listed; (err == nil) != want {
			return fmt.Errorf("Drain(%+v) = %v, want nil: %v", d, err, want)
		}
		if err == nil {
			e.ordered = s.kind == "drain"
		}
	case "fail":
		if shown := endpointOf(m.table, name, s.pod); shown != nil && m.table.Acquire(ctx, shown, 0) == nil {
			m.table.Release(shown, OutcomeFailed)
			e.failed = now
		}
	case "wait":
		time.Sleep(s.wait)
	}
	synctest.Wait()
	return nil
}

func (m *model) setServices(weights [2]int, now time.Time) {
	service := Service{Name: demo, Ejection: &Ejection{Consecutive: 2, Max: modelMaxEjection}}
	for i, w := range weights {
		r := &m.revs[i]
		if w >= 0 {
			service.Revisions = append(service.Revisions, Revision{Name: modelName(i).Name, Weight: w})
			r.known, r.listed, r.weight = true, true, w
		} else if r.listed {
			r.listed, r.removed = false, now
		}
	}
	m.table.SetServices([]Service{service})
}

func (m *model) setMembers(s step, now time.Time) {
	var members []Member
	for i, b := range s.members {
		e := &m.revs[s.rev].pods[i]
		if b == 0 {
			if e.listed {
				e.listed, e.gone = false, now
			}
			continue
		}
		e.known, e.listed, e.notReady, e.draining = true, true, b == 2, b == 3
		e.served = e.served || !e.notReady
		members = append(members, Member{Name: pod(modelName(s.rev), i), NotReady: e.notReady, Draining: e.draining})
	}
	m.table.SetMembers(modelName(s.rev), members)
}

// check compares the table with the model.
func (m *model) check() error {
	slots := make(map[int32]string)
	for i := range m.revs {
		r := &m.revs[i]
		r.forget()
		tombstone := !r.listed && time.Since(r.removed) < 10*time.Minute
		shown := revisionOf(m.table, modelName(i).Name)
		if (shown != nil) != (r.known && (r.listed || tombstone)) {
			return fmt.Errorf("Revision(%v) = %v, want listed %v, tombstone %v", modelName(i), shown, r.listed, tombstone)
		}
		if shown == nil {
			for n := range r.pods {
				r.pods[n].seen = affinity.Endpoint{}
			}
			continue
		}
		if (shown.State == affinity.RevisionRemoved) == r.listed || r.listed && shown.Weight != r.weight {
			return fmt.Errorf("Revision(%v) = %v weight %d, want listed %v weight %d",
				modelName(i), shown.State, shown.Weight, r.listed, r.weight)
		}
		if err := m.checkPool(i, shown.Pool, slots); err != nil {
			return err
		}
	}
	return nil
}

// forget lets the endpoints go that were not listed for so long that the table forgets them, with the operator's orders.
func (r *modelRevision) forget() {
	for i := range r.pods {
		if e := &r.pods[i]; e.known && !e.listed && time.Since(e.gone) >= 10*time.Minute {
			*e = modelEndpoint{failed: e.failed}
		}
	}
}

// checkPool compares the endpoints of one revision, and that no more than half of them are ejected.
func (m *model) checkPool(rev int, p *affinity.Pool, slots map[int32]string) error {
	fit, ejected := 0, 0
	for n := range m.revs[rev].pods {
		e := &m.revs[rev].pods[n]
		shown := p.Endpoint(pod(modelName(rev), n))
		if (shown != nil) != e.known {
			return fmt.Errorf("Endpoint(%v %d) = %v, want listed or gone: %v", modelName(rev), n, shown, e.known)
		}
		if shown == nil {
			continue
		}
		if other, taken := slots[shown.Slot]; taken || shown.Slot <= 0 || e.slot != 0 && e.slot != shown.Slot {
			return fmt.Errorf("Slot of %s = %d, was %d, also that of %q", shown.Name, shown.Slot, e.slot, other)
		}
		slots[shown.Slot], e.slot = shown.Name, shown.Slot
		isFit := e.listed && !e.notReady && !e.draining && !e.ordered
		isEjected := shown.State == affinity.EndpointDown && !e.notReady
		if err := e.checkState(shown, isEjected); err != nil {
			return err
		}
		if isFit {
			fit++
		}
		if isFit && isEjected {
			ejected++
		}
		if load := m.table.Load(shown); load != (affinity.Load{}) {
			return fmt.Errorf("Load(%s) = %+v, want zero", shown.Name, load)
		}
		e.seen = *shown
	}
	if ejected > fit/2 {
		return fmt.Errorf("ejected = %d of %d of %v, want at most half", ejected, fit, modelName(rev))
	}
	return nil
}

// checkState compares the state of one endpoint and when it began.
func (e *modelEndpoint) checkState(shown *affinity.Endpoint, isEjected bool) error {
	want := affinity.EndpointReady
	switch {
	case !e.listed:
		want = affinity.EndpointGone
	case e.notReady:
		want = affinity.EndpointDown
	case isEjected:
		if want = affinity.EndpointDown; time.Since(e.failed) >= modelMaxEjection {
			return fmt.Errorf("%s is ejected though it last failed %v ago", shown.Name, time.Since(e.failed))
		}
	case e.draining || e.ordered:
		want = affinity.EndpointDraining
	}
	if shown.State != want {
		return fmt.Errorf("State of %s = %v, want %v", shown.Name, shown.State, want)
	}
	if want == affinity.EndpointDown && !e.served {
		if !shown.Since.IsZero() {
			return fmt.Errorf("Since of %s = %v, want unknown: it was never open here", shown.Name, shown.Since)
		}
		return nil
	}
	if shown.Since.After(time.Now()) || e.seen.Name != "" && shown.State == e.seen.State && shown.Since.Before(e.seen.Since) {
		return fmt.Errorf("Since of %s = %v, was %v", shown.Name, shown.Since, e.seen.Since)
	}
	if e.seen.Name != "" && shown.State != e.seen.State && !shown.Since.After(e.seen.Since) && !shown.Since.Equal(time.Now()) {
		return fmt.Errorf("Since of %s = %v after a change from %v to %v", shown.Name, shown.Since, e.seen.State, shown.State)
	}
	return nil
}

func TestRandomHistoriesLeaveTheTableAsTheModelSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 60).Draw(rt, "steps")
		var failure error
		synctest.Test(t, func(t *testing.T) {
			m := &model{table: NewTable(Options{})}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- m.table.Run(ctx) }()
			m.table.SetSynced()
			for i := 0; i < len(steps) && failure == nil; i++ {
				if failure = m.apply(steps[i]); failure == nil {
					failure = m.check()
				}
				if failure != nil {
					failure = fmt.Errorf("after step %d %+v: %w", i, steps[i], failure)
				}
			}
			cancel()
			<-ended
		})
		if failure != nil {
			rt.Fatal(failure)
		}
	})
}
