package serving

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/activator"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

func TestMain(m *testing.M) {
	needs := cluster.Needs{Tier: cluster.Knative, Images: imagePackages(), Ingress: true, Activator: true}
	for _, s := range suites() {
		needs.Tests = append(needs.Tests, s.pkg())
	}
	os.Exit(cluster.MainWith(m, needs))
}

// TestServing runs Serving's tests with one activator after the other and shows each of them as one of ours.
func TestServing(t *testing.T) {
	chosen, err := selectionFromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	which, err := activatorsFromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	prepare(t)
	all := table{}
	for _, name := range which {
		t.Run(name, func(t *testing.T) {
			e := cluster.Start(t, cluster.Knative)
			e.InstallActivator(activators[name])
			for _, s := range suites() {
				t.Run(s.name, func(t *testing.T) { runSuite(t, e, s, chosen, all.of(name)) })
			}
		})
	}
	t.Logf("\n%s", all)
}

// activators are how each is installed. Serving's tests of availability want two.
var activators = map[string]activator.Options{
	stock: {Replicas: 2, Stock: true},
	ours:  {Replicas: 2, Redis: true},
}

// namespace is where Serving's tests have most of their Services.
const namespace = "serving-tests"

// prepare installs the ingress and what Serving's tests expect of a cluster.
func prepare(t *testing.T) {
	t.Helper()
	e := cluster.Start(t, cluster.Knative)
	e.InstallIngress(ingress.Options{Replicas: 1})
	for name, data := range configuration {
		if err := ingress.SetKnative(t.Context(), e.Client, name, data); err != nil {
			t.Fatal(err)
		}
	}
	applyConfig(t, e)
	for _, pkg := range imagePackages() {
		if err := push(t.Context(), e.Registry(), pkg, e.ImageArchive(pkg)); err != nil {
			t.Fatal(err)
		}
	}
}

// configuration is what Serving's own runs have, by ConfigMap. Images that cannot be pulled are given up in time; scaling takes the time
// that it does by default, on which the tests' own times depend, and not the little that the test cluster gives it.
var configuration = map[string]map[string]any{
	"config-deployment": {"progress-deadline": "120s"},
	"config-autoscaler": {
		"stable-window": nil, "scale-to-zero-grace-period": nil, "scale-to-zero-pod-retention-period": nil,
	},
}

// applyConfig applies the namespaces and objects that Serving has for its tests.
func applyConfig(t *testing.T, e *cluster.Env) {
	t.Helper()
	config := filepath.Join(e.KnativeModule("knative.dev/serving"), "test", "config")
	for _, file := range []string{"cluster-resources.yaml", "test-resources.yaml", "resource-quota/resource-quota.yaml"} {
		text, err := os.ReadFile(filepath.Join(config, file))
		if err != nil {
			t.Fatal(err)
		}
		e.Apply(string(text))
	}
	e.WaitFor(3*time.Minute, "the service account of "+namespace, func(ctx context.Context) error {
		_, err := e.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// runSuite runs the chosen tests of a suite, those that failed once more and alone, and shows and keeps the results.
func runSuite(t *testing.T, e *cluster.Env, s suite, chosen selection, results map[string]result) {
	tests := testsOf(t, e, s, chosen)
	if len(tests) == 0 {
		t.Skip("no test of this suite is chosen")
	}
	began := time.Now()
	if failed := attempt(t, e, s, tests, s.parallel, results); len(failed) > 0 {
		attempt(t, e, s, failed, 1, results)
	}
	t.Logf("%d tests in %.0fs", len(tests), time.Since(began).Seconds())
	for _, test := range tests {
		t.Run(test, func(t *testing.T) { judge(t, s, results[s.name+"/"+test]) })
	}
}

func testsOf(t *testing.T, e *cluster.Env, s suite, chosen selection) []string {
	t.Helper()
	all, err := list(t.Context(), e.TestBinary(s.pkg()))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := chosen.of(s, all)
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

// attempt runs tests, keeps their results and returns those that failed for a reason that is not known.
func attempt(t *testing.T, e *cluster.Env, s suite, tests []string, parallel int, results map[string]result) []string {
	t.Helper()
	earlier := maps.Clone(results)
	for _, test := range tests {
		results[s.name+"/"+test] = result{test: test}
	}
	err := run(t.Context(), e, s, tests, parallel, func(r result) {
		name := s.name + "/" + r.test
		if old, again := earlier[name]; again {
			r.again, r.log = true, old.log+"\nonce more, alone:\n"+r.log
		}
		results[name] = r
		t.Logf("%s %s in %.1fs", r.outcome, name, r.took.Seconds())
	})
	if err != nil {
		t.Log(err) // what it means is that tests have no outcome
	}
	return slices.DeleteFunc(slices.Clone(tests), func(test string) bool {
		return results[s.name+"/"+test].good() || known[s.name+"/"+test] != ""
	})
}

// judge shows a result as a test.
func judge(t *testing.T, s suite, r result) {
	reason := known[s.name+"/"+r.test]
	switch {
	case r.outcome == skipped:
		t.Skip(strings.TrimSpace(r.log))
	case r.good() && reason != "":
		t.Logf("it passes, though: %s", reason)
	case reason != "":
		t.Skipf("it fails with Serving's activator too: %s\n%s", reason, r.log)
	case r.outcome == "":
		t.Errorf("it has not ended, or was never begun:\n%s", r.log)
	case r.good() && r.again:
		t.Logf("%s only once more and alone:\n%s", r.outcome, r.log)
	case !r.good():
		t.Errorf("%s after %.1fs:\n%s", r.outcome, r.took.Seconds(), r.log)
	}
}

// activatorsFromEnvironment reads LIMPET_SERVING.
func activatorsFromEnvironment() ([]string, error) {
	switch which := os.Getenv("LIMPET_SERVING"); {
	case which == stock, which == ours:
		return []string{which}, nil
	case which == "both", which == "" && os.Getenv("LIMPET_LONG") != "":
		return []string{stock, ours}, nil
	case which == "":
		return []string{ours}, nil
	default:
		return nil, fmt.Errorf("LIMPET_SERVING=%s: want stock, limpet or both", which)
	}
}
