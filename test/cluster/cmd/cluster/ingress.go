package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/ingress"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// ingressFlags say how the ingress is installed.
type ingressFlags struct {
	replicas *int
	redis    *bool
}

func (f flags) ingress() ingressFlags {
	return ingressFlags{
		f.Int("replicas", 0, "`number` of replicas of the ingress; 0 is what the manifests say"),
		f.Bool("redis", false, "let them share their bindings in a Redis, which is installed too"),
	}
}

// ingressCommand installs the ingress in a cluster that runs.
func ingressCommand(ctx context.Context, args []string) error {
	f := newFlags("ingress")
	how := f.ingress()
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := f.slot()
	if err != nil {
		return err
	}
	return install(ctx, s, how)
}

// install loads the images from outside and lets this executable do the rest inside, where the API server answers.
func install(ctx context.Context, s slot.Slot, how ingressFlags) error {
	if running, err := cluster.RunningTier(s); err != nil {
		return err
	} else if running < cluster.Knative {
		return fmt.Errorf("slot %d runs tier %s, the ingress needs %s", s.Number, running, cluster.Knative)
	}
	source, err := cluster.LoadIngress(ctx, s, os.Stdout)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(source)
	if err != nil {
		return err
	}
	err = inside(s, self, "install", "-replicas", strconv.Itoa(*how.replicas), "-redis="+strconv.FormatBool(*how.redis), string(text))
	if err == nil {
		fmt.Printf("the ingress is ready: services of namespace N are at NAME.N.%s\n", ingress.Domain)
	}
	return err
}

// installInside is what install runs.
func installInside(ctx context.Context, args []string) error {
	f := newFlags("install")
	how := f.ingress()
	if err := f.Parse(args); err != nil {
		return err
	}
	var source ingress.Source
	if err := json.Unmarshal([]byte(f.Arg(0)), &source); err != nil {
		return fmt.Errorf("install: reading what to install: %w", err)
	}
	return cluster.InstallIngress(ctx, source, ingress.Options{Replicas: *how.replicas, Redis: *how.redis})
}
