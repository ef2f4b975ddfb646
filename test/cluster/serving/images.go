package serving

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"path"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/limpet-project/limpet/test/cluster/image"
)

// imagePackages are what the tests' pods run.
func imagePackages() []string {
	var all []string
	for _, name := range []string{
		"autoscale", "configmimic", "failing", "grpc-ping", "hellohttp2", "hellovolume", "helloworld", "httpproxy",
		"multicontainer/servingcontainer", "multicontainer/sidecarcontainer", "pizzaplanetv1", "pizzaplanetv2", "readiness",
		"runtime", "singlethreaded", "slowstart", "timeout", "volumes", "wsserver",
	} {
		all = append(all, "knative.dev/serving/test/test_images/"+name)
	}
	return all
}

// push puts an image into a registry by the name that the tests expect. There Serving finds its digest as it does those of users' images.
func push(ctx context.Context, registry, pkg string, i image.Image) error {
	to, err := name.ParseReference(registry + "/" + path.Base(pkg) + ":latest")
	if err != nil {
		return err
	}
	img, err := tarball.ImageFromPath(i.Archive, nil)
	if err == nil {
		img, err = asKoDoes(img)
	}
	if err != nil {
		return fmt.Errorf("reading the image of %s: %w", pkg, err)
	}
	if err := remote.Write(to, img, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing %s: %w", to, err)
	}
	return nil
}

// asKoDoes makes the binary of an image appear in /ko-app, where the tests run it: Serving builds its images with ko.
func asKoDoes(img v1.Image) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "ko-app", Typeflag: tar.TypeSymlink, Linkname: "app"}); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
}
