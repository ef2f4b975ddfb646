package config

import (
	"fmt"
	"slices"
	"strings"
)

// maxProblems bounds how many problems are told at once.
const maxProblems = 100

// A Problem is one thing that is wrong in a configuration.
type Problem struct {
	// File is the name of the configuration, as it was given to Load or Parse.
	File string
	// Line is counted from 1; 0 where the problem has no place in the file.
	Line int
	// Field is where in the configuration, such as services[0].revisions[1].weight; "" is the file as a whole.
	Field string
	// Reason says what was found and what was expected.
	Reason string
}

// Error returns, for example,
//
//	limpet.yaml:12: services[0].revisions[1].weight: got "x", expected a number from 0 to 1000000
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Field != "" {
		b.WriteString(": " + p.Field)
	}
	b.WriteString(": " + p.Reason)
	return b.String()
}

// Problems are all that is wrong in a configuration, in the order of its lines; at most a hundred.
type Problems []*Problem

// Error returns the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// err returns ps as an error, in order of lines, or nil if there are none.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(p, q *Problem) int { return p.Line - q.Line })
	return ps
}

// A position is a place in a configuration. It is a list from the inside out, so that walking costs nothing and only a problem
// makes text of it. The nil position is the whole file.
type position struct {
	outer *position
	name  string // of a field, or "" for an element
	index int
}

func (p *position) field(name string) *position { return &position{outer: p, name: name} }
func (p *position) element(i int) *position     { return &position{outer: p, index: i} }

// String returns, for example, services[0].revisions[1].weight.
func (p *position) String() string {
	switch {
	case p == nil:
		return ""
	case p.name == "":
		return fmt.Sprintf("%s[%d]", p.outer, p.index)
	case p.outer == nil:
		return p.name
	}
	return p.outer.String() + "." + p.name
}
