package main

import (
	"testing"

	"knative.dev/pkg/observability/resource"
	"knative.dev/pkg/system"
)

// Serving panics at the start where the conventions of its OpenTelemetry are other ones than those of the SDK that this program is built with:
// go.mod keeps the version that Serving has.
func TestTheVersionsOfOpenTelemetryFitEachOther(t *testing.T) {
	t.Setenv(system.NamespaceEnvKey, "knative-serving")
	if r := resource.Default(component); r.Len() == 0 {
		t.Error("resource.Default() is empty")
	}
}
