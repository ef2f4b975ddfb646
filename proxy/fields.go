package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/limpet-project/limpet/affinity"
)

// A field is a header as a route names it: its name is canonical. Values hold one, in the form that http.Header has, and are
// shared by all requests: nobody changes them in place.
type field struct {
	name   string
	values []string
}

func (f field) value() string { return f.values[0] }

// fieldsOf returns configured headers by name, each of them allowed.
func fieldsOf(headers map[string]string, allowed func(name string) error) ([]field, error) {
	fields := make([]field, 0, len(headers))
	for name, value := range headers {
		f := field{textproto.CanonicalMIMEHeaderKey(name), []string{value}}
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("header %q: expected a name", name)
		}
		if !httpguts.ValidHeaderFieldValue(value) || textproto.TrimString(value) != value {
			return nil, fmt.Errorf("header %s: value %q: expected a line without spaces around it", f.name, value)
		}
		if err := allowed(f.name); err != nil {
			return nil, fmt.Errorf("header %s: %w", f.name, err)
		}
		fields = append(fields, f)
	}
	slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(fields); i++ {
		if fields[i].name == fields[i-1].name {
			return nil, fmt.Errorf("header %s: named twice", fields[i].name)
		}
	}
	return fields, nil
}

// matchable says why a route cannot ask for a header.
func matchable(name string) error {
	switch {
	case name == "Host":
		return errors.New("a host is matched by Hosts")
	case internal(name):
		return errors.New("clients cannot send it")
	}
	return nil
}

// settable says why a route cannot set a header.
func settable(name string) error {
	switch {
	case name == "Host":
		return errors.New("the host is set by RewriteHost")
	case name == "Content-Length" || hopByHop(name):
		return errors.New("it belongs to the connection and cannot be set")
	}
	return nil
}

// matches reports whether m has all fields, each as the first line of its name. What says who the client is counts only from trusted
// peers. No message has no header.
func matches(fields []field, m affinity.Message, trusted []netip.Prefix) bool {
	for _, f := range fields {
		if m == nil || forwarding(f.name) && !within(m.Peer(), trusted) {
			return false
		}
		if got := m.Header(f.name); len(got) == 0 || got[0] != f.value() {
			return false
		}
	}
	return true
}

// compareFields orders the headers of routes: more of them come first, then those of earlier names and values.
func compareFields(a, b []field) int {
	if c := cmp.Compare(len(b), len(a)); c != 0 {
		return c
	}
	return slices.CompareFunc(a, b, func(a, b field) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.value(), b.value()))
	})
}

// overlay returns the fields of both; over wins.
func overlay(under, over []field) []field {
	both := slices.Clone(over)
	for _, f := range under {
		if !slices.ContainsFunc(over, func(o field) bool { return o.name == f.name }) {
			both = append(both, f)
		}
	}
	return both
}
