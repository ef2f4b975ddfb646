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

// FromGo builds a main package without cgo and makes an image of it. dir is a folder of the module that names it: of the
// project for its own mains, or one whose go.mod requires the package. The image is called by the last element of pkg.
func FromGo(ctx context.Context, cache, dir, pkg string) (Image, error) {
	if err := os.MkdirAll(filepath.Join(cache, "images"), 0o755); err != nil {
		return Image{}, fmt.Errorf("making the folder of images: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Join(cache, "images"), ".build-")
	if err != nil {
		return Image{}, fmt.Errorf("making a folder to build in: %w", err)
	}
	defer os.RemoveAll(temp)
	binary := filepath.Join(temp, filepath.Base(pkg))
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary, pkg}
	if err := build.Go(ctx, dir, []string{"CGO_ENABLED=0"}, args...); err != nil {
		return Image{}, fmt.Errorf("building the image of %s: %w", pkg, err)
	}
	sum, err := digest(binary)
	if err != nil {
		return Image{}, err
	}
	return FromBinary(cache, binary, sum, false)
}

// FromBinary makes an image of a static binary; version names its content. It is called by the file's name. Its process is root
// or user 65532, as Knative wants.
func FromBinary(cache, binary, version string, root bool) (Image, error) {
	base := filepath.Base(binary)
	img := Image{
		Reference: Host + "/" + base + ":" + version,
		Archive:   filepath.Join(cache, "images", base+"-"+version+".tar"),
	}
	if _, err := os.Stat(img.Archive); err == nil {
		return img, nil
	}
	if err := os.MkdirAll(filepath.Dir(img.Archive), 0o755); err != nil {
		return Image{}, err
	}
	content, err := assemble(binary, root)
	if err != nil {
		return Image{}, fmt.Errorf("making the image of %s: %w", base, err)
	}
	tag, err := name.NewTag(img.Reference)
	if err != nil {
		return Image{}, err
	}
	part := fmt.Sprintf("%s.%d.part", img.Archive, os.Getpid())
	defer os.Remove(part)
	if err := tarball.WriteToFile(part, tag, content); err != nil {
		return Image{}, fmt.Errorf("writing the image of %s: %w", base, err)
	}
	return img, os.Rename(part, img.Archive)
}

func assemble(binary string, root bool) (v1.Image, error) {
	files, err := layer(binary)
	if err != nil {
		return nil, err
	}
	// A static layer stays uncompressed, which halves the time of an import.
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(files, types.DockerUncompressedLayer))
	if err != nil {
		return nil, err
	}
	old, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c := old.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config.Entrypoint = []string{"/app/" + filepath.Base(binary)}
	c.Config.Env = []string{"PATH=/app"}
	c.Config.User = "65532:65532"
	if root {
		c.Config.User = "0:0"
	}
	return mutate.ConfigFile(img, c)
}

// layer returns a tar of the files. Times are fixed so that equal files give equal layers.
func layer(binary string) ([]byte, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	users := []byte("root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/:/\n")
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	files := []struct {
		name string
		mode int64
		text []byte // nil for a folder
	}{
		{"tmp/", 0o1777, nil},
		{"etc/", 0o755, nil},
		{"app/", 0o755, nil},
		{"etc/passwd", 0o644, users},
		{"app/" + filepath.Base(binary), 0o755, content},
	}
	for _, f := range files {
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
