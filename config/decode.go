package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/limpet-project/limpet/affinity"
)

// A Path names a file. In a configuration it is relative to the directory of the configuration's own file.
type Path string

// A decoder fills a value from YAML and collects what is wrong.
type decoder struct {
	file     string
	dir      string // that relative paths begin at
	problems Problems
	paths    map[string]int // line of each Path that was given, by field
}

// A node is a piece of YAML with its position, and what a field's tags say of it.
type node struct {
	*yaml.Node
	at  *position
	tag reflect.StructTag
}

var (
	pathType     = reflect.TypeFor[Path]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
	durationType = reflect.TypeFor[affinity.Duration]()
	timeType     = reflect.TypeFor[time.Time]()
)

// decode fills into, a pointer to a struct, from data: defaults first, then what data says.
func (d *decoder) decode(data []byte, into any) *yaml.Node {
	v := reflect.ValueOf(into).Elem()
	setDefaults(v)
	root := d.parse(data)
	if root != nil {
		d.value(node{Node: root}, v)
	}
	return root
}

// parse returns the one document of data, or nil if it is empty or wrong.
func (d *decoder) parse(data []byte) *yaml.Node {
	if len(data) > MaxBytes {
		d.fail(node{}, "longer than %d bytes", MaxBytes)
		return nil
	}
	documents := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if err := documents.Decode(&first); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		d.syntax(err)
		return nil
	}
	if err := documents.Decode(&second); err == nil {
		d.fail(node{Node: &second}, "a second document begins here, expected one")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
	}
	root := first.Content[0]
	if isNull(root) {
		return nil
	}
	return root
}

// yamlLine finds the line in an error of the YAML library, which tells it only as text.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func (d *decoder) syntax(err error) {
	line, reason := 1, err.Error()
	if m := yamlLine.FindStringSubmatch(strings.SplitN(reason, "\n", 2)[0]); m != nil {
		reason = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	d.fail(node{Node: &yaml.Node{Line: line}}, "not YAML: %s", reason)
}

// fail notes a problem at n.
func (d *decoder) fail(n node, format string, args ...any) {
	if len(d.problems) >= maxProblems {
		return
	}
	p := &Problem{File: d.file, Field: n.at.String(), Reason: fmt.Sprintf(format, args...)}
	if n.Node != nil {
		p.Line = n.Line
	}
	d.problems = append(d.problems, p)
}

func (d *decoder) value(n node, v reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n, "got the alias *%s, expected %s: aliases are not allowed", n.Value, expected(v.Type(), n.tag))
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, "got a tag %s, expected %s without a tag", n.Tag, expected(v.Type(), n.tag))
		return
	}
	switch v.Type() {
	case pathType, prefixType, durationType, timeType:
		d.scalar(n, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		d.pointer(n, v)
	case reflect.Struct:
		d.mapping(n, v)
	case reflect.Slice:
		d.sequence(n, v)
	default:
		d.scalar(n, v)
	}
}

// pointer refuses an empty value: it could mean "none" as well as "with the defaults".
func (d *decoder) pointer(n node, v reflect.Value) {
	if isNull(n.Node) {
		d.fail(n, "got nothing, expected a mapping: write {} for the defaults, or leave it out")
		return
	}
	v.Set(reflect.New(v.Type().Elem()))
	setDefaults(v.Elem())
	d.value(n, v.Elem())
}

func (d *decoder) mapping(n node, v reflect.Value) {
	if isNull(n.Node) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, "got %s, expected a mapping", found(n.Node))
		return
	}
	fields := fieldsOf(v.Type())
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		f, ok := fields[key.Value]
		at := node{Node: key, at: n.at.field(key.Value)}
		switch {
		case key.Kind != yaml.ScalarNode:
			d.fail(node{Node: key, at: n.at}, "got %s as a field's name, expected one of %s", found(key), fieldNames(v.Type()))
		case lines[key.Value] != 0:
			d.fail(at, "given a second time, first in line %d", lines[key.Value])
		case !ok:
			d.fail(node{Node: key, at: n.at}, "%s", unknownField(key.Value, v.Type()))
		default:
			lines[key.Value] = key.Line
			d.value(node{Node: value, at: at.at, tag: f.Tag}, v.FieldByIndex(f.Index))
		}
	}
	for _, f := range visibleFields(v.Type()) {
		if name := jsonName(f); f.Tag.Get("required") != "" && lines[name] == 0 {
			d.fail(node{Node: n.Node, at: n.at.field(name)}, "missing, expected %s", expected(f.Type, f.Tag))
		}
	}
}

func (d *decoder) sequence(n node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		if !isNull(n.Node) || n.tag.Get("required") != "" {
			d.fail(n, "got %s, expected %s", found(n.Node), expected(v.Type(), n.tag))
		}
		return
	}
	if len(n.Content) == 0 && n.tag.Get("required") != "" {
		d.fail(n, "got an empty list, expected %s", expected(v.Type(), n.tag))
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		e := v.Index(i)
		if e.Kind() == reflect.Struct && e.Type() != prefixType {
			setDefaults(e)
			if isNull(c) {
				d.fail(node{Node: c, at: n.at.element(i)}, "got nothing, expected a mapping")
				continue
			}
		}
		d.value(node{Node: c, at: n.at.element(i), tag: n.tag}, e)
	}
}

// scalar decodes text, numbers and what is written as text.
func (d *decoder) scalar(n node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || !setScalar(n.Node, v) || !inRange(v, n.tag) || !wellFormed(v, n.tag) {
		d.fail(n, "got %s, expected %s%s", found(n.Node), expected(v.Type(), n.tag), quotingAdvice(n.Node, v))
		return
	}
	if v.Type() == pathType {
		d.paths[n.at.String()] = n.Line
		if p := v.String(); !filepath.IsAbs(p) && p != "-" && p != "off" {
			v.SetString(filepath.Join(d.dir, p))
		}
	}
}

// setScalar reports whether n's text means a value of v's type, which it then gets.
func setScalar(n *yaml.Node, v reflect.Value) bool {
	tag, text := n.ShortTag(), n.Value
	switch v.Type() {
	case durationType:
		t, err := time.ParseDuration(text)
		v.SetInt(int64(t))
		return err == nil && t >= 0 && tag == "!!str"
	case timeType:
		t, err := time.Parse(time.RFC3339, text)
		v.Set(reflect.ValueOf(t.UTC()))
		return err == nil
	case prefixType:
		p, ok := parsePrefix(text)
		v.Set(reflect.ValueOf(p))
		return ok
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return (tag == "!!str" || tag == "!!timestamp") && text != ""
	case reflect.Bool:
		v.SetBool(text == "true")
		return tag == "!!bool" && (text == "true" || text == "false")
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(text, 10, 64)
		v.SetInt(i)
		return err == nil && tag == "!!int" && !v.OverflowInt(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		v.SetFloat(f)
		return err == nil && (tag == "!!int" || tag == "!!float") && f-f == 0
	}
	panic("config: no way to decode " + v.Type().String())
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }
