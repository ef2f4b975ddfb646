package config

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const referenceHead = `<!-- Written from the comments in config/*.go and affinity/*.go by "go generate ./config"; change it there. -->

# Configuration

` + "`limpet serve --config limpet.yaml`" + ` reads one YAML file. ` + "`limpet check`" + ` checks one without serving, and
` + "`limpet serve --print-default`" + ` writes one with every field at its default. [config/schema.json](../config/schema.json) is a JSON
Schema of it, by which editors complete and check; this line at the top of a file names it to most of them:

    # yaml-language-server: $schema=config/schema.json

A small one:

` + "```yaml" + `
%s` + "```" + `

## Rules

- **Wrong is refused whole.** An unknown field, a field given twice, a value of the wrong type or out of range, or a reference to what
  does not exist is an error; all of them are told at once, each with file, line, field and what was expected:
  ` + "`limpet.yaml:7: services[0].revisions[0]: unknown field \"wieght\", did you mean weight?`" + `
- **A running gateway reads the file again** when its content has changed and on SIGHUP. Services, routes, debuggers
  and the services of listeners with tcp or udp change at once; the rest changes with a restart, and the log says so. If the new content is wrong, the old one stays in force.
- **Names of files** are relative to the directory of the configuration.
- **Durations** are written with units: ` + "`1h30m`, `500ms`" + `. **Numbers** have no quotes, **texts** that look like numbers need them.
- An **empty mapping** ` + "`{}`" + ` turns something on with all its defaults; what is left out is off or at its default.
- Aliases, tags and several documents in one file are not accepted. A file has 16 MiB at most.

`

// reference writes docs/configuration.md.
func reference(d description, example []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, referenceHead, example)
	walk(reflect.TypeFor[Config](), "", func(at string, t reflect.Type) {
		title := "`" + at + "`\n\n" + d[t.Name()]
		if at == "" {
			title = "The file" // the comment of Config is for programs
		}
		fmt.Fprintf(&b, "## %s\n\n| field | type | default | |\n|---|---|---|---|\n", title)
		for _, f := range d.fields(t) {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, f.kindInReference(), f.defaultInReference(), cell(f.meaning()))
		}
		b.WriteString("\n")
	})
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func (f field) kindInReference() string {
	kind := f.kind()
	if low, high := f.Tag.Get("min"), f.Tag.Get("max"); low != "" && high != "" {
		kind += ", " + low + " to " + high
	} else if low != "" {
		kind += ", at least " + low
	} else if high != "" {
		kind += ", at most " + high
	}
	if f.words != nil {
		kind = "`" + strings.Join(f.words, "`, `") + "`"
	}
	return kind
}

func (f field) defaultInReference() string {
	switch {
	case f.required:
		return "**required**"
	case f.fallback != "":
		return "`" + f.fallback + "`"
	}
	return ""
}

// meaning is the comment with the field's name as code.
func (f field) meaning() string { return "`" + f.name + "`" + strings.TrimPrefix(f.comment, f.name) }

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func TestGeneratedReferenceIsThatOfTheTypes(t *testing.T) {
	example, err := os.ReadFile("testdata/good/minimal.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	compareGenerated(t, "../docs/configuration.md", reference(describe(t), example))
}

// A defaultWriter writes the configuration that Default returns.
type defaultWriter struct {
	bytes.Buffer
	d description
}

// fields writes the fields of t. A prefix with # begins each line of what is commented out.
func (w *defaultWriter) fields(t reflect.Type, prefix, indent string) {
	for _, f := range w.d.fields(t) {
		w.comment(f, prefix+indent)
		e, out := element(f.Type), strings.Contains(prefix, "#")
		if !out && f.name != "listeners" && !f.on() {
			w.field(f, e, prefix+indent+"# ", "")
			continue
		}
		w.field(f, e, prefix, indent)
	}
}

func (w *defaultWriter) field(f field, e reflect.Type, prefix, indent string) {
	fmt.Fprintf(w, "%s%s%s:", prefix, indent, f.name)
	switch {
	case isStruct(e) && f.Type.Kind() == reflect.Slice:
		fmt.Fprintf(w, "\n%s%s-\n", prefix, indent)
		w.fields(e, prefix, indent+"  ")
	case isStruct(e):
		w.WriteString("\n")
		w.fields(e, prefix, indent+"  ")
	default:
		if value := f.literal(); value != "" && (f.fallback != "" || prefix == "") {
			w.WriteString(" " + value)
		}
		w.WriteString("\n")
	}
}

// on reports whether leaving the field out gives it a value that a file can say.
func (f field) on() bool {
	if f.Type.Kind() == reflect.Struct && isStruct(f.Type) {
		return slices.ContainsFunc(description{}.fields(f.Type), field.on)
	}
	return f.literal() != ""
}

func (w *defaultWriter) comment(f field, prefix string) {
	line, text := "", f.comment
	unsaid := func(word string) bool { return !strings.Contains(f.comment, word) }
	if slices.ContainsFunc(f.words, unsaid) {
		text += " One of " + oneOf(f.words) + "."
	}
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(prefix)+len(line)+len(word) > 100 {
			fmt.Fprintf(w, "%s# %s\n", prefix, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	fmt.Fprintf(w, "%s# %s\n", prefix, line)
}

// listenerLiterals are the fields of the one listener that there is by default.
var listenerLiterals = map[string]string{"Name": "http", "Address": `":8080"`}

// literal writes the default so that YAML reads it as the right type, "" if there is none.
func (f field) literal() string {
	if f.required && f.fallback == "" {
		return listenerLiterals[f.Name]
	}
	text := f.Type.Kind() == reflect.String
	if text && f.fallback != "" && (!plainWord.MatchString(f.fallback) || f.fallback == "off" || f.fallback == "on") {
		return strconv.Quote(f.fallback)
	}
	return f.fallback
}

func TestGeneratedDefaultFileIsThatOfTheTypes(t *testing.T) {
	w := defaultWriter{d: describe(t)}
	w.WriteString("# Configuration of limpet serve, with every field at its default. An empty file means the same.\n" +
		"# What is commented out has no default, or belongs to something that is off by default.\n")
	w.fields(reflect.TypeFor[Config](), "", "")
	compareGenerated(t, "default.yaml", w.Bytes())
}

func TestTheDefaultFileMeansTheDefaults(t *testing.T) {
	c, err := Parse("default.yaml", Default())
	if err != nil {
		t.Fatalf("Parse(Default()) =\n%v\nwant no error", err)
	}
	if diff := cmp.Diff(Defaults(), c, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Default() does not mean the defaults (-want +got):\n%s", diff)
	}
}

func TestTheDefaultFileNamesEveryField(t *testing.T) {
	text := string(Default())
	walk(reflect.TypeFor[Config](), "", func(at string, s reflect.Type) {
		for _, f := range visibleFields(s) {
			if !strings.Contains(text, " "+jsonName(f)+":") && !strings.Contains(text, "\n"+jsonName(f)+":") {
				t.Errorf("Default() has no %s, want every field", join(at, jsonName(f)))
			}
		}
	})
}
