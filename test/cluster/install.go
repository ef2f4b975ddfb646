package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster/activator"
	"github.com/limpet-project/limpet/test/cluster/image"
	"github.com/limpet-project/limpet/test/cluster/ingress"
	"github.com/limpet-project/limpet/test/cluster/kube"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// IngressPackage is the main package of the ingress.
const IngressPackage = "./knative/cmd/limpet-knative-ingress"

// ActivatorPackage is the main package of the activator.
const ActivatorPackage = "./knative/cmd/limpet-activator"

// limpetPackage is the command line, which makes the keys.
const limpetPackage = "./cmd/limpet"

// ingressSource makes what an installation of the ingress needs, and the images, which are not loaded.
func (a *Artifacts) ingressSource(ctx context.Context) (ingress.Source, []image.Image, error) {
	made, err := a.Image(ctx, IngressPackage)
	if err != nil {
		return ingress.Source{}, nil, err
	}
	source, redis, err := a.storeSource(ctx)
	source.Image = made.Reference
	return source, []image.Image{made, redis}, err
}

// storeSource makes what an installation with a store needs, and the image of Redis, which is not loaded.
func (a *Artifacts) storeSource(ctx context.Context) (ingress.Source, image.Image, error) {
	redis, err := a.Redis()
	if err != nil {
		return ingress.Source{}, redis, err
	}
	limpet, err := a.Program(ctx, limpetPackage)
	return ingress.Source{Manifests: filepath.Join(a.root, "deploy"), RedisImage: redis.Reference, Limpet: limpet}, redis, err
}

// activatorSource makes what an installation of the activator needs, and the images, which are not loaded.
func (a *Artifacts) activatorSource(ctx context.Context) (activator.Source, []image.Image, error) {
	made, err := a.Image(ctx, ActivatorPackage)
	if err != nil {
		return activator.Source{}, nil, err
	}
	source, redis, err := a.storeSource(ctx)
	return activator.Source{Source: source, Activator: made.Reference}, []image.Image{made, redis}, err
}

// InstallActivator puts Limpet's activator, or again Serving's, in its place for this test and those after it, and returns when it is
// ready. The binary's [Needs] name the activator.
func (e *Env) InstallActivator(o activator.Options) {
	e.t.Helper()
	source := e.activatorSource()
	e.t.Cleanup(func() { e.reportPods(activator.Namespace, activator.Deployment) })
	if err := activator.Install(e.t.Context(), e.Client, source, o); err != nil {
		e.t.Fatalf("installing the activator: %v", err)
	}
}

// InstallIngress installs the ingress for this test and those after it, or changes what is installed, and returns when it is ready
// and its address takes connections. The binary's [Needs] name the ingress.
func (e *Env) InstallIngress(o ingress.Options) {
	e.t.Helper()
	source, images, err := e.artifacts.ingressSource(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, i := range images {
		e.Load(i)
	}
	e.t.Cleanup(func() { e.reportPods(ingress.Namespace, "") })
	if err := ingress.Install(e.t.Context(), e.Client, source, o); err != nil {
		e.t.Fatalf("installing the ingress: %v", err)
	}
	address := net.JoinHostPort(e.IngressAddress(), "80")
	e.WaitFor(2*time.Minute, "the cluster's proxy to lead to the ingress", func(ctx context.Context) error {
		d := net.Dialer{Timeout: 5 * time.Second}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// activatorSource makes what an installation of the activator needs and loads the images.
func (e *Env) activatorSource() activator.Source {
	e.t.Helper()
	source, images, err := e.artifacts.activatorSource(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, i := range images {
		e.Load(i)
	}
	return source
}

// InstallActivatorBeside makes another Deployment of activators for this test, beside the one that Serving uses.
func (e *Env) InstallActivatorBeside(name string, o activator.Options) {
	e.t.Helper()
	source := e.activatorSource()
	e.t.Cleanup(func() {
		e.reportPods(activator.Namespace, name)
		if err := activator.RemoveBeside(context.WithoutCancel(e.t.Context()), e.Client, name); err != nil {
			e.t.Error(err)
		}
	})
	if err := activator.InstallBeside(e.t.Context(), e.Client, source, name, o); err != nil {
		e.t.Fatalf("installing %s: %v", name, err)
	}
}

// reportPods shows what the pods of a deployment logged if the test failed, those of all of a namespace without a name.
func (e *Env) reportPods(namespace, app string) {
	if !e.t.Failed() {
		return
	}
	ctx, selector := context.WithoutCancel(e.t.Context()), metav1.ListOptions{}
	if app != "" {
		selector.LabelSelector = "app=" + app
	}
	in := e.In(namespace)
	pods, err := in.CoreV1().Pods(namespace).List(ctx, selector)
	if err != nil {
		e.t.Logf("listing the pods of %s: %v", namespace, err)
		return
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		text, err := in.PodLog(ctx, p.Name, p.Spec.Containers[0].Name)
		if err != nil {
			text = err.Error()
		}
		e.t.Logf("%s\n%s", kube.Describe(p), indent(lastBytes(text, 2*tailBytes)))
	}
}

// IngressAddress returns the cluster's address of the ingress' Service for requests from outside. Kubernetes gives each connection to
// one of the replicas.
func (e *Env) IngressAddress() string {
	e.t.Helper()
	return e.ServiceAddress(ingress.Namespace, ingress.Service)
}

// ServiceAddress returns the cluster's address of a Service.
func (e *Env) ServiceAddress(namespace, name string) string {
	e.t.Helper()
	s, err := e.CoreV1().Services(namespace).Get(e.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return s.Spec.ClusterIP
}

// LoadIngress makes what an installation of the ingress needs and loads its images into the node of a running cluster, from outside.
// The result is for [InstallIngress].
func LoadIngress(ctx context.Context, s slot.Slot, progress io.Writer) (ingress.Source, error) {
	a, err := NewArtifacts()
	if err != nil {
		return ingress.Source{}, err
	}
	fmt.Fprintln(progress, "  building the ingress")
	source, images, err := a.ingressSource(ctx)
	if err != nil {
		return source, err
	}
	return source, Load(ctx, s, images...)
}

// InstallIngress installs the ingress in the cluster that this process runs inside of.
func InstallIngress(ctx context.Context, source ingress.Source, o ingress.Options) error {
	c, err := kube.Connect(os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	return ingress.Install(ctx, c, source, o)
}
