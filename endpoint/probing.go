package endpoint

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A probeTask is the probing of one member. It ends when the member goes, changes its address or is probed by another rule; a
// result that comes after its end counts for nothing.
type probeTask struct {
	pool    *pool
	member  *member
	address string
	rule    Probe
	when    entry[*probeTask]
	begun   bool
	ended   bool
}

// setProbes begins and ends the probing of p's members as its rule says.
func (t *Table) setProbes(p *pool) {
	for _, m := range p.members {
		if p.probe == nil || !m.listed {
			t.dropProbe(m)
			if p.inUse && p.probe == nil {
				m.health = healthGood // it serves: a rule that comes later has to find it bad
			}
			continue
		}
		if m.task != nil && m.task.address == m.spec.Address && m.task.rule == *p.probe {
			continue
		}
		t.dropProbe(m)
		m.task = &probeTask{pool: p, member: m, address: m.spec.Address, rule: *p.probe}
		m.task.when.thing = m.task
		t.planProbe(m.task, time.Time{}) // before every other
	}
}

// planProbe makes a probe due at a time.
func (t *Table) planProbe(task *probeTask, due time.Time) {
	t.probes.set(&task.when, due)
	if t.probes.first() == &task.when {
		wake(t.probeWake)
	}
}

// dropProbe ends the probing of m.
func (t *Table) dropProbe(m *member) {
	if m.task == nil {
		return
	}
	m.task.ended = true
	t.probes.remove(&m.task.when)
	m.task, m.streak = nil, 0
}

// runProbes makes probes when they are due, so many at a time, until ctx ends, and waits for the last.
func (t *Table) runProbes(ctx context.Context) {
	var probes sync.WaitGroup
	defer probes.Wait()
	places := make(chan struct{}, t.maxProbes)
	for {
		select {
		case <-ctx.Done():
			return
		case places <- struct{}{}:
		}
		task := t.dueProbe(ctx)
		if task == nil {
			return
		}
		probes.Go(func() {
			defer func() { <-places }()
			t.runProbe(ctx, task)
		})
	}
}

// dueProbe waits for the next probe that is due, and takes it out. It returns nil when ctx has ended.
func (t *Table) dueProbe(ctx context.Context) *probeTask {
	for {
		t.mu.Lock()
		e, next := t.probes.takeDue(time.Now())
		t.mu.Unlock()
		if e != nil {
			return e.thing
		}
		if !pause(ctx, time.Until(next), t.probeWake) {
			return nil
		}
	}
}

// runProbe makes one probe and plans the next.
func (t *Table) runProbe(ctx context.Context, task *probeTask) {
	begin := time.Now()
	err := t.prober.probe(ctx, task.address, task.rule)
	stopped := ctx.Err() != nil
	t.update(func(now time.Time) {
		if task.ended {
			return
		}
		t.planProbe(task, later(begin.Add(task.pause()), now))
		if stopped {
			return // the end of Run says nothing about the endpoint
		}
		if task.member.probed(err, now, task.rule) {
			t.markPool(task.pool)
		}
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// pause returns the time from the beginning of one probe to that of the next: the interval give or take a tenth; after the first
// one any part of it above a half, so that endpoints that began together spread out.
func (task *probeTask) pause() time.Duration {
	low, width := 0.9, 0.2
	if !task.begun {
		task.begun = true
		low, width = 0.5, 0.5
	}
	return time.Duration(float64(task.rule.Interval) * (low + width*rand.Float64()))
}

// probed takes over a result and reports whether the member passes by it that did not, or the reverse.
func (m *member) probed(err error, now time.Time, rule Probe) bool {
	m.probedAt, m.probeText = now, ""
	if err != nil {
		m.probeText = err.Error()
	}
	before := m.health.passes()
	found, needed := healthGood, rule.HealthyThreshold
	if err != nil {
		found, needed = healthBad, rule.UnhealthyThreshold
	}
	if m.health == healthHoped || m.health == healthUnproven && err != nil {
		needed = 1
	}
	m.streak++
	switch {
	case m.health == found:
		m.streak = 0
	case m.streak >= needed:
		m.health, m.streak = found, 0
	}
	return m.health.passes() != before
}
