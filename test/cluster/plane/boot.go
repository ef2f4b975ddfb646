package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/limpet-project/limpet/test/cluster/build"
	"github.com/limpet-project/limpet/test/cluster/image"
	"github.com/limpet-project/limpet/test/cluster/kube"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
)

const (
	socket = "/run/containerd/containerd.sock"
	// patience is how long each step of the start may take on a slow or busy machine.
	patience = 3 * time.Minute
)

// A booter starts the components in order.
type booter struct {
	scope
	v    *sandbox.Supervisor
	kube *kube.Client
}

// Boot starts the tier that the sandbox was made for. The sandbox calls it inside.
func Boot(ctx context.Context, v *sandbox.Supervisor) error {
	b := &booter{v: v, scope: scope{Slot: v.Spec().Slot, Node: sandbox.NodeName}}
	if err := json.Unmarshal(v.Spec().Boot, &b.Config); err != nil {
		return fmt.Errorf("reading what to boot: %w", err)
	}
	if err := b.configure(); err != nil {
		return err
	}
	var err error
	if b.kube, err = kube.Connect(b.kubeconfig("admin")); err != nil {
		return err
	}
	imported := make(chan error, 1)
	if err := b.control(ctx, imported); err != nil {
		return err
	}
	if b.Tier >= Node {
		if err := b.node(ctx, imported); err != nil {
			return err
		}
	}
	if b.Tier >= Knative {
		return b.knative(ctx)
	}
	return nil
}

// run starts components in order.
func (b *booter) run(names ...string) error {
	for _, n := range names {
		if err := b.v.Run(n, b.command(n)...); err != nil {
			return err
		}
	}
	return nil
}

// until waits, and gives up when a component ends.
func (b *booter) until(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := kube.Until(ctx, patience, what, func(ctx context.Context) error {
		if err := b.v.Ended(); err != nil {
			cancel(err)
			return err
		}
		return check(ctx)
	})
	if err != nil && context.Cause(ctx) != nil {
		return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
	}
	if err == nil {
		b.v.Step("%s", what)
	}
	return err
}

// control starts the control plane. The controller manager gives up if the first roles are not there yet, so it waits. For a node,
// containerd starts early, and the images' import, whose end is sent to imported.
func (b *booter) control(ctx context.Context, imported chan<- error) error {
	if err := b.run(Etcd, APIServer); err != nil {
		return err
	}
	if b.Tier >= Node {
		if err := b.run(Containerd); err != nil {
			return err
		}
		go func() { imported <- b.load(ctx) }() // received by node; a failed start ends the process
	}
	if err := b.until(ctx, "API server ready", b.kube.Ready); err != nil {
		return err
	}
	return b.run(ControllerManager, Scheduler)
}

func (b *booter) node(ctx context.Context, imported <-chan error) error {
	if err := b.until(ctx, "containerd ready", answers); err != nil { // the kubelet ends where it finds none
		return err
	}
	if err := b.run(Kubelet, Proxy); err != nil {
		return err
	}
	if err := b.v.RunRole(Registry); err != nil {
		return err
	}
	if err := b.applyFile(ctx, b.Slot.State("coredns.yaml")); err != nil {
		return err
	}
	if b.Tier >= Knative {
		if err := b.applyFile(ctx, filepath.Join(b.Manifests, build.StageTypes)); err != nil {
			return err
		}
		b.v.Step("Knative's types applied")
	}
	if err := <-imported; err != nil {
		return err
	}
	b.v.Step("images imported")
	if err := b.until(ctx, "node ready", func(ctx context.Context) error { return b.kube.NodeReady(ctx, b.Node) }); err != nil {
		return err
	}
	if b.Tier >= Knative {
		return nil // the name server is waited for together with Knative
	}
	return b.until(ctx, "name server ready", b.available("kube-system", "coredns"))
}

func (b *booter) available(namespace, name string) func(context.Context) error {
	return func(ctx context.Context) error { return b.kube.Available(ctx, namespace, name) }
}

func (b *booter) applyFile(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a manifest: %w", err)
	}
	return b.kube.Apply(ctx, "default", text)
}

// load imports the images that the node begins with.
func (b *booter) load(ctx context.Context) error {
	if err := kube.Until(ctx, patience, "containerd", answers); err != nil {
		return err
	}
	return Import(ctx, append(b.Images, b.Later...)...)
}

// answers returns nil if containerd takes connections.
func answers(context.Context) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	return c.Close()
}

// Import loads images into the node's containerd. It runs inside.
func Import(ctx context.Context, images ...image.Image) error {
	for _, i := range images {
		out, err := exec.CommandContext(ctx, "ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--local", i.Archive).CombinedOutput()
		if err != nil {
			return fmt.Errorf("importing %s: %w: %s", i.Reference, err, out)
		}
	}
	return nil
}

// ServeRegistry serves images from memory until the process is killed. It is a role of this executable.
func ServeRegistry(spec sandbox.Spec) error {
	server := &http.Server{Addr: spec.Slot.Registry(), Handler: registry.New(), ReadHeaderTimeout: 10 * time.Second}
	return fmt.Errorf("serving images: %w", server.ListenAndServe())
}

// knative installs Knative Serving. Objects that its webhook must admit come after the webhook.
func (b *booter) knative(ctx context.Context) error {
	established := func(ctx context.Context) error {
		return b.kube.Discovery().RESTClient().Get().AbsPath("/apis/serving.knative.dev/v1").Do(ctx).Error()
	}
	if err := b.until(ctx, "Knative's types served", established); err != nil {
		return err
	}
	for _, stage := range []string{build.StageCore, build.StageRun} {
		if err := b.applyFile(ctx, filepath.Join(b.Manifests, stage)); err != nil {
			return err
		}
	}
	b.v.Step("Knative applied")
	for _, d := range [][2]string{
		{"kube-system", "coredns"},
		{"knative-serving", "webhook"},
		{"knative-serving", "controller"},
		{"knative-serving", "autoscaler"},
		{"knative-serving", "activator"},
	} {
		if err := b.until(ctx, d[1]+" ready", b.available(d[0], d[1])); err != nil {
			return err
		}
	}
	return b.until(ctx, "Knative's own objects admitted", func(ctx context.Context) error {
		return errors.Join(b.applyFile(ctx, filepath.Join(b.Manifests, build.StageAfter)))
	})
}
