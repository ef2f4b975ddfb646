package endpoint

import (
	"math"
	"time"
)

// An Ejection is the rule by which endpoints that fail requests are left out for a while. An ejected endpoint is down; it comes
// back by itself when its time is over. A good probe does not shorten the time; a bad one keeps the endpoint down after it.
type Ejection struct {
	Consecutive int           // failures in a row until ejected; default 5
	Base        time.Duration // first ejection; doubles each time it follows within ten times its length; default 10s
	Max         time.Duration // longest ejection; default 5m
	MaxShare    float64       // share of a revision's listed endpoints that may be ejected at once; default 0.5, at most 0.5
}

// withDefaults returns e with every value that was left out or is out of bounds replaced.
func (e Ejection) withDefaults() Ejection {
	if e.Consecutive <= 0 {
		e.Consecutive = 5
	}
	if e.Base <= 0 {
		e.Base = 10 * time.Second
	}
	if e.Max <= 0 {
		e.Max = 5 * time.Minute
	}
	if e.MaxShare <= 0 || e.MaxShare > 0.5 {
		e.MaxShare = 0.5
	}
	return e
}

// allowed returns how many of n endpoints may be ejected at once.
func (e Ejection) allowed(n int) int {
	return int(math.Floor(e.MaxShare*float64(n) + 1e-9)) // 0.29 × 100 is a little less than 29 in binary
}

// length returns how long the next ejection lasts if the last one took last and ended so long ago.
func (e Ejection) length(last, ago time.Duration) time.Duration {
	if last > 0 && ago <= 10*last {
		return min(2*last, e.Max)
	}
	return min(e.Base, e.Max)
}

// eject ejects m if the pool's rule allows another one. It reports whether it did.
func (p *pool) eject(m *member, now time.Time) bool {
	m.counter.failures.Store(0)
	if p.ejection == nil || !m.ejectedUntil.IsZero() || !m.fit() {
		return false
	}
	fit, ejected := p.ejected()
	if len(ejected)+1 > p.ejection.allowed(fit) {
		return false
	}
	m.lastEjection = p.ejection.length(m.lastEjection, now.Sub(m.lastReturn))
	m.ejectedUntil = now.Add(m.lastEjection)
	m.lastReturn = m.ejectedUntil
	return true
}

// ejected returns the number of members that are fit, and those of them that are ejected.
func (p *pool) ejected() (fit int, ejected []*member) {
	for _, m := range p.members {
		if !m.fit() {
			continue
		}
		fit++
		if !m.ejectedUntil.IsZero() {
			ejected = append(ejected, m)
		}
	}
	return fit, ejected
}

// endEjections lets back who served its time, and, if members left so that the rest are too many, those who would come first.
func (p *pool) endEjections(now time.Time) {
	for _, m := range p.members {
		if p.ejection == nil || !m.listed || !m.ejectedUntil.After(now) {
			m.endEjection()
		}
	}
	fit, ejected := p.ejected()
	if p.ejection == nil {
		return
	}
	for len(ejected) > p.ejection.allowed(fit) {
		first := 0
		for i, m := range ejected {
			if m.ejectedUntil.Before(ejected[first].ejectedUntil) {
				first = i
			}
		}
		ejected[first].endEjection()
		ejected = append(ejected[:first], ejected[first+1:]...)
	}
}

// endEjection lets the member back. Failures of requests that were sent before do not count against it.
func (m *member) endEjection() {
	if !m.ejectedUntil.IsZero() {
		m.ejectedUntil = time.Time{}
		m.counter.failures.Store(0)
	}
}
