// Package policytest has the table of what annotations mean, for tests.
//
// annotations.yaml says how it is written. This package's callers hold it against the ingress and against the admission policy of
// deploy/; test/cluster/admission, which is a module of its own, reads the same file.
//
// Start with [Scenarios].
package policytest

import (
	_ "embed" // the table
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

//go:embed annotations.yaml
var table []byte

// A Scenario is what some annotations mean. Exactly one of Want and Wrong is given.
type Scenario struct {
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations"`
	// Want is the policy as YAML without its defaults, or off.
	Want string `json:"want"`
	// Wrong is a part of what is said about them.
	Wrong string `json:"wrong"`
	// Unseen says that the API server admits them although they are wrong.
	Unseen bool `json:"unseen"`
}

// Scenarios returns the table.
func Scenarios(t testing.TB) []Scenario {
	t.Helper()
	var all []Scenario
	if err := yaml.UnmarshalStrict(table, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		s := &all[i]
		if (s.Want == "") == (s.Wrong == "") {
			t.Fatalf("%s: want exactly one of want and wrong", s.Name)
		}
		for name, value := range s.Annotations {
			s.Annotations[name] = long(value)
		}
		s.Want = strings.ReplaceAll(s.Want, "@256", long("@256"))
	}
	return all
}

// long returns what a value stands for: "@256" for so many letters, "@policy 256" for a policy of so many bytes.
func long(value string) string {
	count, policy := strings.CutPrefix(value, "@policy ")
	n, err := strconv.Atoi(strings.TrimPrefix(count, "@"))
	switch {
	case err != nil || !strings.HasPrefix(value, "@"):
		return value
	case policy:
		return "{} # " + strings.Repeat("x", n-len("{} # "))
	}
	return strings.Repeat("x", n)
}
