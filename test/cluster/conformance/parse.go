// Package conformance runs Knative's own conformance tests of ingresses, whole and unmodified, against Limpet's. The tests have times of
// their own, so one that fails beside others is run once more, alone. It holds tests only, and what reads their output.
package conformance

import (
	"regexp"
	"strings"
)

// A result is the outcome of one of Knative's tests.
type result struct {
	name    string
	outcome string // PASS, FAIL or SKIP
	took    string
	log     string
}

var (
	// Results of subtests of the first level are indented once, those below more often.
	outcome = regexp.MustCompile(`^    --- (PASS|FAIL|SKIP): [^/]+/(\S+) \((\S+)\)$`)
	// A line of this form says whose the following lines are.
	current = regexp.MustCompile(`^=== (?:RUN|CONT|NAME|PAUSE)\s+(\S+)$`)
)

// tailLines is how many of the last lines are kept.
const tailLines = 40

// A parser reads the verbose output of a test binary line by line. Tests run side by side, so it keeps a log for each.
type parser struct {
	logs map[string]*strings.Builder // by test as named in the output
	now  string
	tail lines
}

// line takes a line; if it is the outcome of a subtest of the first level, it returns that with the logs of it and all below it.
func (p *parser) line(text string) (result, bool) {
	p.tail.add(text)
	if m := current.FindStringSubmatch(text); m != nil {
		p.now = m[1]
		return result{}, false
	}
	m := outcome.FindStringSubmatch(text)
	if m == nil {
		p.log(p.now, text)
		return result{}, false
	}
	return result{name: m[2], outcome: m[1], took: m[3], log: p.take(m[2])}, true
}

func (p *parser) log(test, text string) {
	b := p.logs[test]
	if b == nil {
		b = &strings.Builder{}
		p.logs[test] = b
	}
	b.WriteString(text + "\n")
}

// take returns the logs of a subtest and of those below it. Knative names tests with slashes, so to "basics" belongs, for a reader who
// looks for a cause, "basics/http2" too.
func (p *parser) take(name string) string {
	var b strings.Builder
	for test, log := range p.logs {
		_, of, _ := strings.Cut(test, "/")
		if of == name || strings.HasPrefix(of, name+"/") {
			b.WriteString(log.String())
		}
	}
	return b.String()
}

// lines are the last lines of a text.
type lines []string

func (l *lines) add(text string) {
	*l = append(*l, text)
	if len(*l) > tailLines {
		*l = (*l)[1:]
	}
}

// String returns the lines as a text.
func (l lines) String() string { return strings.Join(l, "\n") }
