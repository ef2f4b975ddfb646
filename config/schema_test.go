package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// schema makes the JSON Schema from the types, their comments and their tags.
func schema(d description) *jsonschema.Schema {
	r := jsonschema.Reflector{
		Anonymous:     true,
		LookupComment: func(t reflect.Type, field string) string { return d[strings.TrimSuffix(t.Name()+"."+field, ".")] },
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case durationType:
				return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`}
			case prefixType, pathType:
				return &jsonschema.Schema{Type: "string", MinLength: one()}
			}
			return nil
		},
	}
	s := r.ReflectFromType(reflect.TypeFor[Config]())
	s.Title = "Limpet configuration"
	walk(reflect.TypeFor[Config](), "", func(_ string, t reflect.Type) {
		definition := s.Definitions[t.Name()]
		definition.Description = d[t.Name()]
		for _, f := range d.fields(t) {
			p, _ := definition.Properties.Get(f.name)
			f.refine(p)
		}
	})
	return s
}

// refine adds what the tags of a field say.
func (f field) refine(p *jsonschema.Schema) {
	p.Description = f.comment
	if f.fallback != "" {
		p.Default = jsonValue(f)
	}
	for _, w := range f.words {
		p.Enum = append(p.Enum, w)
	}
	if k := f.Type.Kind(); f.Type != durationType && (k == reflect.Int || k == reflect.Int64 || k == reflect.Float64) {
		p.Minimum, p.Maximum = json.Number(f.Tag.Get("min")), json.Number(f.Tag.Get("max"))
		if p.Minimum == "" {
			p.Minimum = "0"
		}
	}
	if f.Type.Kind() == reflect.Slice && f.required {
		p.MinItems = one()
	}
	if f.Type.Kind() == reflect.String && f.words == nil {
		p.MinLength = one()
	}
}

func jsonValue(f field) any {
	switch f.Type.Kind() {
	case reflect.Bool:
		return f.fallback == "true"
	case reflect.Int, reflect.Int64, reflect.Float64:
		if f.Type != durationType {
			return json.Number(f.fallback)
		}
	}
	return f.fallback
}

func one() *uint64 { n := uint64(1); return &n }

func TestGeneratedSchemaIsThatOfTheTypes(t *testing.T) {
	got, err := json.MarshalIndent(schema(describe(t)), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	compareGenerated(t, "schema.json", append(got, '\n'))
}

// compiled returns the committed schema, ready to validate with.
func compiledSchema(t *testing.T) *validator.Schema {
	t.Helper()
	document, err := validator.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	if err := c.AddResource("limpet.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("limpet.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *validator.Schema, data []byte) error {
	t.Helper()
	text, err := yaml.YAMLToJSON(data)
	if err != nil {
		return err
	}
	value, err := validator.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(value)
}

func TestGoodConfigurationsFitTheSchema(t *testing.T) {
	s := compiledSchema(t)
	good := inputs(t, "testdata/good/*.in.yaml")
	good["default.yaml"] = Default()
	for name, data := range good {
		if err := validate(t, s, data); err != nil {
			t.Errorf("%s: %v, want it to fit the schema", name, err)
		}
	}
}

func TestTheSchemaRefusesWhatItCanSee(t *testing.T) {
	s := compiledSchema(t)
	for _, text := range []string{
		"listener: []\n",
		"admin: {address: 9901}\n",
		"listeners: [{name: http}]\n",
		"listeners: [{name: http, address: ':80', limits: {idleTimeout: 10}}]\n",
		"listeners: [{name: http, address: ':80', limits: {idleTimeout: -1s}}]\n",
		"accessLog: {format: xml}\n",
		"services: [{name: demo, revisions: []}]\n",
		"services: [{name: demo, revisions: [{name: demo-00001, weight: 1000001}]}]\n",
		"services: [{name: demo, revisions: [{name: demo-00001}], affinity: {session: {mode: glue}}}]\n",
		"services: [{name: demo, revisions: [{name: demo-00001}], ejection: {maxShare: 0.75}}]\n",
	} {
		if err := validate(t, s, []byte(text)); err == nil {
			t.Errorf("%q fits the schema, want it refused", text)
		}
		if _, err := Parse("limpet.yaml", []byte(text)); err == nil {
			t.Errorf("Parse(%q) = no error, want it refused as the schema refuses it", text)
		}
	}
}

func TestEveryExampleIsRight(t *testing.T) {
	s := compiledSchema(t)
	err := filepath.WalkDir("../examples", func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "limpet.yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := validate(t, s, data); err != nil {
			t.Errorf("%s: %v, want it to fit the schema", path, err)
		}
		if _, err := Parse(path, data); err != nil {
			t.Errorf("Parse(%s) =\n%v\nwant no error", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDefaultsOfTheSchemaAreThoseThatAreFilledIn(t *testing.T) {
	var s struct {
		Definitions map[string]struct {
			Properties map[string]struct{ Default any }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"Limits.maxConnections": 10000.0, "RedisStore.timeout": "50ms", "Route.preserveHost": true, "SessionAffinity.idle": "1h",
		"SessionAffinity.loadFactor": 1.25, "Policy.quota": 1000000.0, "TokenPolicy.cookie": "limpet", "Revision.weight": 1.0,
		"AddressPrefix.ipv6Prefix": 64.0, "Shutdown.drain": "30s", "Ejection.maxShare": 0.5,
	} {
		kind, field, _ := strings.Cut(name, ".")
		if got := s.Definitions[kind].Properties[field].Default; got != want {
			t.Errorf("default of %s in the schema = %v, want %v", name, got, strconv.Quote(name))
		}
	}
}
