package serving

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const output = `=== RUN   TestWorkloadHA
=== PAUSE TestWorkloadHA
=== RUN   TestActivatorHAGraceful
    ha.go:61: Deleting activator0 (activator-bf456dbc5-r6s4j)
=== CONT  TestWorkloadHA
=== RUN   TestWorkloadHA/activator-in-path
    prober.go:141: status = 502, want: 200
=== NAME  TestActivatorHAGraceful
    activator_test.go:150: CheckSLO failed: 0.99
--- FAIL: TestActivatorHAGraceful (30.52s)
--- PASS: TestWorkloadHA (0.00s)
    --- PASS: TestWorkloadHA/activator-in-path (4.40s)
=== RUN   TestAutoscalerHA
panic: test timed out after 1m0s
`

func TestTheOutputOfATestBinaryIsReadAsItsTests(t *testing.T) {
	var got []result
	tail, err := parse(strings.NewReader(output), func(r result) { got = append(got, r) })
	if err != nil {
		t.Fatal(err)
	}
	want := []result{
		{test: "TestActivatorHAGraceful", outcome: failure, took: 30520 * time.Millisecond},
		{test: "TestWorkloadHA", outcome: success, took: 4400 * time.Millisecond}, // of its subtest
		{test: "TestAutoscalerHA"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{}), cmpopts.IgnoreFields(result{}, "log")); diff != "" {
		t.Fatalf("parse() (-want +got):\n%s", diff)
	}
	for i, words := range [][]string{{"Deleting activator0", "CheckSLO failed"}, {"status = 502"}, {"panic"}} {
		for _, word := range words {
			if !strings.Contains(got[i].log, word) {
				t.Errorf("the log of %s is %q, want %q in it", got[i].test, got[i].log, word)
			}
		}
	}
	if !strings.HasSuffix(tail, "timed out after 1m0s") {
		t.Errorf("parse() = %q, want the last line at its end", tail)
	}
}

func TestALogKeepsItsLastLines(t *testing.T) {
	text := "=== RUN   TestSingleConcurrency\n" + strings.Repeat("    waiting\n", 2*tailLines) + "--- FAIL: TestSingleConcurrency (1.00s)\n"
	var got []result
	if _, err := parse(strings.NewReader(text), func(r result) { got = append(got, r) }); err != nil || len(got) != 1 {
		t.Fatalf("parse() = %d results, %v, want one", len(got), err)
	}
	if n := strings.Count(got[0].log, "waiting"); n != tailLines {
		t.Errorf("the log has %d lines, want %d", n, tailLines)
	}
}
