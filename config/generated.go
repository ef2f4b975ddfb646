package config

import (
	"bytes"
	_ "embed" // default.yaml and schema.json are written from the types by go test -update
)

//go:generate go test -run TestGenerated -update .

var (
	//go:embed default.yaml
	defaultYAML []byte
	//go:embed schema.json
	schemaJSON []byte
)

// Default returns a configuration with a comment for every field, which means the same as an empty one. What has no default, or
// belongs to something that is off by default, is commented out.
func Default() []byte { return bytes.Clone(defaultYAML) }

// Schema returns the JSON Schema (2020-12) of a configuration, for editors. It does not know how fields must agree: Parse checks more.
func Schema() []byte { return bytes.Clone(schemaJSON) }
