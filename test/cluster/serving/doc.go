// Package serving runs Knative Serving's own tests, unmodified, on a test cluster: with Serving's activator and with Limpet's in its place.
//
// What Serving's activator passes here, Limpet's must pass. What neither passes is listed with the reason. The tests' Services have no
// affinity, so this is about all that an activator does beside it. The package holds tests only, and what reads their output.
//
// By default it runs the quick tests with Limpet's activator. LIMPET_LONG=1 runs all of them with both. LIMPET_SERVING=stock, limpet or
// both says with which, LIMPET_SERVING_TESTS=REGEXP which tests, by names like "ha/TestActivatorHAGraceful".
package serving
