package serving

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestASelectionChoosesTestsOfASuite(t *testing.T) {
	ha := suite{name: "ha", quick: []string{"ActivatorHAGraceful"}, left: map[string]string{"TestControllerHA": "it has one replica"}}
	all := []string{"TestActivatorHAGraceful", "TestActivatorHANonGraceful", "TestControllerHA"}
	for _, test := range []struct {
		name   string
		chosen selection
		want   []string
	}{
		{name: "the quick ones", want: all[:1]},
		{name: "all but those that are left out", chosen: selection{long: true}, want: all[:2]},
		{name: "those that a pattern names", chosen: selection{only: regexp.MustCompile("^ha/.*Non")}, want: all[1:2]},
		{name: "none of another suite", chosen: selection{long: true, only: regexp.MustCompile("^e2e/")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.chosen.of(ha, all)
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("of() (-want +got), %v:\n%s", err, diff)
			}
		})
	}
}

func TestAQuickTestThatIsGoneIsAnError(t *testing.T) {
	s := suite{name: "e2e", quick: []string{"ActivatorOverload"}}
	if got, err := (selection{}).of(s, []string{"TestHelloWorld"}); err == nil || !strings.Contains(err.Error(), "TestActivatorOverload") {
		t.Errorf("of() = %v, %v, want an error that names the test", got, err)
	}
}

func TestATableHasALineForEachTest(t *testing.T) {
	all := table{}
	all.of(stock)["ha/TestActivatorHAGraceful"] = result{outcome: success, took: 30e9}
	all.of(ours)["ha/TestActivatorHAGraceful"] = result{outcome: success, took: 31e9, again: true}
	all.of(ours)["e2e/TestActivatorOverload"] = result{outcome: failure, took: 4e9}
	all.of(ours)["ha/TestWorkloadHA"] = result{}
	want := []string{
		"TEST STOCK LIMPET",
		"e2e/TestActivatorOverload - FAIL 4s",
		"ha/TestActivatorHAGraceful PASS 30s PASS* 31s",
		"ha/TestWorkloadHA - NONE",
	}
	var got []string
	for line := range strings.Lines(all.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("String() (-want +got):\n%s", diff)
	}
}
