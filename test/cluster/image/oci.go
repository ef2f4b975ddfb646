package image

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// WriteOCI writes an image as an OCI archive, compressed and by the given name, for every tool that reads them: ctr, podman, skopeo,
// crane. Equal images give equal archives.
func WriteOCI(i Image, reference, to string) error {
	img, err := compressed(i)
	if err != nil {
		return fmt.Errorf("reading %s: %w", i.Archive, err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(to), ".oci-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = l.AppendImage(img, layout.WithAnnotations(map[string]string{
			"io.containerd.image.name":          reference,
			"org.opencontainers.image.ref.name": reference,
		}))
	}
	if err != nil {
		return fmt.Errorf("laying out the image %s: %w", reference, err)
	}
	if err := pack(dir, to); err != nil {
		return fmt.Errorf("writing %s: %w", to, err)
	}
	return nil
}

// compressed returns the image of an archive with the media types of OCI.
func compressed(i Image) (v1.Image, error) {
	old, err := tarball.ImageFromPath(i.Archive, nil)
	if err != nil {
		return nil, err
	}
	config, err := old.ConfigFile()
	if err != nil {
		return nil, err
	}
	layers, err := old.Layers()
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		c, err := tarball.LayerFromOpener(l.Uncompressed, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, c); err != nil {
			return nil, err
		}
	}
	made, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	made = made.DeepCopy()
	made.OS, made.Architecture, made.Config = config.OS, config.Architecture, config.Config
	return mutate.ConfigFile(img, made)
}

// pack writes the files of a folder into a tar, in the order of their names and without times.
func pack(dir, to string) error {
	part := to + ".part"
	defer os.Remove(part)
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return packFile(w, dir, path)
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return err
	}
	return os.Rename(part, to)
}

func packFile(w *tar.Writer, dir, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: stat.Size(), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
