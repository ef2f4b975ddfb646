package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/affinity"
)

var update = flag.Bool("update", false, "write the expected outputs anew")

// compareOut compares got with a file beside the test's input, or writes it with -update.
func compareOut(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the test gives; -update writes it anew (-want +got):\n%s", file, diff)
	}
}

func inputs(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob(%s) = %v, %v, want some files", pattern, files, err)
	}
	read := make(map[string][]byte)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		read[strings.TrimSuffix(f, ".in.yaml")] = data
	}
	return read
}

func TestGoodConfigurationsAreReadWithAllDefaults(t *testing.T) {
	for name, data := range inputs(t, "testdata/good/*.in.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			c, err := Parse("limpet.yaml", data)
			if err != nil {
				t.Fatalf("Parse =\n%v\nwant no error", err)
			}
			out, err := yaml.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			compareOut(t, name+".out.yaml", out)
		})
	}
}

func TestBadConfigurationsAreRefusedWithEveryFault(t *testing.T) {
	for name, data := range inputs(t, "testdata/bad/*.in.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			c, err := Parse("limpet.yaml", data)
			var problems Problems
			if c != nil || !errors.As(err, &problems) {
				t.Fatalf("Parse = %v, %v, want Problems", c, err)
			}
			for _, p := range problems {
				if p.Line < 1 || p.Line > bytes.Count(data, []byte("\n"))+1 {
					t.Errorf("%v: line %d, want one of the file", p, p.Line)
				}
			}
			compareOut(t, name+".out.txt", []byte(err.Error()+"\n"))
		})
	}
}

func TestAnEmptyFileMeansTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "{}\n", "services:\nroutes: []\nadmin:\n", "null"} {
		c, err := Parse("defaults", []byte(text))
		if err != nil {
			t.Errorf("Parse(%q) = %v, want no error", text, err)
			continue
		}
		if diff := cmp.Diff(Defaults(), c, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("Parse(%q) is not the defaults (-want +got):\n%s", text, diff)
		}
	}
}

func TestAConfigurationThatIsTooLongIsRefused(t *testing.T) {
	_, err := Parse("limpet.yaml", bytes.Repeat([]byte("#"), MaxBytes+1))
	if want := "limpet.yaml: longer than 16777216 bytes"; err == nil || err.Error() != want {
		t.Errorf("Parse = %v, want %q", err, want)
	}
}

func TestAliasesDoNotMultiply(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	if _, err := Parse("limpet.yaml", []byte(bomb)); err == nil {
		t.Errorf("Parse(%s) = no error, want unknown fields", bomb)
	}
	_, err := Parse("limpet.yaml", []byte("trustedProxies: &nets [10.0.0.0/8]\ndebuggers: *nets\n"))
	want := "limpet.yaml:2: debuggers: got the alias *nets, expected a list, each of it an address or a network such as 10.0.0.0/8: aliases are not allowed"
	if err == nil || err.Error() != want {
		t.Errorf("Parse = %v, want %q", err, want)
	}
}

func TestMoreThanAHundredFaultsAreCutOff(t *testing.T) {
	var b strings.Builder
	b.WriteString("services:\n")
	for range 300 {
		b.WriteString("- nmae: demo\n")
	}
	_, err := Parse("limpet.yaml", []byte(b.String()))
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != maxProblems {
		t.Errorf("Parse = %d problems, want %d", len(problems), maxProblems)
	}
}

func TestAMeantFieldIsSuggested(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{"wieght", `unknown field "wieght", did you mean weight?`},
		{"Weight", `unknown field "Weight", did you mean weight?`},
		{"end_points", `unknown field "end_points", did you mean endpoints?`},
		{"colour", `unknown field "colour", expected one of name, weight, tags, failed, endpoints`},
		{strings.Repeat("w", 100), `unknown field "` + strings.Repeat("w", 64) + `…", expected one of name, weight, tags, failed, endpoints`},
	} {
		_, err := Parse("limpet.yaml", fmt.Appendf(nil, "services:\n- name: demo\n  revisions:\n  - name: demo-00001\n    %s: 1\n", c.given))
		want := "limpet.yaml:5: services[0].revisions[0]: " + c.want
		if err == nil || err.Error() != want {
			t.Errorf("Parse with field %s = %v, want %q", c.given, err, want)
		}
	}
}

func TestRelativeFilesBeginAtTheConfigurationsDirectory(t *testing.T) {
	c, err := Parse("/etc/limpet/limpet.yaml", []byte("secrets: {digestFile: secrets/digest, tokenKeysFile: /run/keys}\naccessLog: {file: access.log}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Secrets, (Secrets{DigestFile: "/etc/limpet/secrets/digest", TokenKeysFile: "/run/keys"}); got != want {
		t.Errorf("Secrets = %v, want %v", got, want)
	}
	if got, want := c.AccessLog.File, Path("/etc/limpet/access.log"); got != want {
		t.Errorf("AccessLog.File = %v, want %v", got, want)
	}
	for _, word := range []string{"-", "off"} {
		c, err := Parse("/etc/limpet/limpet.yaml", []byte("accessLog: {file: "+quoted(word)+"}\n"))
		if err != nil || c.AccessLog.File != Path(word) {
			t.Errorf("accessLog.file: %s = %v, %v, want it as it is", word, c, err)
		}
	}
}

func TestAPolicyAloneIsReadWithItsDefaults(t *testing.T) {
	p, err := ParsePolicy("annotation", []byte("session: {from: [{cookie: sid}], mode: hash}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := affinity.Policy{Session: &affinity.SessionAffinity{From: []affinity.Source{{Cookie: "sid"}}, Mode: affinity.ModeHash}}.WithDefaults()
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("ParsePolicy (-want +got):\n%s", diff)
	}
	for _, text := range []string{"", "{}"} {
		p, err := ParsePolicy("annotation", []byte(text))
		if diff := cmp.Diff(affinity.Policy{}.WithDefaults(), p); err != nil || diff != "" {
			t.Errorf("ParsePolicy(%q) = %v (-want +got):\n%s", text, err, diff)
		}
	}
}

func TestFaultsOfAPolicyHaveTheirLines(t *testing.T) {
	_, err := ParsePolicy("annotation", []byte("session:\n  from:\n  - header: K-Session\n    cookie: sid\n  idle: 1ms\n  mode: glue\nsettle: 0s\n"))
	want := `annotation:3: session.from[0]: expected exactly one of header, queryParameter, pathSegment (counted from 1), cookie and clientAddress, got 2
annotation:5: session.idle: expected at least 1s, got 1ms
annotation:6: session.mode: expected bound, hash or token, got "glue"
annotation:7: settle: got 0s, expected more: leave it out for the default, 2s`
	if err == nil || err.Error() != want {
		t.Errorf("ParsePolicy =\n%v\nwant\n%s", err, want)
	}
}

func TestLoadNamesTheFilesThatAreMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "limpet.yaml")
	if err := os.WriteFile(file, []byte("secrets:\n  digestFile: digest\n  tokenKeysFile: .\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(file)
	want := fmt.Sprintf("%[1]s:2: secrets.digestFile: open %[2]s/digest: no such file or directory\n"+
		"%[1]s:3: secrets.tokenKeysFile: %[2]s is a directory, expected a file", file, dir)
	if err == nil || err.Error() != want {
		t.Errorf("Load =\n%v\nwant\n%s", err, want)
	}
	if _, err := Load(filepath.Join(dir, "missing.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of a missing file = %v, want ErrNotExist", err)
	}
}

func TestListenersWithTLSAndNoCertificateAreForTheGatewayToJudge(t *testing.T) {
	const bare = "listeners:\n- {name: external, address: ':8080'}\n- name: external-tls\n  address: :8443\n"
	tests := []struct {
		name, configuration, want string
	}{
		{"no TLS", bare, ""},
		{
			"defaults", bare + "  tls: {}\n",
			"limpet.yaml:5: listeners[1].tls.certificates: missing, expected a list, each of it a mapping",
		},
		{
			"an empty list", bare + "  tls:\n    certificates: []\n",
			"limpet.yaml:6: listeners[1].tls.certificates: missing, expected a list, each of it a mapping",
		},
		{"files", bare + "  tls: {certificates: [{certFile: web.pem, keyFile: web.key}]}\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := mustParse(t, tt.configuration).CheckCertificates(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("CheckCertificates = %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.in.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("? [services]\n: {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("limpet.yaml", data)
		if err == nil {
			c.EndpointServices()
			c.Members()
			return
		}
		var problems Problems
		if c != nil || !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("Parse(%q) = %v, %v, want Problems", data, c, err)
		}
		for _, p := range problems {
			if p.Field != "" && p.Line < 1 || p.Reason == "" {
				t.Errorf("Parse(%q): %+v, want a line and a reason", data, p)
			}
		}
	})
}

func BenchmarkParseTenThousandEndpoints(b *testing.B) {
	var y strings.Builder
	y.WriteString("services:\n")
	for i := range 100 {
		fmt.Fprintf(&y, "- name: demo-%d\n  affinity: {}\n  revisions:\n  - name: demo-%d-00001\n    endpoints:\n", i, i)
		for j := range 100 {
			fmt.Fprintf(&y, "    - {name: replica-%d, address: '10.0.%d.%d:8080'}\n", j, i, j)
		}
	}
	b.SetBytes(int64(y.Len()))
	for b.Loop() {
		if _, err := Parse("limpet.yaml", []byte(y.String())); err != nil {
			b.Fatal(err)
		}
	}
}

func TestNoServiceIsStickyUnlessItAsks(t *testing.T) {
	c := mustParse(t, "services: [{name: demo, revisions: [{name: demo-00001}]}]\nroutes: [{service: demo}]\n")
	p, err := c.Proxy()
	if err != nil || p.Routes[0].Policy != nil {
		t.Errorf("Proxy = policy %v, %v, want none", p.Routes[0].Policy, err)
	}
}

func TestPathSegmentsAreCountedFromOne(t *testing.T) {
	for text, want := range map[string]string{
		"-1": `annotation:1: session.from[0].pathSegment: got "-1", expected a whole number from 0`,
		"0":  "annotation:1: session.from[0]: expected exactly one of header, queryParameter, pathSegment (counted from 1), cookie and clientAddress, got 0",
		"x":  `annotation:1: session.from[0].pathSegment: got "x", expected a whole number from 0`,
	} {
		_, err := ParsePolicy("annotation", []byte("session: {from: [{pathSegment: "+text+"}]}"))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("ParsePolicy of path segment %s = %v, want %q", text, err, want)
		}
	}
}
