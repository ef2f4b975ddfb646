package proxy

import (
	"fmt"
	"slices"
)

// A backend is how the endpoints of a revision are spoken to on a route.
type backend struct {
	upstream *upstream
	set      []field // in the request, in place of the client's
}

// addBackends fills in how the endpoints of r are spoken to.
func (t *compiled) addBackends(r *compiledRoute, old map[upstreamKey]*upstream, e *engine) error {
	set, err := fieldsOf(r.SetHeaders, settable)
	if err != nil {
		return err
	}
	up, err := t.upstream(r.Upstream, old, e)
	if err != nil {
		return err
	}
	r.general = &backend{up, set}
	r.take(set)
	if len(r.Backends) > 0 {
		r.single = make(map[string]*backend, len(r.Backends))
	}
	for revision, b := range r.Backends {
		if r.single[revision], err = t.backend(b, set, old, e); err != nil {
			return fmt.Errorf("backend %s: %w", revision, err)
		}
		r.take(r.single[revision].set)
	}
	return nil
}

// backend returns b with the headers of its route.
func (t *compiled) backend(b Backend, set []field, old map[upstreamKey]*upstream, e *engine) (*backend, error) {
	own, err := fieldsOf(b.SetHeaders, settable)
	if err != nil {
		return nil, err
	}
	up, err := t.upstream(b.Upstream, old, e)
	if err != nil {
		return nil, err
	}
	return &backend{up, overlay(set, own)}, nil
}

// take notes the names that clients cannot send on r, in no trailer either.
func (r *compiledRoute) take(set []field) {
	for _, f := range set {
		if !slices.Contains(r.taken, f.name) {
			r.taken = append(r.taken, f.name)
		}
	}
}

// backend returns how the endpoints of a revision are spoken to.
func (r *compiledRoute) backend(revision string) *backend {
	if b := r.single[revision]; b != nil {
		return b
	}
	return r.general
}
