package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/config"
)

// The annotations of a Knative Service or Route, which copies them to its Ingress. The simple ones name one source each. Several of
// one kind are looked at in the order header, query parameter, path segment.
const (
	SessionHeader         = "activator.knative.dev/sticky-session-header-name"
	SessionQueryParameter = "activator.knative.dev/sticky-session-query-parameter"
	SessionPathSegment    = "activator.knative.dev/sticky-session-path-segment" // counted from 1

	RevisionHeader         = "activator.knative.dev/sticky-revision-header-name"
	RevisionQueryParameter = "activator.knative.dev/sticky-revision-query-parameter"
	RevisionPathSegment    = "activator.knative.dev/sticky-revision-path-segment" // counted from 1

	// Structured takes the whole policy as YAML, or off.
	Structured = "affinity.limpet.dev/policy"
)

// What begins so is ours: a name of it that is not listed above is a mistake.
const (
	simplePrefix     = "activator.knative.dev/sticky-"
	structuredPrefix = "affinity.limpet.dev/"
)

// The bounds of annotations. The admission policy in deploy/ knows them too.
const (
	maxPolicyBytes  = 16 << 10
	maxNameLength   = 256
	maxPathSegments = 100
)

// off is the value that turns affinity off.
const off = "off"

// A simple annotation names one source. source returns what was expected if it cannot.
type simple struct {
	name   string
	source func(value string) (s affinity.Source, expected string)
}

// The simple annotations of each kind, in the order in which their sources are looked at.
var (
	sessionSimple = []simple{
		{SessionHeader, headerSource}, {SessionQueryParameter, querySource}, {SessionPathSegment, segmentSource},
	}
	revisionSimple = []simple{
		{RevisionHeader, headerSource}, {RevisionQueryParameter, querySource}, {RevisionPathSegment, segmentSource},
	}
)

// Policy returns the policy of an object with these annotations, validated and with everything filled in; nil is no affinity.
// Annotations of others are passed over. The error is of type [config.Problems] and tells all that is wrong, each with the
// annotation's name; the caller then works without affinity and reports it. The result is the caller's.
func (d Defaults) Policy(annotations map[string]string) (*affinity.Policy, error) {
	if d.off {
		return nil, nil
	}
	r := reader{annotations: annotations}
	r.unknown()
	base, given := r.base(d)
	sessions, revisions := r.sources(sessionSimple), r.sources(revisionSimple)
	r.refuseBoth(given)
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return d.limit(withSources(base, sessions, revisions), Structured)
}

// withSources replaces the sources of the kinds that have new ones, and turns those kinds on.
func withSources(p *affinity.Policy, sessions, revisions []affinity.Source) *affinity.Policy {
	if len(sessions) == 0 && len(revisions) == 0 {
		return p
	}
	if p == nil {
		p = &affinity.Policy{}
	}
	if len(sessions) > 0 {
		if p.Session == nil {
			p.Session = &affinity.SessionAffinity{}
		}
		p.Session.From = sessions
	}
	if len(revisions) > 0 {
		if p.Revision == nil {
			p.Revision = &affinity.RevisionAffinity{}
		}
		p.Revision.From = revisions
	}
	return p.WithDefaults()
}

// A reader reads the annotations of one object and collects what is wrong with them.
type reader struct {
	annotations map[string]string
	problems    config.Problems
}

func (r *reader) fail(annotation, format string, args ...any) {
	r.problems = append(r.problems, &config.Problem{File: annotation, Reason: fmt.Sprintf(format, args...)})
}

// unknown refuses names of ours that mean nothing: most are slips of the pen.
func (r *reader) unknown() {
	simples := slices.Concat(names(sessionSimple), names(revisionSimple))
	for _, name := range slices.Sorted(maps.Keys(r.annotations)) {
		switch {
		case strings.HasPrefix(name, simplePrefix) && !slices.Contains(simples, name):
			r.fail(name, "unknown annotation, expected one of %s", strings.Join(simples, ", "))
		case strings.HasPrefix(name, structuredPrefix) && name != Structured:
			r.fail(name, "unknown annotation, expected %s", Structured)
		}
	}
}

func names(list []simple) []string {
	all := make([]string, len(list))
	for i, s := range list {
		all[i] = s.name
	}
	return all
}

// sources returns the sources that simple annotations of one kind name.
func (r *reader) sources(list []simple) []affinity.Source {
	var from []affinity.Source
	for _, a := range list {
		value, ok := r.annotations[a.name]
		if !ok {
			continue
		}
		s, expected := a.source(value)
		if expected != "" {
			r.fail(a.name, "got %q, expected %s", value, expected)
		}
		from = append(from, s)
	}
	return from
}

// base returns the policy that the simple annotations change, which the caller may change too, and what the structured annotation
// gives of it, if there is one.
func (r *reader) base(d Defaults) (*affinity.Policy, given) {
	text, ok := r.annotations[Structured]
	if !ok {
		return d.base(), given{}
	}
	if strings.TrimSpace(text) == off {
		return nil, given{off: true}
	}
	p, problems := parsePolicy(Structured, text)
	r.problems = append(r.problems, problems...)
	return p, givenBy(text)
}

// refuseBoth refuses a kind of affinity for which there are both simple annotations and the structured one.
func (r *reader) refuseBoth(g given) {
	for _, kind := range []struct {
		name    string
		simple  []simple
		refused bool
	}{
		{"session", sessionSimple, g.session || g.off},
		{"revision", revisionSimple, g.revision || g.off},
	} {
		for _, a := range kind.simple {
			if _, ok := r.annotations[a.name]; !ok || !kind.refused {
				continue
			}
			if g.off {
				r.fail(a.name, "given although %s is off, expected one of the two", Structured)
			} else {
				r.fail(a.name, "given although %s has %s, expected one of the two", Structured, kind.name)
			}
		}
	}
}

func headerSource(value string) (affinity.Source, string) {
	return affinity.Source{Header: value}, headerFault(value)
}

func querySource(value string) (affinity.Source, string) {
	control := strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f })
	if n := utf8.RuneCountInString(value); n == 0 || n > maxNameLength || control {
		return affinity.Source{}, fmt.Sprintf("the name of a query parameter, 1 to %d characters without control characters", maxNameLength)
	}
	return affinity.Source{QueryParameter: value}, ""
}

func segmentSource(value string) (affinity.Source, string) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxPathSegments || strconv.Itoa(n) != value {
		return affinity.Source{}, fmt.Sprintf("a whole number from 1 to %d", maxPathSegments)
	}
	return affinity.Source{PathSegment: n}, ""
}
