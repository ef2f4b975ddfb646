// Package limpet_test holds the tests of the tree as a whole: which package may import which, and what is documented.
package limpet_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/limpet-project/limpet"

// rows is the table of layers, lowest first. A package imports packages of lower rows, and those below the same name. A name
// holds for everything below it unless a longer one fits.
var rows = []struct {
	row   string
	names []string
}{
	{"core", []string{"affinity"}},
	{"contracts", []string{"binding", "endpoint", "lease", "sticky", "token"}},
	{"engine", []string{"router"}},
	{"uses", []string{"proxy", "socket", "transport", "lab", "admin", "config", "telemetry"}},
	{"adapters", []string{"redis", "knative", "kube"}},
	{"parts", []string{"node"}},
	{"mains", []string{"cmd", "knative/cmd", "kube/cmd", "examples", "test", "tools"}},
}

// sideways are the imports within a row that are wanted.
var sideways = map[[2]string]string{
	{"config", "proxy"}:        "a configuration is compiled to what the data plane serves by",
	{"config", "transport"}:    "a configuration is compiled to what the data plane serves by",
	{"proxy", "socket"}:        "both data planes ask the kernel the same things",
	{"transport", "socket"}:    "both data planes ask the kernel the same things",
	{"telemetry", "proxy"}:     "implements the observers that the data plane declares",
	{"telemetry", "transport"}: "implements the observers that the data plane declares",
	{"cmd", "examples"}:        "the demonstration runs the counter without another program",
}

// byTests are the imports of a higher row that are wanted in tests.
var byTests = map[[2]string]string{
	{"knative/ingress", "node"}: "the controller is tested in a whole process, as its main makes one",
}

// alone are packages that import nothing of Limpet outside themselves: what judges it from outside, and what users copy.
var alone = []string{"test/soak", "test/bench", "examples/counter"}

// homes says where each dependency lives; nothing else imports it, tests included unless it is listed in testOnly.
var homes = map[string][]string{
	"github.com/redis/rueidis":       {"redis"},
	"github.com/prometheus/":         {"telemetry", "lab/flow"},
	"go.opentelemetry.io/":           {"telemetry", "knative"}, // Serving's chain of handlers takes its providers
	"github.com/alecthomas/kong":     {"cmd/limpet", "knative/cmd"},
	"sigs.k8s.io/yaml":               {"config", "knative", "kube", "lab"},
	"go.yaml.in/yaml/":               {"config"},
	"github.com/invopop/jsonschema":  {"config"},
	"github.com/pires/go-proxyproto": {"transport"},
	"golang.org/x/net/":              {"proxy", "transport"},
	"golang.org/x/sys/":              {"cmd/limpet", "proxy", "socket", "transport", "test/bench", "endpoint"},
	"golang.org/x/sync/":             {"redis", "proxy", "cmd/limpet", "knative"},
	"k8s.io/":                        {"knative", "kube"},
	"sigs.k8s.io/":                   {"knative", "kube"},
	"knative.dev/":                   {"knative"},
	"github.com/mdlayher/netlink":    {"lab/flow"},
	"go.uber.org/zap":                {"knative"},
	"gonum.org/v1/":                  {"lab"},
	"mvdan.cc/gofumpt":               {"tools"},
	"honnef.co/go/tools":             {"tools"},
	"golang.org/x/perf":              {"tools"},
}

// modules are nested modules that the product does not build with: their own go.mod says what they depend on.
var modules = []string{"test/cluster"}

// testOnly are dependencies that only tests, and packages for tests, import.
var testOnly = []string{
	"github.com/google/go-cmp/", "pgregory.net/rapid", "github.com/anishathalye/porcupine", "go.uber.org/goleak",
	"github.com/rogpeppe/go-internal/", "github.com/santhosh-tekuri/jsonschema/", "github.com/coder/websocket",
	"google.golang.org/grpc", "google.golang.org/protobuf", "golang.org/x/net/", "sigs.k8s.io/yaml", "go.opentelemetry.io/proto/",
}

// banned are standard packages that a package decides without.
var banned = map[string][]string{
	"affinity": {"net/http", "log", "log/slog", "os", "context"},
	"router":   {"net/http"},
}

// fault says what is wrong with an import by a package in dir, or "".
func fault(dir string, test bool, imported string) string {
	if own, ok := strings.CutPrefix(imported, module+"/"); ok {
		return ownFault(dir, test, own)
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		for _, name := range banned[dir] {
			if !test && imported == name {
				return dir + " does without " + name
			}
		}
		return ""
	}
	if dir == "affinity" && !test {
		return "affinity imports the standard library only"
	}
	return foreignFault(dir, test || forTests(dir), imported)
}

func ownFault(dir string, test bool, imported string) string {
	if forTests(imported) && !test && !forTests(dir) {
		return imported + " is for tests only"
	}
	for _, name := range alone {
		if within(dir, name) && !within(imported, name) {
			return name + " imports nothing of Limpet"
		}
	}
	from, row := find(dir)
	to, below := find(imported)
	switch {
	case row < 0:
		return dir + " has no row in the table of layers"
	case below < 0:
		return imported + " has no row in the table of layers"
	case from == to, below < row, sideways[[2]string{from, to}] != "", test && (forTests(imported) || byTests[[2]string{dir, imported}] != ""):
		return ""
	}
	return dir + " (" + rows[row].row + ") may not import " + imported + " (" + rows[below].row + ")"
}

func foreignFault(dir string, test bool, imported string) string {
	if test {
		for _, name := range testOnly {
			if strings.HasPrefix(imported, name) {
				return ""
			}
		}
	}
	for _, name := range modules {
		if within(dir, name) {
			return ""
		}
	}
	home := ""
	for name := range homes {
		if strings.HasPrefix(imported, name) && len(name) > len(home) {
			home = name
		}
	}
	if home == "" {
		return imported + " has no home in the table of dependencies, or is for tests only"
	}
	for _, name := range homes[home] {
		if within(dir, name) {
			return ""
		}
	}
	return imported + " lives in " + strings.Join(homes[home], ", ") + ", not in " + dir
}

// find returns the name in the table that fits a package best, and its row; -1 if none does.
func find(dir string) (name string, row int) {
	row = -1
	for i, r := range rows {
		for _, n := range r.names {
			if within(dir, n) && len(n) > len(name) {
				name, row = n, i
			}
		}
	}
	return name, row
}

func within(dir, name string) bool { return dir == name || strings.HasPrefix(dir, name+"/") }

// forTests reports whether a package is for tests only, as its name says: bindingtest, redistest.
func forTests(dir string) bool { return strings.HasSuffix(path.Base(dir), "test") && dir != "test" }

// A source is a parsed Go file of the tree, in any of its modules.
type source struct {
	name string // from the root
	dir  string // "." is the root
	test bool
	file *ast.File
	set  *token.FileSet
	text []byte
}

// sources parses every Go file of the tree.
func sources(t *testing.T, mode parser.Mode) []source {
	t.Helper()
	var all []source
	for _, name := range files(t, ".go") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, mode)
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.ToSlash(name)
		all = append(all, source{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), file, set, text})
	}
	return all
}

// files lists the files of the tree with an extension, but for test data and hidden, built and vendored ones.
func files(t *testing.T, extension string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")):
			return filepath.SkipDir
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "bin" || d.Name() == "vendor" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case !d.IsDir() && filepath.Ext(name) == extension:
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestImportsPointDownOnly(t *testing.T) {
	all := sources(t, parser.ImportsOnly)
	if len(all) < 50 {
		t.Fatalf("found %d Go files, want the whole tree", len(all))
	}
	for _, s := range all {
		for _, spec := range s.file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if f := fault(s.dir, s.test, imported); f != "" {
				t.Errorf("%s: %s", s.set.Position(spec.Pos()), f)
			}
		}
	}
}

func TestFaultFindsWhatTheTablesForbid(t *testing.T) {
	own := func(name string) string { return module + "/" + name }
	tests := []struct {
		name     string
		dir      string
		test     bool
		imported string
		wrong    bool
	}{
		{"down", "router", false, own("binding"), false},
		{"up", "binding", false, own("router"), true},
		{"sideways", "binding", false, own("endpoint"), true},
		{"sideways where wanted", "config", false, own("proxy"), false},
		{"wanted in one direction only", "proxy", false, own("config"), true},
		{"below itself", "binding/bindingtest", false, own("binding"), false},
		{"the core imports nothing", "affinity", false, own("token"), true},
		{"uses do not know the adapters", "proxy", false, own("redis"), true},
		{"adapters know the contracts", "redis", false, own("endpoint"), false},
		{"parts know the adapters", "node", false, own("redis"), false},
		{"and are no adapter's", "knative/ingress", false, own("node"), true},
		{"nor are they in its tests", "knative/backend", true, own("node"), true},
		{"but where that is wanted", "knative/ingress", true, own("node"), false},
		{"mains are made of the parts", "knative/cmd/limpet-knative-ingress", false, own("node"), false},
		{"mains wire everything", "cmd/limpet", false, own("redis"), false},
		{"nothing imports a main's row", "proxy", false, own("examples/counter/replica"), true},
		{"tests use test packages", "redis", true, own("binding/bindingtest"), false},
		{"nothing else does", "redis", false, own("binding/bindingtest"), true},
		{"the checker knows nothing of Limpet", "test/soak/checker", false, own("affinity"), true},
		{"nor do its tests", "test/soak", true, own("config"), true},
		{"the counter stands alone", "examples/counter/replica", false, own("affinity"), true},
		{"an example of a library uses it", "examples/stickyrev", false, own("sticky"), false},
		{"an unknown package", "notions", false, own("affinity"), true},
		{"the core uses the standard library", "affinity", false, "hash/fnv", false},
		{"the core does without net/http", "affinity", false, "net/http", true},
		{"the core does without anything else", "affinity", false, "golang.org/x/sys/unix", true},
		{"the router does without net/http", "router", false, "net/http", true},
		{"its tests need not", "router", true, "net/http", false},
		{"the client of Redis at home", "redis", false, "github.com/redis/rueidis", false},
		{"and in its tests' package", "redis/redistest", false, "github.com/redis/rueidis", false},
		{"and nowhere else", "binding", true, "github.com/redis/rueidis", true},
		{"metrics at home", "telemetry", false, "github.com/prometheus/client_golang/prometheus", false},
		{"metrics elsewhere", "proxy", false, "github.com/prometheus/client_golang/prometheus", true},
		{"tests compare", "token", true, "github.com/google/go-cmp/cmp", false},
		{"and nothing else does", "token", false, "github.com/google/go-cmp/cmp", true},
		{"a package for tests may", "binding/bindingtest", false, "github.com/anishathalye/porcupine", false},
		{"a dependency that nobody listed", "proxy", false, "github.com/gorilla/mux", true},
		{"no Kubernetes in the root module", "endpoint", false, "k8s.io/api/core/v1", true},
		{"nor among the parts", "node", false, "k8s.io/api/core/v1", true},
		{"Knative's logs in its module", "knative/ingress", false, "go.uber.org/zap", false},
		{"and not in the root module", "node", false, "go.uber.org/zap", true},
		{"a command line in Knative's mains", "knative/cmd/limpet-knative-ingress", false, "github.com/alecthomas/kong", false},
		{"and not beside them", "knative/ingress", false, "github.com/alecthomas/kong", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if f := fault(tt.dir, tt.test, tt.imported); (f != "") != tt.wrong {
				t.Errorf("fault(%s, %t, %s) = %q, want wrong %t", tt.dir, tt.test, tt.imported, f, tt.wrong)
			}
		})
	}
}
