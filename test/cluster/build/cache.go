package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A Cache is a folder with binaries, images and manifests. Several processes may use it at once.
type Cache struct {
	// Dir is the folder.
	Dir string
	// Tools is the folder test/cluster/tools of the checkout whose modules are built.
	Tools string
}

// DefaultDir returns the folder that LIMPET_CLUSTER names, or limpet-cluster in the user's cache directory.
func DefaultDir() (string, error) {
	if dir := os.Getenv("LIMPET_CLUSTER"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a cache directory (set LIMPET_CLUSTER to choose one): %w", err)
	}
	return filepath.Join(dir, "limpet-cluster"), nil
}

// An Event is progress of a build: a binary that has been made, in how long.
type Event struct {
	Part, Binary string
	Took         time.Duration
}

// Key returns the hash of everything that the part is built from.
func (c Cache) Key(p Part) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, p.settings())
	dir := filepath.Join(c.Tools, p.Name)
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return "", fmt.Errorf("reading the sources of %s: %w", p.Name, err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", fmt.Errorf("reading the sources of %s: %w", p.Name, err)
		}
		fmt.Fprintf(h, "%s %d\n%s", e.Name(), len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

// Folder returns where the part's binaries are, built or not.
func (c Cache) Folder(p Part) (string, error) {
	key, err := c.Key(p)
	if err != nil {
		return "", err
	}
	return filepath.Join(c.Dir, "bin", p.Name+"-"+key), nil
}

// Missing returns the binaries of the part that are not in the cache.
func (c Cache) Missing(p Part) ([]Binary, error) {
	dir, err := c.Folder(p)
	if err != nil {
		return nil, err
	}
	var missing []Binary
	for _, b := range p.Binaries {
		if _, err := os.Stat(filepath.Join(dir, b.Name)); err != nil {
			missing = append(missing, b)
		}
	}
	return missing, nil
}

// Build makes what is missing of the part and tells progress of each binary. It waits for another process that builds the same.
func (c Cache) Build(ctx context.Context, p Part, progress func(Event)) error {
	missing, err := c.Missing(p)
	if err != nil || len(missing) == 0 {
		return err
	}
	dir, err := c.Folder(p)
	if err != nil {
		return err
	}
	unlock, err := Lock(dir + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if missing, err = c.Missing(p); err != nil { // another process may have made them meanwhile
		return err
	}
	for _, b := range missing {
		started := time.Now()
		if err := c.compile(ctx, p, b, filepath.Join(dir, b.Name)); err != nil {
			return err
		}
		progress(Event{Part: p.Name, Binary: b.Name, Took: time.Since(started)})
	}
	return nil
}

func (c Cache) compile(ctx context.Context, p Part, b Binary, to string) error {
	cgo := "0"
	if p.Cgo {
		cgo = "1"
	}
	part := to + ".part"
	defer os.Remove(part)
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", p.Tags, "-ldflags", "-s -w " + p.LinkFlags, "-o", part, b.Package}
	if err := Go(ctx, filepath.Join(c.Tools, p.Name), []string{"CGO_ENABLED=" + cgo}, args...); err != nil {
		return fmt.Errorf("building %s of %s: %w", b.Name, p.Name, err)
	}
	return os.Rename(part, to)
}

// Go runs the go command in a folder, outside any workspace unless env says GOWORK=FILE. What it printed is in the error.
func Go(ctx context.Context, dir string, env []string, args ...string) error {
	_, err := goOutput(ctx, dir, env, args...)
	return err
}

func goOutput(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append([]string{"GOWORK=off", "GOFLAGS=-mod=readonly", "GOOS=linux"}, env...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, quiet(stderr.String()))
	}
	return stdout.String(), nil
}

// quiet leaves out the lines about downloads.
func quiet(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "go: downloading") {
			b.WriteString(line)
		}
	}
	return strings.TrimSpace(b.String())
}

// Lock takes a file lock, which the kernel gives back when the process ends. It waits for its holder.
func Lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// write makes a file appear at once and complete.
func write(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	part := fmt.Sprintf("%s.%d.part", path, os.Getpid())
	defer os.Remove(part)
	if err := os.WriteFile(part, content, mode); err != nil {
		return err
	}
	return os.Rename(part, path)
}
