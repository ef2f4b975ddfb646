package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/demo"
)

// A show runs steps one after the other and prints each: commands, output, what was expected, and whether it was so.
type show struct {
	t       *testing.T
	e       *cluster.Env
	address string // of the ingress
	host    string // of the Service

	template map[string]string // annotations of revisions

	number  int
	differs []string
}

// A step is one thing that is shown.
type step struct {
	*show
	title string
	bad   error
}

// step prints a heading, runs a step and says whether what it expected was so. Later steps run all the same.
func (s *show) step(title string, run func(st *step)) {
	s.number++
	began := time.Now()
	fmt.Printf("\n== %d. %s\n", s.number, title)
	st := &step{show: s, title: title}
	run(st)
	took := time.Since(began).Round(100 * time.Millisecond)
	if st.bad == nil {
		fmt.Printf("ok (%v)\n", took)
		return
	}
	fmt.Printf("differs (%v): %v\n", took, st.bad)
	s.differs = append(s.differs, fmt.Sprintf("%d. %s: %v", s.number, title, st.bad))
	s.t.Errorf("step %d, %s: %v", s.number, title, st.bad)
}

// say prints a remark.
func (s *show) say(format string, args ...any) { fmt.Printf("# "+format+"\n", args...) }

// fail keeps the first thing that differs.
func (st *step) fail(err error) {
	if st.bad == nil {
		st.bad = err
	}
}

// expect says what is expected and notes whether it is so.
func (st *step) expect(what string, err error) {
	fmt.Printf("expected: %s\n", what)
	st.fail(err)
}

// kubectl shows a command, runs it and shows its output.
func (st *step) kubectl(args ...string) {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if strings.ContainsAny(a, " {}'\"\n") {
			quoted[i] = "'" + a + "'"
		}
	}
	fmt.Printf("$ kubectl %s\n", strings.Join(quoted, " "))
	where := []string{"-n", st.e.Namespace, "--kubeconfig", st.e.Kubeconfig()}
	cmd := exec.CommandContext(st.t.Context(), "kubectl", append(where, args...)...)
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "Warning: Kubernetes default value is insecure") { // Knative's, at each change of a Service
			fmt.Print(line)
		}
	}
	if err != nil {
		st.fail(fmt.Errorf("kubectl %s: %w", args[0], err))
	}
}

// apply shows a manifest and applies it.
func (st *step) apply(manifest string) {
	fmt.Printf("$ kubectl apply -f - <<'EOF'\n%sEOF\n", manifest)
	if err := st.e.Client.Apply(st.t.Context(), st.e.Namespace, []byte(manifest)); err != nil {
		st.fail(err)
	}
}

// ready waits until the Service and all that belongs to it is ready, which includes that the ingress serves it.
func (st *step) ready() {
	fmt.Printf("$ kubectl wait ksvc %s --for=condition=Ready\n", service)
	st.e.WaitForCondition("serving.knative.dev/v1/Service", service, "Ready", 3*time.Minute)
}

// client returns a client that makes a connection for each request, so that both replicas of the ingress are asked.
func (s *show) client() *demo.Client {
	return &demo.Client{Address: s.address, Host: s.host}
}

// ask shows a request, sends it n times and shows the answers.
func (st *step) ask(n int, r demo.Request) []demo.Answer {
	fmt.Printf("$ for i in $(seq %d); do %s; done\n", n, r.Curl(st.address, st.host))
	answers, err := st.client().Series(st.t.Context(), n, r)
	printAnswers(answers)
	if err != nil {
		st.fail(err)
	}
	return answers
}

// shownLines is how many answers of a series are shown.
const shownLines = 12

func printAnswers(answers []demo.Answer) {
	for i, a := range answers {
		if i == shownLines-1 && len(answers) > shownLines {
			fmt.Printf("… %d more\n", len(answers)-i)
			return
		}
		fmt.Print(a.Body)
	}
}

// settled asks again until the answers are as expected, and shows the last time: a change reaches the ingress a moment after it is
// made.
func (st *step) settled(n int, r demo.Request, what string, check func([]demo.Answer) error) []demo.Answer {
	fmt.Printf("$ for i in $(seq %d); do %s; done\n", n, r.Curl(st.address, st.host))
	deadline := time.Now().Add(settle)
	for {
		answers, err := st.client().Series(st.t.Context(), n, r)
		if err == nil {
			err = check(answers)
		}
		if err == nil || time.Now().After(deadline) {
			printAnswers(answers)
			st.expect(what, err)
			return answers
		}
		pause(st.t.Context(), 200*time.Millisecond)
	}
}

// settle is how long a change may take to reach every replica of the ingress on a busy machine.
const settle = time.Minute

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// onePod returns nil if one pod gave all answers and counted each.
func onePod(answers []demo.Answer) error {
	if pods := demo.Pods(answers); len(pods) != 1 {
		return fmt.Errorf("%d pods answered: %v", len(pods), pods)
	}
	for i, a := range answers {
		if want := answers[0].Count + i; a.Count != want {
			return fmt.Errorf("answer %d has count %d, want %d", i+1, a.Count, want)
		}
	}
	return nil
}

// severalPods returns nil if more than one pod answered, so that none saw all requests.
func severalPods(answers []demo.Answer) error {
	if pods := demo.Pods(answers); len(pods) < 2 {
		return errors.New("one pod answered all")
	}
	return nil
}

// oneRevision returns nil if one revision gave all answers.
func oneRevision(answers []demo.Answer) error {
	if revisions := demo.Revisions(answers); len(revisions) != 1 {
		return fmt.Errorf("%d revisions answered: %v", len(revisions), revisions)
	}
	return nil
}
