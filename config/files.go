package config

import (
	"fmt"
	"reflect"
)

// A namedFile is a file that a field names.
type namedFile struct {
	field string
	path  Path
}

// files returns the files that c names for reading, in the order of the fields.
func (c *Config) files() []namedFile {
	var found []namedFile
	findPaths("", reflect.ValueOf(c).Elem(), &found)
	return found
}

// findPaths leaves out the access log, which is written.
func findPaths(at string, v reflect.Value, found *[]namedFile) {
	switch {
	case v.Type() == pathType:
		if v.String() != "" {
			*found = append(*found, namedFile{field: at, path: Path(v.String())})
		}
	case v.Type() == reflect.TypeFor[AccessLog](), v.Type() == timeType, v.Type() == prefixType:
	case v.Kind() == reflect.Pointer && !v.IsNil():
		findPaths(at, v.Elem(), found)
	case v.Kind() == reflect.Struct:
		for _, f := range visibleFields(v.Type()) {
			findPaths(join(at, jsonName(f)), v.FieldByIndex(f.Index), found)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			findPaths(fmt.Sprintf("%s[%d]", at, i), v.Index(i), found)
		}
	}
}
