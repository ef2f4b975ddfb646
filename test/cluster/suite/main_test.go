// Package suite tests the test cluster from inside: what a pod, Knative and each fault do.
package suite

import (
	"os"
	"testing"

	"github.com/limpet-project/limpet/test/cluster"
)

const (
	counter = "./examples/counter"
	runtime = "knative.dev/serving/test/test_images/runtime"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m, cluster.Knative, counter, runtime)) }
