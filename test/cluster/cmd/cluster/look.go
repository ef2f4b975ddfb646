package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

func status(_ context.Context, args []string) error {
	f := newFlags("status")
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := f.slot()
	if err != nil {
		return err
	}
	none := true
	for n := range slot.Count {
		other, err := slot.New(s.Cache, n)
		if err != nil {
			return err
		}
		if st, err := cluster.StatusOf(other); err == nil {
			none = false
			show(st)
		}
	}
	if none {
		fmt.Println("no cluster is up")
	}
	return nil
}

func show(st cluster.Status) {
	fmt.Printf("slot %d: tier %s, node %s, keeper %d, %d processes, %d MiB\n",
		st.Slot.Number, st.Tier, st.Slot.Node(), st.Keeper, st.Processes, st.Memory>>20)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, c := range st.Components {
		state := "runs"
		if c.Pid == 0 {
			state = "ended: " + c.Ended
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", c.Name, state, st.Slot.Log(c.Name))
	}
	w.Flush()
}

func images(ctx context.Context, args []string) error {
	f := newFlags("images")
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := f.slot()
	if err != nil {
		return err
	}
	if f.NArg() == 0 {
		return inside(s, "ctr", "-n", "k8s.io", "images", "ls", "-q")
	}
	a, err := cluster.NewArtifacts()
	if err != nil {
		return err
	}
	for _, pkg := range f.Args() {
		i, err := a.Image(ctx, pkg)
		if err != nil {
			return err
		}
		if err := cluster.Load(ctx, s, i); err != nil {
			return err
		}
		fmt.Println(i.Reference)
	}
	return nil
}

func kubectl(_ context.Context, args []string) error {
	s, rest, err := slotAndRest("kubectl", args)
	if err != nil {
		return err
	}
	return inside(s, append([]string{"kubectl"}, rest...)...)
}

func enter(_ context.Context, args []string) error {
	s, rest, err := slotAndRest("enter", args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		rest = []string{"bash"}
	}
	return inside(s, rest...)
}

// slotAndRest takes -slot N, if it is first, and leaves all other flags to the command.
func slotAndRest(name string, args []string) (slot.Slot, []string, error) {
	f := newFlags(name)
	own := 0
	if len(args) > 0 {
		switch flag, _, joined := strings.Cut(strings.TrimLeft(args[0], "-"), "="); {
		case flag != "slot" || args[0] == flag:
		case joined:
			own = 1
		default:
			own = min(2, len(args))
		}
	}
	if err := f.Parse(args[:own]); err != nil {
		return slot.Slot{}, nil, err
	}
	s, err := f.slot()
	return s, args[own:], err
}

// inside runs a command in the cluster with this terminal.
func inside(s slot.Slot, argv ...string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	cmd, err := sandbox.Enter(s, dir, argv...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func logs(_ context.Context, args []string) error {
	f := newFlags("logs")
	follow := f.Bool("f", false, "go on as the log grows")
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := f.slot()
	if err != nil {
		return err
	}
	if f.NArg() == 0 {
		files, err := filepath.Glob(s.Log("*"))
		for _, file := range files {
			fmt.Println(strings.TrimSuffix(filepath.Base(file), ".log"))
		}
		return err
	}
	tail := []string{"-n", "+1", s.Log(f.Arg(0))}
	if *follow {
		tail = []string{"-f", s.Log(f.Arg(0))}
	}
	cmd := exec.Command("tail", tail...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
