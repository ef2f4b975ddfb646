package ingress

import (
	"encoding/hex"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"knative.dev/networking/pkg/ingress"

	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// holdFor is how long a program is held back for a backend that its object did not use before and that cannot take a request yet as
// far as is known here: the object changes and its endpoints are heard of by different watches, in any order.
const holdFor = 10 * time.Second

// A version is an object as it was once.
type version struct {
	program Program
	hash    string
	created time.Time
	partial bool // a backend is unknown, and stands there without endpoints
}

// A programmed is what the Programmer knows of one Ingress.
type programmed struct {
	version           // the last good one
	good     bool     // there is one
	waiting  *waiting // the one that is to follow, nil for none
	failed   bool     // the last Set failed, or has not ended
	conflict error
}

// A waiting is a version that is held back until its backends are ready.
type waiting struct {
	version
	missing map[backend.Name]time.Time // until when each is waited for
}

// version returns the object as a version that can be served, and those of its backends that cannot take a request now.
func (p *Programmer) version(o Object, lookup func(backend.Name) (backend.Backend, bool)) (version, map[backend.Name]bool, error) {
	unready := make(map[backend.Name]bool)
	program, err := Translate(o, func(n backend.Name) (backend.Backend, bool) {
		b, known := lookup(n)
		if known && !b.Ready {
			unready[n] = true
		}
		return b, known
	})
	if err == nil {
		err = p.check(program)
	}
	return version{program: program, hash: hashOf(o), created: o.Ingress.CreationTimestamp.Time}, unready, err
}

// orEmpty answers for a backend that is unknown as for a revision without endpoints.
func orEmpty(lookup func(backend.Name) (backend.Backend, bool)) func(backend.Name) (backend.Backend, bool) {
	return func(n backend.Name) (backend.Backend, bool) {
		if b, known := lookup(n); known {
			return b, true
		}
		return backend.Backend{Revision: n.Service, Protocol: proxy.ProtocolHTTP1}, true
	}
}

// is reports whether two versions are the same.
func (v version) is(w version) bool {
	return v.hash == w.hash && v.partial == w.partial && v.created.Equal(w.created) && reflect.DeepEqual(v.program, w.program)
}

// hold returns next as a version that waits, nil if it is to be put in force. What backends were waited for already counts.
func (o *programmed) hold(next version, unready map[backend.Name]bool, now time.Time) *waiting {
	w := &waiting{next, make(map[backend.Name]time.Time)}
	for name := range next.program.Backends {
		if _, had := o.program.Backends[name]; had || !unready[name] {
			continue
		}
		w.missing[name] = now.Add(holdFor)
		if o.waiting != nil && !o.waiting.missing[name].IsZero() {
			w.missing[name] = o.waiting.missing[name]
		}
	}
	if !o.good || !now.Before(w.until()) {
		return nil
	}
	return w
}

// until returns when the version is put in force whatever is missing.
func (w *waiting) until() time.Time {
	var last time.Time
	for _, at := range w.missing {
		if at.After(last) {
			last = at
		}
	}
	return last
}

// err says what the version waits for.
func (w *waiting) err() error {
	names := slices.SortedFunc(maps.Keys(w.missing), func(a, b backend.Name) int { return strings.Compare(a.String(), b.String()) })
	return &NotReadyError{Backend: names[0], Known: true}
}

// hashOf returns the hash by which Knative's prober knows the object's spec.
func hashOf(o Object) string {
	sum, err := ingress.ComputeHash(o.Ingress)
	if err != nil {
		return "" // it was computed for the translation already
	}
	return hex.EncodeToString(sum[:])
}
