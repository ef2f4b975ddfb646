package conformance

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheOutputOfATestBinaryIsReadAsItsSubtests(t *testing.T) {
	const out = `=== RUN   TestIngressConformance
=== RUN   TestIngressConformance/headers/probe
=== PAUSE TestIngressConformance/headers/probe
=== RUN   TestIngressConformance/basics
=== NAME  TestIngressConformance/headers/probe
    util.go:107: Using port 61
=== RUN   TestIngressConformance/headers/probe/kingress
    headers.go:12: got 404
--- FAIL: TestIngressConformance (10.10s)
    --- PASS: TestIngressConformance/basics (3.21s)
    --- FAIL: TestIngressConformance/headers/probe (4.50s)
        --- FAIL: TestIngressConformance/headers/probe/kingress (4.40s)
FAIL
`
	results := make(chan result, 10)
	tail := parse(strings.NewReader(out), results)
	close(results)
	var got []result
	for r := range results {
		r.log = strings.Join(strings.Fields(r.log), " ")
		got = append(got, r)
	}
	want := []result{{name: "basics", outcome: "PASS", took: "3.21s"}, {name: "headers/probe", outcome: "FAIL", took: "4.50s"}}
	ignoreLog := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".log" }, cmp.Ignore())
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{}), ignoreLog); diff != "" {
		t.Errorf("parse() (-want +got):\n%s", diff)
	}
	for _, line := range []string{"Using port 61", "got 404"} {
		if len(got) == 2 && !strings.Contains(got[1].log, line) {
			t.Errorf("the log of headers/probe is %q, want %q in it", got[1].log, line)
		}
	}
	if got, want := only("headers/probe"), "^TestIngressConformance$/^headers$/^probe$"; got != want {
		t.Errorf("only() = %q, want %q", got, want)
	}
	if !strings.HasSuffix(tail, "FAIL") {
		t.Errorf("parse() = %q, want the last lines", tail)
	}
}
