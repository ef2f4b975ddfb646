package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		i, err := FromGo(t.Context(), cache, Source{Dir: dir, Package: "example.com/counter"})
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

func TestAnImageOfAPinnedModuleIsBuiltOnceForAKey(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example.com/wsserver\n\ngo 1.26.0\n",
		"main.go": "package main\n\nfunc main() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source := Source{Dir: dir, Package: "example.com/wsserver"}
	first, err := FromModule(t.Context(), cache, source, "49e1995204a0")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "main.go")); err != nil {
		t.Fatal(err)
	}
	if again, err := FromModule(t.Context(), cache, source, "49e1995204a0"); err != nil || again != first {
		t.Errorf("FromModule() of the same key = %v, %v, want %v, without a build", again, err, first)
	}
	if other, err := FromModule(t.Context(), cache, source, "5f0c51a3b7e2"); err == nil {
		t.Errorf("FromModule() of another key = %v, want what the compiler says of no sources", other)
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

func TestAnOCIArchiveOfAnImageIsAlwaysTheSame(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "counter")
	if err := os.WriteFile(binary, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	i, err := FromBinary(dir, binary, "0001", false)
	if err != nil {
		t.Fatal(err)
	}
	var written [2][]byte
	for n, name := range []string{"first.tar", "again.tar"} {
		to := filepath.Join(dir, name)
		if err := WriteOCI(i, "dev.local/counter:0001", to); err != nil {
			t.Fatal(err)
		}
		if written[n], err = os.ReadFile(to); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(written[0], written[1]) {
		t.Error("WriteOCI wrote one image twice as two archives")
	}
	if !bytes.Contains(written[0], []byte(`"dev.local/counter:0001"`)) {
		t.Error("the archive does not name its image")
	}
}

func TestLibrariesAreWhatTheLoaderOpens(t *testing.T) {
	out := `	linux-vdso.so.1 (0x00007fc0b1fb6000)
	libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fc0b1eb4000)
	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fc0b101e000)
	/lib64/ld-linux-x86-64.so.2 (0x00007fc0b1fb8000)
`
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if diff := cmp.Diff(want, libraries(out)); diff != "" {
		t.Errorf("libraries() (-want +got):\n%s", diff)
	}
}
