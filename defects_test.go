package limpet_test

import (
	"go/ast"
	"go/parser"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	defectRow = regexp.MustCompile(`(?m)^\| (\d+) \|.*\| ([^|]+) \|$`)
	namedTest = regexp.MustCompile("`([^`]+)\\.(Test[^`.]+|Fuzz[^`.]+)`")
)

// TestEveryDefectOfThePrototypeHasATestThatExists holds docs/defects.md against the tree.
func TestEveryDefectOfThePrototypeHasATestThatExists(t *testing.T) {
	const defects = 54
	text, err := os.ReadFile("docs/defects.md")
	if err != nil {
		t.Fatal(err)
	}
	exist := testsOfTheTree(t)
	rows := defectRow.FindAllStringSubmatch(string(text), -1)
	if len(rows) != defects {
		t.Errorf("docs/defects.md has %d defects, want %d", len(rows), defects)
	}
	for i, row := range rows {
		if row[1] != strconv.Itoa(i+1) {
			t.Errorf("row %d of docs/defects.md is number %s, want all in order", i+1, row[1])
		}
		named := namedTest.FindAllStringSubmatch(row[2], -1)
		if len(named) == 0 && !strings.HasPrefix(row[2], "n/a: ") {
			t.Errorf("defect %s has no test and no reason: %q", row[1], row[2])
		}
		for _, one := range named {
			if name := path.Clean(one[1]) + "." + one[2]; !exist[name] {
				t.Errorf("defect %s: there is no %s", row[1], name)
			}
		}
	}
}

// testsOfTheTree returns all tests by folder and name.
func testsOfTheTree(t *testing.T) map[string]bool {
	t.Helper()
	exist := make(map[string]bool)
	for _, s := range sources(t, parser.SkipObjectResolution) {
		if !s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if f, is := d.(*ast.FuncDecl); is && f.Recv == nil {
				exist[s.dir+"."+f.Name.Name] = true
			}
		}
	}
	return exist
}
