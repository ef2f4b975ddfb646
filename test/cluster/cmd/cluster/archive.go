package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/image"
)

// archive writes an OCI archive for each main package. A pattern ("./examples/...") is not expanded.
func archive(ctx context.Context, args []string) error {
	f := newFlags("archive")
	to := f.String("to", ".", "`folder` to write to")
	prefix := f.String("prefix", image.Host, "`prefix` of the images' names, a registry or a project in one")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New(`archive: want main packages, such as ./cmd/limpet`)
	}
	a, err := cluster.NewArtifacts()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*to, 0o755); err != nil {
		return err
	}
	for n, pkg := range f.Args() {
		began := time.Now()
		i, err := a.Image(ctx, pkg)
		if err != nil {
			return err
		}
		reference := *prefix + strings.TrimPrefix(i.Reference, image.Host)
		file := filepath.Join(*to, filepath.Base(pkg)+".tar")
		if err := image.WriteOCI(i, reference, file); err != nil {
			return err
		}
		stat, err := os.Stat(file)
		if err != nil {
			return err
		}
		fmt.Printf("  [%d/%d, %3.0fs] %s: %s, %.1f MiB\n",
			n+1, f.NArg(), time.Since(began).Seconds(), file, reference, float64(stat.Size())/(1<<20))
	}
	return nil
}
