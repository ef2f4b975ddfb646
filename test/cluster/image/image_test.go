package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestEqualSourcesGiveOneImageAndOthersAnother(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	source := func(answer string) Image {
		t.Helper()
		for name, text := range map[string]string{
			"go.mod":  "module example.com/counter\n\ngo 1.26.0\n",
			"main.go": "package main\n\nfunc main() { println(\"" + answer + "\") }\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		i, err := FromGo(t.Context(), cache, dir, "example.com/counter")
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first, again, other := source("one"), source("one"), source("two")
	if first != again {
		t.Errorf("the same sources gave %v and %v", first, again)
	}
	if first.Reference == other.Reference || first.Archive == other.Archive {
		t.Errorf("other sources gave the same image %v", other)
	}
}

func TestAnImageRunsItsBinaryAsWhoItShould(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "counter")
	if err := os.WriteFile(binary, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	for root, user := range map[bool]string{true: "0:0", false: "65532:65532"} {
		i, err := FromBinary(t.TempDir(), binary, "0001", root)
		if err != nil {
			t.Fatal(err)
		}
		img, err := tarball.ImageFromPath(i.Archive, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if c.Config.User != user || len(c.Config.Entrypoint) != 1 || c.Config.Entrypoint[0] != "/app/counter" {
			t.Errorf("FromBinary(root %v) runs %v as %q, want /app/counter as %q", root, c.Config.Entrypoint, c.Config.User, user)
		}
	}
}
