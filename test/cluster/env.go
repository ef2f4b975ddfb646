package cluster

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/limpet-project/limpet/test/cluster/image"
	"github.com/limpet-project/limpet/test/cluster/kube"
	"github.com/limpet-project/limpet/test/cluster/plane"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// An Env is a test's part of the cluster: a Kubernetes namespace of its own and all that acts on it. Its methods fail the test with a
// reason. They may be called by the test's goroutine only, the clients by any.
type Env struct {
	*kube.Client
	// Namespace is the test's own. It is deleted after the test.
	Namespace string

	t         testing.TB
	slot      slot.Slot
	config    plane.Config
	control   *sandbox.Control
	logStart  map[string]int64 // sizes of the components' logs when the test began
	artifacts *Artifacts
}

// Start gives a test its part of the cluster that [Main] started. The test fails if that is not of at least the tier.
func Start(t testing.TB, tier Tier) *Env {
	t.Helper()
	number, err := strconv.Atoi(os.Getenv(insideVariable))
	if err != nil {
		t.Fatal("cluster.Start: this test binary runs in no cluster; its TestMain must call cluster.Main")
	}
	s, err := slot.New(os.Getenv("LIMPET_CLUSTER"), number)
	if err != nil {
		t.Fatal(err)
	}
	e := &Env{t: t, slot: s, control: sandbox.NewControl(s)}
	if e.config, err = plane.ReadConfig(s); err != nil {
		t.Fatal(err)
	}
	if e.config.Tier < tier {
		t.Fatalf("cluster.Start: the cluster is of tier %s, the test needs %s", e.config.Tier, tier)
	}
	if e.Client, err = kube.Connect(s.State("admin.conf")); err != nil {
		t.Fatal(err)
	}
	if e.artifacts, err = NewArtifacts(); err != nil {
		t.Fatal(err)
	}
	e.logStart = e.logSizes()
	e.makeNamespace()
	return e
}

// makeNamespace waits for the service account too, without which no pod is admitted.
func (e *Env) makeNamespace() {
	e.t.Helper()
	ctx := e.t.Context()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: namespacePrefix(e.t.Name())}}
	made, err := e.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if err != nil {
		e.t.Fatalf("making the test's namespace: %v", err)
	}
	e.Namespace = made.Name
	e.t.Cleanup(e.end)
	e.WaitFor(3*time.Minute, "the namespace's service account", func(ctx context.Context) error {
		_, err := e.CoreV1().ServiceAccounts(e.Namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// end reports on a failed test and deletes its namespace. The deletion is not waited for.
func (e *Env) end() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.t.Context()), 2*time.Minute)
	defer cancel()
	if e.t.Failed() {
		e.report(ctx)
	}
	if err := e.CoreV1().Namespaces().Delete(ctx, e.Namespace, metav1.DeleteOptions{}); err != nil {
		e.t.Errorf("deleting the test's namespace: %v", err)
	}
}

// namespacePrefix makes a name of a test's name: lower case, letters and digits, short enough for what Knative appends.
func namespacePrefix(test string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimPrefix(test, "Test")) {
		if ('a' <= r && r <= 'z') || ('0' <= r && r <= '9') {
			b.WriteRune(r)
		}
	}
	name := b.String()
	return "t-" + name[:min(len(name), 20)] + "-"
}

// In returns an Env of the same test that acts in another namespace, which is there already and stays.
func (e *Env) In(namespace string) *Env {
	other := *e
	other.Namespace = namespace
	return &other
}

// Node returns the address of the node, at which processes that the test starts can listen for pods.
func (e *Env) Node() string { return e.slot.Node() }

// Registry returns host and port of the image registry.
func (e *Env) Registry() string { return e.slot.Registry() }

// Apply makes the objects of a manifest what it says, in the test's namespace where none is given. They are not waited for.
func (e *Env) Apply(manifest string) {
	e.t.Helper()
	if err := e.Client.Apply(e.t.Context(), e.Namespace, []byte(manifest)); err != nil {
		e.t.Fatal(err)
	}
}

// WaitFor waits until check returns nil. When the time is over the test fails with check's last error, which is to say what is
// missing in words that people understand.
func (e *Env) WaitFor(limit time.Duration, what string, check func(ctx context.Context) error) {
	e.t.Helper()
	if err := kube.Until(e.t.Context(), limit, what, check); err != nil {
		e.t.Fatal(err)
	}
}

// WaitForDeployment waits until all replicas of a deployment are ready.
func (e *Env) WaitForDeployment(name string, limit time.Duration) {
	e.t.Helper()
	e.WaitFor(limit, "deployment "+name, func(ctx context.Context) error { return e.Available(ctx, e.Namespace, name) })
}

// Object returns an object of any kind in the test's namespace; kind is like "serving.knative.dev/v1/Service".
func (e *Env) Object(ctx context.Context, kind, name string) (*unstructured.Unstructured, error) {
	i := strings.LastIndexByte(kind, '/')
	if i < 0 {
		return nil, errors.New("kind " + kind + ": want GROUP/VERSION/KIND")
	}
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(kind[:i])
	o.SetKind(kind[i+1:])
	resource, err := e.Resource(e.Namespace, o)
	if err != nil {
		return nil, err
	}
	return resource.Get(ctx, name, metav1.GetOptions{})
}

// WaitForCondition waits until a condition of an object is true.
func (e *Env) WaitForCondition(kind, name, condition string, limit time.Duration) {
	e.t.Helper()
	e.WaitFor(limit, kind+" "+name+" "+condition, func(ctx context.Context) error {
		o, err := e.Object(ctx, kind, name)
		if err != nil {
			return err
		}
		return kube.Condition(o, condition)
	})
}

// Pods returns the pods of a label selector in the test's namespace that are not ending.
func (e *Env) Pods(ctx context.Context, selector string) ([]corev1.Pod, error) {
	list, err := e.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods, nil
}

// PodReady returns nil if a pod of the test's namespace is ready, else how it is.
func (e *Env) PodReady(ctx context.Context, name string) error {
	p, err := e.CoreV1().Pods(e.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New(kube.Describe(p))
}

// Image makes an image of a main package, as [Artifacts.Image] does, loads it into the node and returns its reference. What it
// downloads must be there already: name the package in the call of [Main].
func (e *Env) Image(pkg string) string {
	e.t.Helper()
	i := e.ImageArchive(pkg)
	e.Load(i)
	return i.Reference
}

// Load loads an image into the node.
func (e *Env) Load(i image.Image) {
	e.t.Helper()
	if err := plane.Import(e.t.Context(), i); err != nil {
		e.t.Fatal(err)
	}
}

// TestBinary returns the compiled tests of a package of Knative, which the call of [MainWith] names.
func (e *Env) TestBinary(pkg string) string {
	e.t.Helper()
	binary, err := e.artifacts.TestBinary(e.t.Context(), pkg, io.Discard)
	if err != nil {
		e.t.Fatal(err)
	}
	return binary
}

// KnativeModule returns the folder with the sources of a module of Knative, at the version that the cluster runs.
func (e *Env) KnativeModule(module string) string {
	e.t.Helper()
	dir, err := e.artifacts.cache.Module(e.t.Context(), part("knative"), module)
	if err != nil {
		e.t.Fatal(err)
	}
	return dir
}

// Program builds a main package or file of the project and returns the binary. The call of [MainWith] names it.
func (e *Env) Program(pkg string) string {
	e.t.Helper()
	binary, err := e.artifacts.Program(e.t.Context(), pkg)
	if err != nil {
		e.t.Fatal(err)
	}
	return binary
}

// Kubeconfig returns the path of the administrator's kubeconfig.
func (e *Env) Kubeconfig() string { return e.slot.State("admin.conf") }

// ImageArchive makes an image like Image, and does not load it.
func (e *Env) ImageArchive(pkg string) image.Image {
	e.t.Helper()
	i, err := e.artifacts.Image(e.t.Context(), pkg)
	if err != nil {
		e.t.Fatal(err)
	}
	return i
}
