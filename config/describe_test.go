package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/affinity"
)

// A description is what the source says of the types of a configuration: their comments and those of their fields, by "Type" and
// "Type.Field".
type description map[string]string

// describe reads the comments of this package and of affinity, whose types are not named alike.
func describe(t *testing.T) description {
	t.Helper()
	d := description{}
	for _, file := range []string{"config.go", "service.go", "transport.go", "../affinity/policy.go", "../affinity/source.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if types, ok := decl.(*ast.GenDecl); ok && types.Tok == token.TYPE {
				for _, spec := range types.Specs {
					d.add(types, spec.(*ast.TypeSpec))
				}
			}
		}
	}
	return d
}

func (d description) add(decl *ast.GenDecl, spec *ast.TypeSpec) {
	d[spec.Name.Name] = oneLine(decl.Doc)
	fields, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range fields.Fields.List {
		for _, name := range f.Names {
			d[spec.Name.Name+"."+name.Name] = oneLine(f.Doc)
		}
	}
}

func oneLine(g *ast.CommentGroup) string { return strings.Join(strings.Fields(g.Text()), " ") }

// ofField returns the comment of a field, in which YAML's name stands for Go's, without a statement of the default.
func (d description) ofField(t reflect.Type, f reflect.StructField) string {
	text := d[t.Name()+"."+f.Name]
	if rest, ok := strings.CutPrefix(text, f.Name+" "); ok {
		text = jsonName(f) + " " + rest
	}
	return text
}

// A field is what the reference, the schema and the default file say of one field.
type field struct {
	reflect.StructField
	name     string
	comment  string
	fallback string // the default as text, "" for none
	words    []string
	required bool
}

// policyWords are the closed lists of affinity, whose fields have no tags of ours. A test holds them against Validate.
var policyWords = map[string][]string{
	"SessionAffinity.Mode":     {"bound", "hash", "token"},
	"SessionAffinity.Place":    {"boundedLoad", "leastLoaded"},
	"SessionAffinity.Overflow": {"wait", "spill", "reject"},
	"RevisionAffinity.Mode":    {"pinned", "proportional"},
	"TokenPolicy.SameSite":     {"Lax", "Strict", "None"},
	"TokenPolicy.Secure":       {"auto", "always", "never"},
}

// policyDefaults are values of affinity's types with their defaults.
func policyDefaults() map[reflect.Type]reflect.Value {
	p := affinity.Policy{}.WithDefaults()
	withToken := affinity.Policy{Session: &affinity.SessionAffinity{
		Mode: affinity.ModeToken, From: []affinity.Source{{ClientAddress: &affinity.AddressPrefix{}}},
	}}.WithDefaults().Session
	defaults := map[reflect.Type]reflect.Value{}
	for _, v := range []any{*p, *p.Session, *p.Revision, *withToken.Token, *withToken.From[0].ClientAddress} {
		defaults[reflect.TypeOf(v)] = reflect.ValueOf(v)
	}
	return defaults
}

// fields returns what there is to say about the fields of a type.
func (d description) fields(t reflect.Type) []field {
	var list []field
	filled, isPolicy := policyDefaults()[t]
	for _, f := range visibleFields(t) {
		words := policyWords[t.Name()+"."+f.Name]
		if tag := f.Tag.Get("enum"); tag != "" {
			words = strings.Split(tag, "|")
		}
		fallback := f.Tag.Get("default")
		if isPolicy && element(f.Type).Kind() != reflect.Struct && !filled.FieldByIndex(f.Index).IsZero() {
			fallback = fmt.Sprint(filled.FieldByIndex(f.Index).Interface())
		}
		list = append(list, field{
			StructField: f, name: jsonName(f), comment: d.ofField(t, f), fallback: fallback, words: words, required: f.Tag.Get("required") != "",
		})
	}
	return list
}

// element returns the type of what a pointer or a list holds.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// isStruct reports whether YAML writes t as a mapping.
func isStruct(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != timeType && t != prefixType
}

// kind says in a word or two what is written in YAML.
func (f field) kind() string { return kindOf(f.Type) }

func kindOf(t reflect.Type) string {
	switch t {
	case pathType:
		return "file"
	case durationType:
		return "duration"
	case timeType:
		return "time"
	case prefixType:
		return "network"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Slice:
		return "list of " + kindOf(t.Elem())
	case reflect.Struct:
		return "mapping"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "number"
	case reflect.String:
		return "text"
	}
	return "whole number"
}

func TestEveryFieldIsDescribed(t *testing.T) {
	d := describe(t)
	walk(reflect.TypeFor[Config](), "", func(at string, s reflect.Type) {
		if d[s.Name()] == "" {
			t.Errorf("type %s has no comment", s.Name())
		}
		for _, f := range d.fields(s) {
			if f.comment == "" {
				t.Errorf("field %s.%s has no comment", s.Name(), f.Name)
			}
			if !strings.HasPrefix(f.comment, f.name+" ") {
				t.Errorf("comment of %s.%s is %q, want it to begin with the field's name", s.Name(), f.Name, f.comment)
			}
			number := f.Type.Kind() == reflect.Int || f.Type.Kind() == reflect.Int64 || f.Type.Kind() == reflect.Float64 || f.Type == durationType
			if number && f.fallback == "" && !strings.Contains(f.comment, "efault") && s != reflect.TypeFor[affinity.Source]() {
				t.Errorf("limit %s.%s has no default", s.Name(), f.Name)
			}
		}
	})
}

// walk calls visit for each struct of a configuration once, outer ones first, with the place where it is found first.
func walk(t reflect.Type, at string, visit func(at string, t reflect.Type)) {
	seen := map[reflect.Type]bool{}
	var down func(t reflect.Type, at string)
	down = func(t reflect.Type, at string) {
		if seen[t] {
			return
		}
		seen[t] = true
		visit(at, t)
		for _, f := range visibleFields(t) {
			name := join(at, jsonName(f))
			if f.Type.Kind() == reflect.Slice {
				name += "[]"
			}
			if e := element(f.Type); isStruct(e) {
				down(e, name)
			}
		}
	}
	down(t, at)
}

func TestTheListsOfWordsAreThoseOfThePolicy(t *testing.T) {
	for name, words := range policyWords {
		for _, word := range append(words, "glue") {
			kind, member, _ := strings.Cut(name, ".")
			p := affinity.Policy{
				Session:  &affinity.SessionAffinity{Mode: affinity.ModeToken, Token: &affinity.TokenPolicy{}},
				Revision: &affinity.RevisionAffinity{},
			}
			into := map[string]reflect.Value{
				"SessionAffinity": reflect.ValueOf(p.Session), "RevisionAffinity": reflect.ValueOf(p.Revision), "TokenPolicy": reflect.ValueOf(p.Session.Token),
			}[kind].Elem().FieldByName(member)
			into.SetString(word)
			if p.Session.Mode != affinity.ModeToken {
				p.Session.Token = nil
			}
			if got := p.Validate(); (len(got) > 0) != (word == "glue") {
				t.Errorf("Validate of %s %s = %v, want an error for glue only", name, word, got)
			}
		}
	}
}

// compareGenerated compares a committed file with what the types give, or writes it with -update.
func compareGenerated(t *testing.T, file string, got []byte) {
	t.Helper()
	if _, err := os.Stat(file); err != nil && !*update {
		t.Fatal(err)
	}
	compareOut(t, file, got)
}

// plainWord matches text that YAML reads as text without quotes.
var plainWord = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9]*$`)
