package conformance

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

const (
	tests = "knative.dev/networking/test/conformance/ingress"
	// namespace is what the tests work in.
	namespace = "serving-tests"
	// count is how many tests there are: 22 stable, 2 beta, 1 alpha. One more or less is something to look at.
	count = 25
)

// images are what the tests' pods run.
func images() []string {
	var all []string
	for _, name := range []string{"grpc-ping", "httpproxy", "retry", "runtime", "timeout", "wsserver"} {
		all = append(all, "knative.dev/networking/test/test_images/"+name)
	}
	return all
}

func TestMain(m *testing.M) {
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Knative, Images: images(), Tests: []string{tests}, Ingress: true}))
}

func TestOneReplicaConforms(t *testing.T) {
	conform(t, ingress.Options{Replicas: 1})
}

func TestTwoReplicasWithRedisConform(t *testing.T) {
	conform(t, ingress.Options{Replicas: 2, Redis: true})
}

// conform installs the ingress and shows each of Knative's tests as one of ours.
func conform(t *testing.T, o ingress.Options) {
	e := cluster.Start(t, cluster.Knative)
	e.InstallIngress(o)
	makeNamespace(t, e)
	passed := 0
	show := func(r result) {
		t.Run(r.name, func(t *testing.T) {
			switch r.outcome {
			case "PASS":
				passed++
				t.Logf("took %s", r.took)
			default: // a test that is left out proves nothing
				t.Errorf("%s after %s:\n%s", r.outcome, r.took, r.log)
			}
		})
	}
	var failed []result
	err := attempt(t.Context(), e, all, func(r result) {
		if r.outcome == "FAIL" {
			failed = append(failed, r)
			return
		}
		show(r)
	})
	if err != nil && len(failed) == 0 {
		t.Error(err)
	}
	for _, first := range failed {
		t.Logf("%s failed beside others after %s:\n%s", first.name, first.took, first.log)
		attempt(t.Context(), e, only(first.name), func(r result) { // that it failed again is in its result
			if r.name == first.name {
				show(r)
			}
		})
	}
	if passed != count {
		t.Errorf("%d of %s passed, want %d", passed, tests, count)
	}
}

// all is the pattern of all tests.
const all = "^TestIngressConformance$"

// only returns the pattern of one test. Knative names tests with slashes, which divide patterns.
func only(name string) string {
	return all + "/^" + strings.ReplaceAll(regexp.QuoteMeta(name), "/", "$/^") + "$"
}

// attempt runs the tests of a pattern and calls each for every one that ends.
func attempt(ctx context.Context, e *cluster.Env, pattern string, each func(result)) error {
	results := make(chan result)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, e, pattern, results) }()
	for r := range results {
		each(r)
	}
	return <-ended
}

func makeNamespace(t *testing.T, e *cluster.Env) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := e.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	e.WaitFor(3*time.Minute, "the service account of "+namespace, func(ctx context.Context) error {
		_, err := e.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// run runs the binary with a pattern of tests and sends results as they come.
func run(ctx context.Context, e *cluster.Env, pattern string, results chan<- result) error {
	defer close(results)
	cmd := exec.CommandContext(ctx, e.TestBinary(tests), "-test.v", "-test.run="+pattern, "-test.timeout=15m",
		"-test.parallel=8", // they wait for pods most of the time
		"-kubeconfig="+e.Kubeconfig(), "-ingressClass="+ingress.Class, "-ingressendpoint="+e.Node(), "-imagetemplate="+imageTemplate(e),
		"-enable-beta", "-enable-alpha")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running %s: %w", tests, err)
	}
	last := parse(out, results)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("running %s: %w\n%s\n%s", tests, err, last, tailOf(stderr.String()))
	}
	return nil
}

// tailOf returns the last lines of a text.
func tailOf(text string) string {
	var l lines
	for line := range strings.Lines(text) {
		l.add(strings.TrimSuffix(line, "\n"))
	}
	return l.String()
}

// imageTemplate names the images as the node has them: the tests know only their last elements.
func imageTemplate(e *cluster.Env) string {
	var b strings.Builder
	for _, pkg := range images() {
		fmt.Fprintf(&b, "{{if eq .Name %q}}%s{{end}}", path.Base(pkg), e.Image(pkg))
	}
	return b.String()
}

// parse reads what a test binary prints, sends a result for each subtest of the first level, and returns the last lines.
func parse(out io.Reader, results chan<- result) string {
	p := parser{logs: map[string]*strings.Builder{}}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if r, ok := p.line(lines.Text()); ok {
			results <- r
		}
	}
	return p.tail.String()
}
