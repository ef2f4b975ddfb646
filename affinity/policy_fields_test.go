package affinity

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// A fieldScenario shows that a field of a policy does something: its outcome by the policy given differs from the one by the same
// policy without the field.
type fieldScenario struct {
	policy  string // JSON
	outcome func(t *testing.T, p *Policy) string
}

// fieldScenarios has a scenario for every field whose effect lies in this package.
func fieldScenarios() map[string]fieldScenario {
	all := map[string]fieldScenario{
		"session.mode":       {`{"session": {"mode": "hash"}}`, firstDecision(Request{Session: sessionKey(1)})},
		"session.place":      {`{"session": {"place": "leastLoaded"}}`, placements},
		"session.loadFactor": {`{"session": {"loadFactor": 3}}`, placements},
		"revision.mode":      {`{"revision": {"mode": "proportional"}}`, firstDecision(Request{Flow: flowKey(1)})},
		"retain":             {`{"session": {}, "retain": "2h"}`, leftRevision},
		"settle":             {`{"session": {}, "settle": "1m"}`, unknownPod},
		"maxIDBytes":         {`{"session": {}, "maxIDBytes": 4}`, keysFound},
	}
	for _, affinity := range []string{"session", "revision"} {
		for source, value := range map[string]string{
			"": `{"header": "X-User"}`, ".header": `{"header": "X-User"}`, ".queryParameter": `{"queryParameter": "user"}`,
			".pathSegment": `{"pathSegment": 2}`, ".cookie": `{"cookie": "sid"}`,
			".clientAddress.ipv4Prefix": `{"clientAddress": {"ipv4Prefix": 24}}`,
		} {
			path := affinity + ".from"
			if source != "" {
				path += "[]" + source
			}
			all[path] = fieldScenario{fmt.Sprintf(`{%q: {"from": [%s]}}`, affinity, value), keysFound}
		}
		all[affinity+".from[].clientAddress.ipv6Prefix"] = fieldScenario{
			fmt.Sprintf(`{%q: {"from": [{"clientAddress": {"ipv6Prefix": 48}}]}}`, affinity), keysFoundByIPv6,
		}
	}
	return all
}

// elsewhere names, for every other field, the scenario that shows its effect: that of the package that has it.
var elsewhere = map[string]string{
	"session.idle":           "router.TestPolicyFieldSessionIdle",
	"session.absolute":       "router.TestPolicyFieldSessionAbsolute",
	"session.overflow":       "router.TestPolicyFieldSessionOverflow",
	"session.queueTimeout":   "router.TestPolicyFieldSessionQueueTimeout",
	"session.token.cookie":   "router.TestPolicyFieldSessionTokenCookie",
	"session.token.header":   "router.TestPolicyFieldSessionTokenHeader",
	"session.token.path":     "router.TestPolicyFieldSessionTokenPath",
	"session.token.domain":   "router.TestPolicyFieldSessionTokenDomain",
	"session.token.sameSite": "router.TestPolicyFieldSessionTokenSameSite",
	"session.token.secure":   "router.TestPolicyFieldSessionTokenSecure",
	"session.token.forward":  "router.TestPolicyFieldSessionTokenForward",
	"revision.idle":          "router.TestPolicyFieldRevisionIdle",
	"revision.absolute":      "router.TestPolicyFieldRevisionAbsolute",
	"quota":                  "router.TestPolicyFieldQuota",
}

func TestEveryPolicyFieldHasAScenario(t *testing.T) {
	scenarios := fieldScenarios()
	fields := fieldPaths(reflect.TypeFor[Policy](), "")
	for _, path := range fields {
		_, here := scenarios[path]
		_, there := elsewhere[path]
		if here == there {
			t.Errorf("%s has a scenario here: %v, and one elsewhere: %v; want exactly one", path, here, there)
		}
	}
	for _, path := range slices.Concat(slices.Sorted(maps.Keys(scenarios)), slices.Sorted(maps.Keys(elsewhere))) {
		if !slices.Contains(fields, path) {
			t.Errorf("%s has a scenario and is no field of a policy", path)
		}
	}
}

func TestEveryPolicyFieldHasAnEffect(t *testing.T) {
	for path, s := range fieldScenarios() {
		t.Run(path, func(t *testing.T) {
			var given, without Policy
			for _, p := range []*Policy{&given, &without} {
				if err := json.Unmarshal([]byte(s.policy), p); err != nil {
					t.Fatal(err)
				}
			}
			reset(reflect.ValueOf(&without).Elem(), path)
			if errs := given.Validate(); errs != nil {
				t.Fatalf("Validate of %s = %v, want nil", s.policy, errs)
			}
			got, ignored := s.outcome(t, given.WithDefaults()), s.outcome(t, without.WithDefaults())
			if got == ignored {
				t.Errorf("%s gives %q with and without %s", s.policy, got, path)
			}
		})
	}
}

// fieldPaths lists the fields of a struct as YAML names them, with "[]" for an element of a list. Structs are not listed, their
// fields are.
func fieldPaths(t reflect.Type, prefix string) []string {
	var list []string
	for i := range t.NumField() {
		field := t.Field(i)
		path, of := prefix+yamlName(field), field.Type
		if of.Kind() == reflect.Slice {
			list = append(list, path)
			path, of = path+"[]", of.Elem()
		}
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() == reflect.Struct {
			list = append(list, fieldPaths(of, path+".")...)
		} else {
			list = append(list, path)
		}
	}
	return list
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// reset sets the field at the path to its zero value; of lists that of the first element.
func reset(v reflect.Value, path string) {
	for name := range strings.SplitSeq(path, ".") {
		name, element := strings.CutSuffix(name, "[]")
		v = reflect.Indirect(v)
		at := slices.IndexFunc(reflect.VisibleFields(v.Type()), func(f reflect.StructField) bool { return yamlName(f) == name })
		if v = v.Field(at); element {
			v = v.Index(0)
		}
	}
	v.SetZero()
}

func firstDecision(r Request) func(*testing.T, *Policy) string {
	return func(t *testing.T, p *Policy) string {
		r.Now = noon
		return decide(t, p, split(95, 5), r).Bind.String()
	}
}

// placements tells where a hundred sessions are placed among four pods of which one is loaded.
func placements(t *testing.T, p *Policy) string {
	counters := newLoads(4)
	counters.bound[0].Store(100)
	return fmt.Sprint(place(t, p, onePool(pods("demo-00001", 4)), counters, 0, 100))
}

// leftRevision tells what becomes of a session whose revision lost its weight an hour ago.
func leftRevision(t *testing.T, p *Policy) string {
	v := demoView()
	weight(1, 0, hourAgo)(v)
	r := Request{Session: sessionKey(1), SessionMemory: Memory{Target: canaryPod, Made: longAgo}, Now: noon}
	return decide(t, p, v.snapshot(), r).Target.String()
}

// unknownPod tells what becomes of a session that was bound ten seconds ago to a pod that is not known here.
func unknownPod(t *testing.T, p *Policy) string {
	v := demoView()
	unlistPod(0, 0)(v)
	r := Request{Session: sessionKey(1), SessionMemory: Memory{Target: firstPod, Made: noon.Add(-10 * time.Second)}, Now: noon}
	return decide(t, p, v.snapshot(), r).WaitUntil.String()
}

// keysFound tells what keys a message has in which every source finds another id.
func keysFound(t *testing.T, p *Policy) string { return keysFrom(t, p, "203.0.113.77") }

func keysFoundByIPv6(t *testing.T, p *Policy) string { return keysFrom(t, p, "2001:db8:1:2::77") }

func keysFrom(t *testing.T, p *Policy, peer string) string {
	m := &message{path: "/users/carol", query: "user=bob", peer: netip.MustParseAddr(peer), header: map[string][]string{
		"Cookie": {"sid=alice"}, "K-Session": {"mallory"}, "K-Revision": {"mallory"}, "X-User": {"trent"},
	}}
	session, flow, err := testKeyer(t).Keys(p, demo, "", m)
	return fmt.Sprintf("%x %x %v", session.Digest, flow.Digest, err)
}

func TestScenariosElsewhereExist(t *testing.T) {
	source, err := os.ReadFile("../router/policy_fields_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for path, name := range elsewhere {
		if function := strings.TrimPrefix(name, "router."); !strings.Contains(string(source), "func "+function+"(t *testing.T)") {
			t.Errorf("%s: %s does not exist", path, name)
		}
	}
}
