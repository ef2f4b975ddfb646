// Package image makes container images of one static binary each, without Docker.
//
// An image is an archive that containerd imports. It is named by what is in it, so the same sources give the same image and a
// name is never used for two. It holds the binary, /etc/passwd and /tmp; there is no shell.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/limpet-project/limpet/test/cluster/build"
)

// Host is the registry in the names of images. Knative does not ask a registry for the digest of an image that begins with it.
const Host = "dev.local"

// An Image is an archive in the cache.
type Image struct {
	// Reference is the name that pods use.
	Reference string
	// Archive is the path of the tar file.
	Archive string
}

// A Source is a main package and where it is built.
type Source struct {
	// Dir is a folder of the module that names the package: of the project for its own mains, or one whose go.mod requires it.
	Dir string
	// Package is "./cmd/limpet", say, or an import path. The image is called by its last element.
	Package string
	// Workspace is the go.work to build in, or "" for none.
	Workspace string
}

// FromGo builds a main package without cgo and makes an image of it. What it built before stays in the cache, so a package that
// has not changed is not linked again.
func FromGo(ctx context.Context, cache string, s Source) (Image, error) {
	binary, unlock, err := Compile(ctx, cache, s)
	if err != nil {
		return Image{}, fmt.Errorf("building the image of %s: %w", s.Package, err)
	}
	defer unlock()
	sum, err := digest(binary)
	if err != nil {
		return Image{}, err
	}
	return FromBinary(cache, binary, sum, false)
}

// FromModule is FromGo for a package that is the same whenever key is. It builds nothing that it has made an image of.
func FromModule(ctx context.Context, cache string, s Source, key string) (Image, error) {
	sum := sha256.Sum256([]byte(s.Package + "\n" + key)) // packages of several modules have one last element
	version := hex.EncodeToString(sum[:6])
	if img := named(cache, filepath.Base(s.Package), version); img.made() {
		return img, nil
	}
	binary, unlock, err := Compile(ctx, cache, s)
	if err != nil {
		return Image{}, fmt.Errorf("building the image of %s: %w", s.Package, err)
	}
	defer unlock()
	return FromBinary(cache, binary, version, false)
}

// Compile builds a main package and returns the binary, which no other process changes until unlock is called.
func Compile(ctx context.Context, cache string, s Source) (binary string, unlock func(), err error) {
	at := sha256.Sum256([]byte(s.Dir + "\n" + s.Package))
	dir := filepath.Join(cache, "images", "built", hex.EncodeToString(at[:6]))
	if unlock, err = build.Lock(filepath.Join(dir, "lock")); err != nil {
		return "", nil, err
	}
	binary = filepath.Join(dir, filepath.Base(s.Package))
	workspace := s.Workspace
	if workspace == "" {
		workspace = "off"
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary, s.Package}
	if err := build.Go(ctx, s.Dir, []string{"CGO_ENABLED=0", "GOWORK=" + workspace}, args...); err != nil {
		unlock()
		return "", nil, err
	}
	return binary, unlock, nil
}

// FromBinary makes an image of a static binary; version names its content. It is called by the file's name. Its process is root
// or user 65532, as Knative wants.
func FromBinary(cache, binary, version string, root bool) (Image, error) {
	base := filepath.Base(binary)
	return save(cache, base, version, func() (v1.Image, error) {
		content, err := os.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		return assemble("/app/"+base, root, []file{{"app/", 0o755, nil}, {"app/" + base, 0o755, content}})
	})
}

// named returns an image, made or not.
func named(cache, base, version string) Image {
	return Image{Reference: Host + "/" + base + ":" + version, Archive: filepath.Join(cache, "images", base+"-"+version+".tar")}
}

// made reports whether the cache has the archive.
func (i Image) made() bool {
	_, err := os.Stat(i.Archive)
	return err == nil
}

// save makes the archive of an image unless the cache has it.
func save(cache, base, version string, content func() (v1.Image, error)) (Image, error) {
	img := named(cache, base, version)
	if img.made() {
		return img, nil
	}
	if err := os.MkdirAll(filepath.Dir(img.Archive), 0o755); err != nil {
		return Image{}, err
	}
	made, err := content()
	if err != nil {
		return Image{}, fmt.Errorf("making the image of %s: %w", base, err)
	}
	tag, err := name.NewTag(img.Reference)
	if err != nil {
		return Image{}, err
	}
	part := fmt.Sprintf("%s.%d.part", img.Archive, os.Getpid())
	defer os.Remove(part)
	if err := tarball.WriteToFile(part, tag, made); err != nil {
		return Image{}, fmt.Errorf("writing the image of %s: %w", base, err)
	}
	return img, os.Rename(part, img.Archive)
}

func assemble(entrypoint string, root bool, files []file) (v1.Image, error) {
	content, err := layer(files)
	if err != nil {
		return nil, err
	}
	// A static layer stays uncompressed, which halves the time of an import.
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(content, types.DockerUncompressedLayer))
	if err != nil {
		return nil, err
	}
	old, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c := old.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config.Entrypoint = []string{entrypoint}
	c.Config.Env = []string{"PATH=/app"}
	c.Config.User = "65532:65532"
	if root {
		c.Config.User = "0:0"
	}
	return mutate.ConfigFile(img, c)
}

// A file of a layer.
type file struct {
	name string // relative to the root; a folder ends with a slash
	mode int64
	text []byte // nil for a folder
}

// layer returns a tar of files and of what every image has. Times are fixed so that equal files give equal layers.
func layer(files []file) ([]byte, error) {
	users := []byte("root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/:/\n")
	common := []file{{"tmp/", 0o1777, nil}, {"etc/", 0o755, nil}, {"etc/passwd", 0o644, users}}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range append(common, files...) {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		if f.text == nil {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}
