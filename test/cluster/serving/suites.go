package serving

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// A suite is a package of Serving's tests.
type suite struct {
	// name is that of the package below knative.dev/serving/test.
	name string
	// quick are the tests that run by default, without "Test"; all others run too if all are asked for.
	quick []string
	// left are tests that never run, with the reason.
	left map[string]string
	// parallel is how many tests run side by side. Most wait for pods most of the time.
	parallel int
	// flags are the suite's own.
	flags []string
}

func (s suite) pkg() string { return "knative.dev/serving/test/" + s.name }

// suites returns what is run, in this order. The last one ends activators.
func suites() []suite {
	return []suite{
		{
			name: "conformance/api/v1", parallel: 6,
			quick: []string{"BlueGreenRoute", "RevisionTimeout", "ServiceWithTrafficSplit", "SingleConcurrency"},
		},
		{
			name: "conformance/runtime", parallel: 6,
			quick: []string{"MustHaveHeadersSet", "ProbeRuntimeAfterStartup", "Protocols", "ShouldHaveHeadersSet"},
		},
		{
			name: "e2e", parallel: 6,
			quick: []string{
				"ActivationScale", "ActivatorOverload", "DestroyPodInflight", "DestroyPodTimely", "DestroyPodWithRequests", "FastScaleToZero",
				"GRPCLoadBalancing", "GRPCStreamingPingViaActivator", "GRPCUnaryPingViaActivator", "GradualRollout", "RevisionTimeout",
				"SvcToSvcViaActivator", "TargetBurstCapacity", "TargetBurstCapacityMinusOne", "TargetBurstCapacityZero",
				"WebSocketBlueGreenRoute", "WebSocketGracefulShutdown", "WebSocketViaActivator",
			},
			left: map[string]string{
				"TestEgressTraffic": "the cluster has no internet",
			},
		},
		{
			name: "ha", parallel: 1, flags: []string{"-spoofinterval=10ms"},
			quick: []string{"ActivatorHAGraceful", "ActivatorHANonGraceful"},
			left: map[string]string{
				"TestAutoscalerHA":               "it is of the autoscaler, of which the cluster has one",
				"TestAutoscalerHPAHANewRevision": "it is of the HPA autoscaler, which the cluster has not",
				"TestControllerHA":               "it is of the controller, of which the cluster has one",
			},
		},
	}
}

// known are tests that fail on this cluster with Serving's activator, with the reason.
var known = map[string]string{}

// A selection says which tests of a suite run.
type selection struct {
	long bool
	only *regexp.Regexp
}

// selectionFromEnvironment reads LIMPET_LONG and LIMPET_SERVING_TESTS.
func selectionFromEnvironment() (selection, error) {
	s := selection{long: os.Getenv("LIMPET_LONG") != ""}
	pattern := os.Getenv("LIMPET_SERVING_TESTS")
	if pattern == "" {
		return s, nil
	}
	only, err := regexp.Compile(pattern)
	if err != nil {
		return s, fmt.Errorf("reading LIMPET_SERVING_TESTS: %w", err)
	}
	s.only = only
	return s, nil
}

// of returns those of a suite's tests that run. A quick test that the suite does not have is an error: it may have another name since.
func (s selection) of(suite suite, all []string) ([]string, error) {
	there, quick := map[string]bool{}, map[string]bool{}
	for _, test := range all {
		there[test] = true
	}
	for _, name := range suite.quick {
		quick["Test"+name] = true
		if !there["Test"+name] {
			return nil, fmt.Errorf("%s has no Test%s", suite.pkg(), name)
		}
	}
	var chosen []string
	for _, test := range all {
		switch {
		case suite.left[test] != "":
		case s.only != nil && s.only.MatchString(suite.name+"/"+test),
			s.only == nil && (s.long || quick[test]):
			chosen = append(chosen, test)
		}
	}
	return chosen, nil
}

// pattern returns the value of -test.run for some tests.
func pattern(tests []string) string { return "^(" + strings.Join(tests, "|") + ")$" }
