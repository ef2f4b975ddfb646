package serving

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Outcomes of a test. One without any has not ended, or was never begun.
const (
	success = "PASS"
	failure = "FAIL"
	skipped = "SKIP"
)

// A result is the outcome of one test of a suite.
type result struct {
	test    string
	outcome string
	took    time.Duration
	log     string // of the test and all below it, the last lines
	again   bool   // it failed before, beside others
}

// good reports whether a test did what it should.
func (r result) good() bool { return r.outcome == success || r.outcome == skipped }

var (
	// Outcomes of tests begin a line. Those of its subtests follow, indented.
	outcome = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+) \(([0-9.]+s)\)$`)
	// A line of this form says whose the following lines are.
	current = regexp.MustCompile(`^=== (?:RUN|CONT|NAME|PAUSE)\s+(\S+)$`)
)

// tailLines is how many of the last lines of a log are kept.
const tailLines = 120

// A parser reads the verbose output of a test binary line by line. Tests run side by side, so it keeps a log for each.
type parser struct {
	each  func(result)
	logs  map[string]*lines // of tests that have not ended
	now   string
	ended *result // whose subtests may follow
	tail  lines
}

// parse reads what a test binary prints, calls each for every test, and returns the last lines.
func parse(out io.Reader, each func(result)) (string, error) {
	p := parser{each: each, logs: map[string]*lines{}}
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 4<<20)
	for scanner.Scan() {
		p.line(scanner.Text())
	}
	p.end()
	for test, log := range p.logs {
		if test != "" {
			each(result{test: test, log: log.String()})
		}
	}
	if err := scanner.Err(); err != nil {
		return p.tail.String(), fmt.Errorf("reading the output: %w", err)
	}
	return p.tail.String(), nil
}

// line takes a line.
func (p *parser) line(text string) {
	p.tail.add(text)
	m := outcome.FindStringSubmatch(text)
	if m != nil && m[1] != "" && p.ended != nil {
		p.below(text, m[4])
		return
	}
	p.end()
	if m != nil && m[1] == "" {
		p.ended = &result{test: m[3], outcome: m[2], took: seconds(m[4]), log: p.log(m[3]).String()}
		delete(p.logs, m[3])
		p.now = ""
		return
	}
	p.begun(text)
}

// below takes the outcome of a subtest of the test that has ended. A test that waits for subtests beside each other seems to take no time.
func (p *parser) below(text, took string) {
	p.ended.took = max(p.ended.took, seconds(took))
	if !strings.Contains(text, "--- PASS") {
		p.ended.log += "\n" + text
	}
}

// end hands over the test that has ended, now that no subtest of it follows.
func (p *parser) end() {
	if p.ended != nil {
		p.each(*p.ended)
		p.ended = nil
	}
}

// begun takes a line of a test that has not ended.
func (p *parser) begun(text string) {
	m := current.FindStringSubmatch(text)
	if m == nil {
		p.log(p.now).add(text)
		return
	}
	p.now, _, _ = strings.Cut(m[1], "/")
	if log := p.log(p.now); m[1] != p.now { // so that a reader sees which subtest says what
		log.add(text)
	}
}

// seconds reads a time that the pattern of an outcome has matched.
func seconds(text string) time.Duration {
	d, _ := time.ParseDuration(text) // cannot fail but by more digits than there are times
	return d
}

// log returns the log of a test.
func (p *parser) log(test string) *lines {
	l := p.logs[test]
	if l == nil {
		l = &lines{}
		p.logs[test] = l
	}
	return l
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
