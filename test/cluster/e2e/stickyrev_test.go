package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster/ingress"
)

// imageLine is the line of the example's manifests that its reader changes.
var imageLine = regexp.MustCompile(`(?m)(image: ).*$`)

func TestTheClientOfStickyrevStaysOnTheRevisionOfItsFirstRequest(t *testing.T) {
	w := start(t)
	w.setKnative("config-features", "tag-header-based-routing", "enabled")
	image := w.Image(stickyrev)
	for _, file := range []string{"rev1.yaml", "rev2.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "..", "examples", "stickyrev", file))
		if err != nil {
			t.Fatal(err)
		}
		w.Apply(imageLine.ReplaceAllString(string(text), "${1}"+image))
		w.WaitForCondition(serviceKind, "demo", "Ready", 3*time.Minute)
	}
	firsts := map[string]int{}
	for range 24 {
		revisions := w.runStickyrev()
		firsts[revisions[0]]++
		for _, r := range revisions {
			if r != revisions[0] {
				t.Errorf("the requests of one client were processed by %v, want one revision", revisions)
				break
			}
		}
	}
	t.Logf("first requests by revision: %v", firsts)
	if len(firsts) != 2 { // a chance of 1 in 8 million
		t.Errorf("24 first requests at 50/50 were processed by %v, want two revisions", firsts)
	}
}

// runStickyrev runs the example's client and returns the revisions that it names.
func (w *world) runStickyrev() []string {
	w.t.Helper()
	host := "demo." + w.Namespace + "." + ingress.Domain
	out, err := exec.CommandContext(w.t.Context(), w.Program(stickyrev), "client", "--host", host, "http://"+w.address).CombinedOutput()
	if err != nil {
		w.t.Fatalf("stickyrev client: %v: %s", err, out)
	}
	var revisions []string
	for line := range strings.Lines(string(out)) {
		if _, revision, ok := strings.Cut(strings.TrimSpace(line), "was processed by revision "); ok {
			revisions = append(revisions, revision)
		}
	}
	if len(revisions) < 2 {
		w.t.Fatalf("stickyrev client printed %q, want a line for each of two requests", out)
	}
	return revisions
}

// setKnative sets a key of Knative's configuration for the test.
func (w *world) setKnative(configMap, key, value string) {
	w.t.Helper()
	if err := ingress.SetKnative(w.t.Context(), w.Client, configMap, map[string]any{key: value}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := undoing(w.t)
		defer cancel()
		if err := ingress.SetKnative(ctx, w.Client, configMap, map[string]any{key: nil}); err != nil {
			w.t.Error(fmt.Errorf("undoing %s of %s: %w", key, configMap, err))
		}
	})
}
