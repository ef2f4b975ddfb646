package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster/kube"
)

// tailBytes is how much of each log a failed test shows.
const tailBytes = 4000

// report attaches to a failed test how its namespace is and what the components logged since it began.
func (e *Env) report(ctx context.Context) {
	var b strings.Builder
	fmt.Fprintf(&b, "state of namespace %s:\n", e.Namespace)
	pods, err := e.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		fmt.Fprintf(&b, "  listing pods: %v\n", err)
	} else {
		for i := range pods.Items {
			p := &pods.Items[i]
			fmt.Fprintf(&b, "  %s\n", kube.Describe(p))
			for _, c := range p.Spec.Containers {
				text, err := e.PodLog(ctx, p.Name, c.Name)
				if err != nil {
					text = err.Error()
				}
				fmt.Fprintf(&b, "  log of %s %s:\n%s", p.Name, c.Name, indent(lastBytes(text, tailBytes)))
			}
		}
	}
	e.events(ctx, &b)
	if components, err := e.control.Components(); err == nil {
		for _, c := range components {
			if c.Ended != "" {
				fmt.Fprintf(&b, "component %s has ended: %s\n", c.Name, c.Ended)
			}
		}
	}
	for name, from := range e.logSizes() {
		if text := e.logSince(name, e.logStart[name], from); text != "" {
			fmt.Fprintf(&b, "log of %s:\n%s", name, indent(text))
		}
	}
	e.t.Log(b.String())
}

func (e *Env) events(ctx context.Context, b *strings.Builder) {
	events, err := e.CoreV1().Events(e.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		fmt.Fprintf(b, "  listing events: %v\n", err)
		return
	}
	for _, v := range events.Items {
		if v.Type != "Normal" {
			fmt.Fprintf(b, "  event: %s %s: %s %s\n", v.InvolvedObject.Kind, v.InvolvedObject.Name, v.Reason, v.Message)
		}
	}
}

// logSizes returns the present size of each component's log.
func (e *Env) logSizes() map[string]int64 {
	sizes := map[string]int64{}
	files, err := filepath.Glob(e.slot.Log("*"))
	if err != nil {
		return nil
	}
	for _, f := range files {
		if stat, err := os.Stat(f); err == nil {
			sizes[strings.TrimSuffix(filepath.Base(f), ".log")] = stat.Size()
		}
	}
	return sizes
}

// logSince returns the end of what a component logged between two sizes of its log.
func (e *Env) logSince(name string, from, to int64) string {
	from = max(from, to-tailBytes)
	f, err := os.Open(e.slot.Log(name))
	if err != nil || from >= to {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, from, to-from))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func lastBytes(text string, n int) string { return text[max(0, len(text)-n):] }

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}
