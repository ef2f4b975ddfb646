package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/limpet-project/limpet/test/cluster/build"
	"github.com/limpet-project/limpet/test/cluster/image"
	"github.com/limpet-project/limpet/test/cluster/plane"
)

// Artifacts are the binaries, images and manifests of a checkout, in the cache.
type Artifacts struct {
	cache build.Cache
	root  string // of the checkout
}

// NewArtifacts returns those of the checkout that the working directory is in. It builds nothing.
func NewArtifacts() (*Artifacts, error) {
	root, err := checkout()
	if err != nil {
		return nil, err
	}
	dir, err := build.DefaultDir()
	if err != nil {
		return nil, err
	}
	return &Artifacts{cache: build.Cache{Dir: dir, Tools: filepath.Join(root, "test", "cluster", "tools")}, root: root}, nil
}

// Dir returns the cache's folder.
func (a *Artifacts) Dir() string { return a.cache.Dir }

// Build makes what is missing and writes a line for each part to out. With nothing to make it takes a fraction of a second.
func (a *Artifacts) Build(ctx context.Context, out io.Writer) error {
	started, total, done := time.Now(), 0, 0
	for _, p := range build.Parts() {
		missing, err := a.cache.Missing(p)
		if err != nil {
			return err
		}
		total += len(missing)
	}
	if total > 0 {
		fmt.Fprintf(out, "building %d binaries into %s (about 8 minutes for all of them on two idle cores)\n", total, a.cache.Dir)
	}
	return a.cache.All(ctx, build.Parts(), func(e build.Event) {
		done++
		fmt.Fprintf(out, "  [%2d/%d, %4.0fs] %s: %s in %.0fs\n", done, total, time.Since(started).Seconds(), e.Part, e.Binary, e.Took.Seconds())
	})
}

// Image makes an image of a main package: of the project if it begins with a dot ("./examples/counter",
// "./knative/cmd/limpet-knative-ingress"), else of a module in the tool module of Knative
// ("knative.dev/networking/test/test_images/runtime").
func (a *Artifacts) Image(ctx context.Context, pkg string) (image.Image, error) {
	if strings.HasPrefix(pkg, ".") {
		return image.FromGo(ctx, a.cache.Dir, a.source(pkg))
	}
	key, err := a.cache.Key(part("knative")) // its modules are pinned, so the package need not be looked at again
	if err != nil {
		return image.Image{}, err
	}
	return image.FromModule(ctx, a.cache.Dir, a.source(pkg), key)
}

func (a *Artifacts) source(pkg string) image.Source {
	switch {
	case !strings.HasPrefix(pkg, "."):
		return image.Source{Dir: filepath.Join(a.cache.Tools, "knative"), Package: pkg}
	case strings.HasPrefix(pkg, "./test/cluster/"): // a module of its own and not of the workspace
		return image.Source{Dir: filepath.Join(a.root, "test", "cluster"), Package: "./" + strings.TrimPrefix(pkg, "./test/cluster/")}
	default:
		return image.Source{Dir: a.root, Package: pkg, Workspace: filepath.Join(a.root, "go.work")}
	}
}

// Program builds a main package of the project, or a main package's only file, and returns the binary in the cache. A file may be
// where packages of the project's module are not, and imports them all the same.
func (a *Artifacts) Program(ctx context.Context, pkg string) (string, error) {
	binary, unlock, err := image.Compile(ctx, a.cache.Dir, image.Source{Dir: a.root, Package: pkg, Workspace: filepath.Join(a.root, "go.work")})
	if err != nil {
		return "", fmt.Errorf("building %s: %w", pkg, err)
	}
	unlock()
	return binary, nil
}

// TestBinary compiles the tests of a package of a module in the tool module of Knative, those with the build tag e2e included
// ("knative.dev/networking/test/conformance/ingress"), and returns the binary in the cache.
func (a *Artifacts) TestBinary(ctx context.Context, pkg string, progress io.Writer) (string, error) {
	key, err := a.cache.Key(part("knative"))
	if err != nil {
		return "", err
	}
	binary := filepath.Join(a.cache.Dir, "tests", key, strings.ReplaceAll(pkg, "/", "_"))
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	unlock, err := build.Lock(binary + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	fmt.Fprintf(progress, "compiling the tests of %s\n", pkg)
	began, part := time.Now(), binary+".part"
	defer os.Remove(part)
	args := []string{"test", "-c", "-trimpath", "-tags", "e2e", "-ldflags", "-s -w", "-o", part, pkg}
	if err := build.Go(ctx, filepath.Join(a.cache.Tools, "knative"), []string{"CGO_ENABLED=0"}, args...); err != nil {
		return "", fmt.Errorf("compiling the tests of %s: %w", pkg, err)
	}
	fmt.Fprintf(progress, "  in %.0fs\n", time.Since(began).Seconds())
	return binary, os.Rename(part, binary)
}

// Redis makes an image of this machine's Redis or Valkey server.
func (a *Artifacts) Redis() (image.Image, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return image.FromHost(a.cache.Dir, path)
		}
	}
	return image.Image{}, errors.New("this machine has no redis-server and no valkey-server; on Debian: apt-get install -y redis-server")
}

// config makes the images and manifests of a tier and returns what to boot.
func (a *Artifacts) config(ctx context.Context, tier plane.Tier) (plane.Config, error) {
	c := plane.Config{Tier: tier}
	var err error
	if c.Binaries, err = plane.Locate(a.cache); err != nil || tier < plane.Node {
		return c, err
	}
	var pause, coredns image.Image
	var wg sync.WaitGroup
	var pauseErr error
	wg.Go(func() {
		pause, pauseErr = a.Image(ctx, "./test/cluster/cmd/pause")
	})
	if coredns, err = a.partImage("coredns", "coredns", true); err == nil && tier >= plane.Knative {
		c.Later, c.Manifests, err = a.knative(ctx)
	}
	wg.Wait()
	if err == nil {
		err = pauseErr
	}
	c.Pause, c.CoreDNS = pause.Reference, coredns.Reference
	c.Images = []image.Image{pause, coredns}
	return c, err
}

func (a *Artifacts) knative(ctx context.Context) ([]image.Image, string, error) {
	references := map[string]string{}
	var images []image.Image
	for _, name := range build.KnativeImages() {
		i, err := a.partImage("knative", name, false)
		if err != nil {
			return nil, "", err
		}
		images, references[name] = append(images, i), i.Reference
	}
	dir, err := a.cache.Manifests(ctx, part("knative"), func(command string) string { return references[command] })
	return images, dir, err
}

// partImage makes an image of a binary of a part. Its version is the part's key, so the binary need not be read again.
func (a *Artifacts) partImage(name, binary string, root bool) (image.Image, error) {
	p := part(name)
	key, err := a.cache.Key(p)
	if err != nil {
		return image.Image{}, err
	}
	dir, err := a.cache.Folder(p)
	if err != nil {
		return image.Image{}, err
	}
	return image.FromBinary(a.cache.Dir, filepath.Join(dir, binary), key, root)
}

func part(name string) build.Part {
	for _, p := range build.Parts() {
		if p.Name == name {
			return p
		}
	}
	panic("cluster: no part " + name)
}

// BuildAll is Build, and all images and manifests too.
func (a *Artifacts) BuildAll(ctx context.Context, out io.Writer) error {
	if err := a.Build(ctx, out); err != nil {
		return err
	}
	_, err := a.config(ctx, Knative)
	return err
}
