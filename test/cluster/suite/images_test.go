package suite

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/limpet-project/limpet/test/cluster"
)

func TestAPodRunsAnImageThatIsPushedToTheRegistry(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	local := e.ImageArchive(counter)
	img, err := tarball.ImageFromPath(local.Archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	reference := e.Registry() + "/" + strings.TrimPrefix(local.Reference, "dev.local/")
	to, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, img, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("pushing %s: %v", reference, err)
	}
	e.Apply(podOf("pushed", reference, "COUNTER_LISTEN", "0.0.0.0:8080"))
	waitForPod(t, e, "pushed")
}

func TestAPodRunsATestImageOfKnative(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	e.Apply(podOf("runtime", e.Image(runtime), "PORT", "8080"))
	waitForPod(t, e, "runtime")
}

func podOf(name, image, variable, value string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  containers:
  - name: main
    image: %s
    env: [{name: %s, value: %q}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`, name, image, variable, value)
}

func waitForPod(t *testing.T, e *cluster.Env, name string) {
	t.Helper()
	e.WaitFor(patience, "pod "+name, func(ctx context.Context) error { return e.PodReady(ctx, name) })
}
