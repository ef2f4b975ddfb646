package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// FromHost makes an image of a program of this machine with the shared libraries that it is linked with. The libraries keep their
// paths. It is for tests that need a program which no Go module has.
func FromHost(cache, program string) (Image, error) {
	files, err := withLibraries(program)
	if err != nil {
		return Image{}, fmt.Errorf("making the image of %s: %w", program, err)
	}
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s %d\n", f.name, len(f.text))
		h.Write(f.text)
	}
	base := filepath.Base(program)
	return save(cache, base, hex.EncodeToString(h.Sum(nil)[:6]), func() (v1.Image, error) {
		return assemble("/app/"+base, false, files)
	})
}

// withLibraries returns the files of a program and the folders that they need.
func withLibraries(program string) ([]file, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	name := "app/" + filepath.Base(program)
	files := []file{{"app/", 0o755, nil}, {name, 0o755, text}}
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte("not a dynamic executable")) {
		return nil, fmt.Errorf("ldd: %w: %s", err, out)
	}
	made := map[string]bool{"app/": true}
	for _, lib := range libraries(string(out)) {
		text, err := os.ReadFile(lib)
		if err != nil {
			return nil, err
		}
		files = append(append(files, folders(lib, made)...), file{strings.TrimPrefix(lib, "/"), 0o755, text})
	}
	return files, nil
}

// library finds the path in a line of ldd: "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f…)", or the loader's alone.
var library = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$`)

// libraries returns the sorted paths that ldd printed.
func libraries(out string) []string {
	var all []string
	for _, m := range library.FindAllStringSubmatch(out, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// folders returns the folders of a path that have not been made.
func folders(lib string, made map[string]bool) []file {
	var all []file
	for dir := path.Dir(strings.TrimPrefix(lib, "/")); dir != "."; dir = path.Dir(dir) {
		if !made[dir+"/"] {
			made[dir+"/"] = true
			all = append(all, file{dir + "/", 0o755, nil})
		}
	}
	slices.Reverse(all)
	return all
}
