package limpet_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// emptyNames say nothing of what a package does.
var emptyNames = []string{"util", "utils", "common", "helper", "helpers", "types", "pkg", "models", "base", "misc", "shared", "lib"}

// Where reading ends; the house style asks for far less.
const (
	mostColumns       = 150 // of a line; a tab is one
	mostFileLines     = 500
	mostFunctionLines = 100
)

func TestEveryPackageSaysWhatItDoes(t *testing.T) {
	documented, names := map[string]bool{}, map[string]string{}
	for _, s := range sources(t, parser.ParseComments|parser.PackageClauseOnly) {
		name := s.file.Name.Name
		if s.test && strings.HasSuffix(name, "_test") && s.dir != "." {
			continue
		}
		if slices.Contains(emptyNames, name) || slices.Contains(emptyNames, filepath.Base(s.dir)) {
			t.Errorf("%s: package %s: the name says nothing", s.name, name)
		}
		if !s.test || s.dir == "." {
			names[s.dir] = name
			documented[s.dir] = documented[s.dir] || s.file.Doc != nil && len(s.file.Doc.Text()) > 40
		}
	}
	for dir, name := range names {
		if !documented[dir] {
			t.Errorf("%s: package %s has no comment that says what it does", dir, name)
		}
	}
}

func TestEveryExportedNameIsDocumentedByName(t *testing.T) {
	for _, s := range sources(t, parser.ParseComments) {
		if s.test || ast.IsGenerated(s.file) {
			continue
		}
		for _, f := range undocumented(s.file) {
			t.Errorf("%s: %s", s.set.Position(f.at), f.text)
		}
	}
}

type finding struct {
	at   token.Pos
	text string
}

// undocumented returns the exported names of a file that have no comment which begins with the name. Constants and variables of
// a group may have the group's instead, and fields and methods of interfaces are left to review.
func undocumented(file *ast.File) []finding {
	var out []finding
	check := func(at token.Pos, name, doc string) {
		if ast.IsExported(name) && !beginsWith(doc, name) {
			out = append(out, finding{at, "the comment of " + name + " does not begin with its name"})
		}
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type)) {
				check(d.Pos(), d.Name.Name, d.Doc.Text())
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					check(spec.Pos(), spec.Name.Name, spec.Doc.Text()+d.Doc.Text())
				case *ast.ValueSpec:
					if grouped := d.Lparen.IsValid() && d.Doc != nil; !grouped {
						for _, n := range spec.Names {
							check(n.Pos(), n.Name, spec.Doc.Text()+d.Doc.Text())
						}
					}
				}
			}
		}
	}
	return out
}

// receiver returns the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// beginsWith reports whether a comment is a sentence about name: "Name …", "A Name …".
func beginsWith(doc, name string) bool {
	for _, article := range []string{"A ", "An ", "The "} {
		doc = strings.TrimPrefix(doc, article)
	}
	rest, ok := strings.CutPrefix(doc, name)
	return ok && strings.IndexFunc(rest, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' }) == 0
}

func TestUndocumentedFindsWhatIsMissing(t *testing.T) {
	const text = `package demo

// A Store holds bindings.
type Store struct{}

// Opens a store.
func Open() {}

// Close closes.
func (s *Store) Close() {}

func (s *Store) Get() {}

func (s *hidden) Get() {}

type hidden struct{}

// Errors of a store.
var (
	ErrA = 1
)

const Limit = 5

// Storeroom is larger.
type Store2 struct{}
`
	file, err := parser.ParseFile(token.NewFileSet(), "demo.go", text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range undocumented(file) {
		got = append(got, strings.Fields(f.text)[3])
	}
	if want := []string{"Open", "Get", "Limit", "Store2"}; !slices.Equal(got, want) {
		t.Errorf("undocumented = %v, want %v", got, want)
	}
}

func TestFilesAndFunctionsStayReadable(t *testing.T) {
	for _, s := range sources(t, parser.SkipObjectResolution) {
		if s.test {
			continue // tables of tests are read by the line
		}
		lines := bytes.Split(s.text, []byte("\n"))
		if len(lines) > mostFileLines {
			t.Errorf("%s has %d lines, want at most %d", s.name, len(lines), mostFileLines)
		}
		for i, line := range lines {
			if n := len([]rune(string(line))); n > mostColumns {
				t.Errorf("%s:%d has %d columns, want at most %d", s.name, i+1, n, mostColumns)
			}
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line; n > mostFunctionLines {
				t.Errorf("%s: %s has %d lines, want at most %d", s.set.Position(f.Pos()), f.Name.Name, n, mostFunctionLines)
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)(?:\s+"[^"]*")?\)`)
	fence   = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```")
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *#*$`)
)

func TestLinksOfTheDocumentationResolve(t *testing.T) {
	checked := 0
	for _, name := range files(t, ".md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(fence.ReplaceAll(text, nil), -1) {
			if f := broken(filepath.Dir(name), name, string(m[1])); f != "" {
				t.Errorf("%s: %s", name, f)
			}
			checked++
		}
	}
	t.Logf("%d links", checked)
}

// broken says what is wrong with a link in a file, or "". Links to other hosts are not followed.
func broken(dir, self, target string) string {
	if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
		return ""
	}
	file, anchor, _ := strings.Cut(target, "#")
	name := filepath.Join(dir, file)
	if file == "" {
		name = self
	}
	if _, err := os.Stat(name); err != nil {
		return "link to " + target + ": no such file"
	}
	if anchor == "" || filepath.Ext(name) != ".md" {
		return ""
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	for _, m := range heading.FindAllSubmatch(fence.ReplaceAll(text, nil), -1) {
		if slug(string(m[1])) == anchor {
			return ""
		}
	}
	return "link to " + target + ": no such heading"
}

// slug returns the anchor of a heading, as GitHub makes it.
func slug(heading string) string {
	heading = link.ReplaceAllString(heading, "]")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

func TestBrokenLinksAreFound(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "guide.md")
	if err := os.WriteFile(name, []byte("# A guide\n\n## What it costs: `make bench`\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for target, wrong := range map[string]bool{
		"guide.md": false, "#a-guide": false, "guide.md#what-it-costs-make-bench": false, "https://example.com/x#y": false, ".": false,
		"gone.md": true, "#nothing": true, "guide.md#nothing": true,
	} {
		if f := broken(dir, name, target); (f != "") != wrong {
			t.Errorf("broken(%s) = %q, want wrong %t", target, f, wrong)
		}
	}
}
