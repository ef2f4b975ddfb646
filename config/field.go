package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// jsonName returns the name of a field in YAML, "" if it has none.
func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// visibleFields returns the fields of a struct that have a name in YAML, in their order.
func visibleFields(t reflect.Type) []reflect.StructField {
	var fields []reflect.StructField
	for f := range t.Fields() {
		if jsonName(f) != "" {
			fields = append(fields, f)
		}
	}
	return fields
}

func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	fields := make(map[string]reflect.StructField)
	for _, f := range visibleFields(t) {
		fields[jsonName(f)] = f
	}
	return fields
}

func fieldNames(t reflect.Type) string {
	var names []string
	for _, f := range visibleFields(t) {
		names = append(names, jsonName(f))
	}
	return strings.Join(names, ", ")
}

// setDefaults gives each field of a struct the value of its default tag. A default that does not decode is a fault of this package.
func setDefaults(v reflect.Value) {
	for _, f := range visibleFields(v.Type()) {
		field := v.FieldByIndex(f.Index)
		text, ok := f.Tag.Lookup("default")
		switch {
		case ok:
			n := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
			if f.Type.Kind() == reflect.String {
				n.Tag = "!!str"
			}
			if !setScalar(n, field) {
				panic(fmt.Sprintf("config: default %q of %s.%s", text, v.Type(), f.Name))
			}
		case field.Kind() == reflect.Struct && field.Type() != timeType && field.Type() != prefixType:
			setDefaults(field)
		}
	}
}

// inRange reports whether v is within the min and max of its tags and one of its enum.
func inRange(v reflect.Value, tag reflect.StructTag) bool {
	if words := tag.Get("enum"); words != "" {
		return strings.Contains("|"+words+"|", "|"+v.String()+"|")
	}
	return !below(v, tag.Get("min")) && !above(v, tag.Get("max"))
}

func below(v reflect.Value, limit string) bool {
	switch {
	case limit == "":
		return v.CanInt() && v.Int() < 0
	case v.Kind() == reflect.Float64:
		return v.Float() < mustLimit(limit, v).Float()
	}
	return v.Int() < mustLimit(limit, v).Int()
}

func above(v reflect.Value, limit string) bool {
	switch {
	case limit == "":
		return false
	case v.Kind() == reflect.Float64:
		return v.Float() > mustLimit(limit, v).Float()
	}
	return v.Int() > mustLimit(limit, v).Int()
}

func mustLimit(text string, like reflect.Value) reflect.Value {
	limit := reflect.New(like.Type()).Elem()
	if !setScalar(&yaml.Node{Kind: yaml.ScalarNode, Value: text}, limit) {
		panic("config: limit " + text)
	}
	return limit
}

// wellFormed reports whether v has the syntax that its check tag names.
func wellFormed(v reflect.Value, tag reflect.StructTag) bool {
	name := tag.Get("check")
	return name == "" || syntaxes[name].ok(v.String())
}

// expected says in words what a value of type t may be.
func expected(t reflect.Type, tag reflect.StructTag) string {
	if words := tag.Get("enum"); words != "" {
		return oneOf(strings.Split(words, "|"))
	}
	if t.Kind() == reflect.Slice {
		return "a list, each of it " + expected(t.Elem(), tag)
	}
	if name := tag.Get("check"); name != "" {
		return syntaxes[name].words
	}
	switch t {
	case pathType:
		return "the name of a file"
	case durationType:
		return "a duration such as 1h30m or 500ms" + span(tag, "0s")
	case timeType:
		return "a time such as 2026-01-02T15:04:05Z"
	case prefixType:
		return "an address or a network such as 10.0.0.0/8"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number" + span(tag, "0")
	case reflect.Float64:
		return "a number" + span(tag, "0")
	case reflect.String:
		return "text"
	}
	return "a mapping"
}

// span says in words which range a number has.
func span(tag reflect.StructTag, least string) string {
	if low := tag.Get("min"); low != "" {
		least = low
	}
	if most := tag.Get("max"); most != "" {
		return " from " + least + " to " + most
	}
	return " from " + least
}

func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// found says in words what stands at n.
func found(n *yaml.Node) string {
	switch {
	case n == nil || isNull(n):
		return "nothing"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	}
	return quoted(n.Value)
}

// quoted returns text in quotes, cut where it would make a message unreadable.
func quoted(text string) string {
	if len(text) > 64 {
		text = text[:64] + "…"
	}
	return strconv.Quote(text)
}

// quotingAdvice says what to do about a number in quotes or a text without them.
func quotingAdvice(n *yaml.Node, v reflect.Value) string {
	quotes := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0
	switch tag := n.ShortTag(); {
	case n.Kind != yaml.ScalarNode || n.Value == "":
		return ""
	case v.Kind() == reflect.String && !quotes && (tag == "!!int" || tag == "!!float" || tag == "!!bool"):
		return ": write it in quotes"
	case v.Kind() != reflect.String && v.Type() != durationType && v.CanInt() && quotes, v.Kind() == reflect.Bool && quotes:
		return " without quotes"
	case v.Type() == durationType && (tag == "!!int" || tag == "!!float"):
		return ": write the unit"
	}
	return ""
}

func parsePrefix(text string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), p.Masked() == p
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

// unknownField says that a field does not exist and which one may have been meant.
func unknownField(name string, t reflect.Type) string {
	best, least := "", 3
	for _, f := range visibleFields(t) {
		candidate := jsonName(f)
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < least && d < len(candidate)-1 {
			best, least = candidate, d
		}
	}
	if best != "" {
		return fmt.Sprintf("unknown field %s, did you mean %s?", quoted(name), best)
	}
	return fmt.Sprintf("unknown field %s, expected one of %s", quoted(name), fieldNames(t))
}

// distance counts the letters to insert, delete or change between two short words; long ones are far apart.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
