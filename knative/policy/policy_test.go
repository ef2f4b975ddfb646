package policy

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/knative/policy/policytest"
)

// parsed returns the policy that a text means, with its defaults.
func parsed(t testing.TB, text string) *affinity.Policy {
	t.Helper()
	if text == "off" {
		return nil
	}
	p, err := config.ParsePolicy("want", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnnotationsMeanAPolicy(t *testing.T) {
	for _, s := range policytest.Scenarios(t) {
		t.Run(s.Name, func(t *testing.T) {
			got, err := Defaults{}.Policy(s.Annotations)
			if s.Wrong != "" {
				if err == nil || !strings.Contains(err.Error(), s.Wrong) || got != nil {
					t.Errorf("Policy(%q) = %v, %v, want the error %q", s.Annotations, got, err, s.Wrong)
				}
				return
			}
			if err != nil {
				t.Fatalf("Policy(%q): %v, want no error", s.Annotations, err)
			}
			if diff := cmp.Diff(parsed(t, s.Want), got); diff != "" {
				t.Errorf("Policy(%q) (-want +got):\n%s", s.Annotations, diff)
			}
		})
	}
}

func TestAllThatIsWrongIsToldAtOnce(t *testing.T) {
	_, err := Defaults{}.Policy(map[string]string{
		SessionHeader: "K Session", RevisionPathSegment: "0", "affinity.limpet.dev/mode": "hash",
		Structured: "session:\n  mode: glue\n  idle: 1ms\n",
	})
	want := strings.Join([]string{
		"affinity.limpet.dev/mode: unknown annotation, expected affinity.limpet.dev/policy",
		`affinity.limpet.dev/policy:2: session.mode: expected bound, hash or token, got "glue"`,
		"affinity.limpet.dev/policy:3: session.idle: expected at least 1s, got 1ms",
		`activator.knative.dev/sticky-session-header-name: got "K Session", expected the name of a header, 1 to 256 letters, ` +
			"digits and !#$%&'*+-.^_`|~",
		`activator.knative.dev/sticky-revision-path-segment: got "0", expected a whole number from 1 to 100`,
		"activator.knative.dev/sticky-session-header-name: given although affinity.limpet.dev/policy has session, expected one of the two",
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("Policy =\n%v\nwant\n%s", err, want)
	}
}

func configMap(data map[string]string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{Data: data}
	cm.Name, cm.Namespace = ConfigMap, "limpet-system"
	return cm
}

// defaults parses a ConfigMap that is right.
func defaults(t testing.TB, data map[string]string) Defaults {
	t.Helper()
	d, err := ParseDefaults(configMap(data))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDefaultsOfTheCluster(t *testing.T) {
	byHash := map[string]string{"policy": "session: {mode: hash, idle: 10m}\nretain: 5m\n"}
	tests := []struct {
		name        string
		data        map[string]string
		annotations map[string]string
		want        string
	}{
		{"an empty ConfigMap", nil, nil, "{}"},
		{"the example does not count", map[string]string{"_example": "affinity: off"}, nil, "{}"},
		{"affinity is on", map[string]string{"affinity": "on\n"}, nil, "{}"},
		{"affinity is off", map[string]string{"affinity": "off"}, nil, "off"},
		{"affinity is off for whoever asks", map[string]string{"affinity": "off"}, map[string]string{Structured: "{}"}, "off"},
		{"nothing is wrong where affinity is off", map[string]string{"affinity": "off"}, map[string]string{Structured: "glue"}, "off"},
		{"a policy", byHash, nil, byHash["policy"]},
		{"an annotation takes the place of a policy", byHash, map[string]string{Structured: "{}"}, "{}"},
		{"an annotation turns it off", byHash, map[string]string{Structured: "off"}, "off"},
		{
			"a simple annotation takes the place of its sources", byHash,
			map[string]string{SessionHeader: "X-User"},
			"{session: {from: [{header: X-User}], mode: hash, idle: 10m}, retain: 5m}",
		},
		{
			"a simple annotation turns its kind on", byHash,
			map[string]string{RevisionHeader: "X-Flow"},
			"{session: {mode: hash, idle: 10m}, revision: {from: [{header: X-Flow}]}, retain: 5m}",
		},
		{"only for those who ask", map[string]string{"policy": "off\n"}, nil, "off"},
		{"asked for by a policy", map[string]string{"policy": "off"}, map[string]string{Structured: "{}"}, "{}"},
		{
			"asked for by a simple annotation",
			map[string]string{"policy": "off"},
			map[string]string{SessionPathSegment: "1"},
			"{session: {from: [{pathSegment: 1}]}}",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := defaults(t, tt.data).Policy(tt.annotations)
			if diff := cmp.Diff(parsed(t, tt.want), got); err != nil || diff != "" {
				t.Errorf("Policy(%q) = %v (-want +got):\n%s", tt.annotations, err, diff)
			}
		})
	}
}

// The bindings of all users lie in one store: none may fill it.
func TestNoQuotaIsLargerThanTheClusters(t *testing.T) {
	quota := func(n string) map[string]string {
		return map[string]string{Structured: "{session: {}, quota: " + n + "}"}
	}
	for _, tt := range []struct {
		name        string
		data        map[string]string
		annotations map[string]string
		want        int
		refused     string
	}{
		{"the usual one", nil, nil, 1_000_000, ""},
		{"a smaller one that was asked for", nil, quota("5000"), 5000, ""},
		{"the usual one, where less is allowed", map[string]string{"max-quota": "100000"}, nil, 100_000, ""},
		{"a larger one, where it is allowed", map[string]string{"max-quota": "3000000"}, quota("2000000"), 2_000_000, ""},
		{"a larger one", nil, quota("2000000"), 0, Structured + ": quota: got 2000000, expected at most 1000000 (config-limpet/max-quota)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := defaults(t, tt.data).Policy(tt.annotations)
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) || p != nil {
					t.Errorf("Policy(%q) = %v, %v, want nil and the error %q", tt.annotations, p, err, tt.refused)
				}
				return
			}
			if err != nil || p.Quota != tt.want {
				t.Errorf("Policy(%q) = %+v, %v, want the quota %d", tt.annotations, p, err, tt.want)
			}
		})
	}
}

func TestAWrongConfigMapIsRefused(t *testing.T) {
	tests := []struct {
		name string
		data map[string]string
		want string
	}{
		{"neither on nor off", map[string]string{"affinity": "yes"}, `config-limpet/affinity:1: got "yes", expected on or off`},
		{"an unknown key", map[string]string{"afinity": "off"}, "config-limpet/afinity: unknown key, expected one of affinity, drain-timeout, max-quota, policy, session-load, session-load-max"},
		{"a wrong policy", map[string]string{"policy": "session:\n  mode: glue\n"}, "config-limpet/policy:2: session.mode: "},
		{"an empty policy", map[string]string{"policy": ""}, "config-limpet/policy: got nothing, expected a policy, {} for the defaults, or off"},
		{
			"a policy by a header that is removed",
			map[string]string{"policy": "session: {from: [{header: Limpet-Session}]}"},
			`config-limpet/policy: session.from[0].header: got "Limpet-Session", expected a header that comes from clients`,
		},
		{
			"a drain timeout without a unit",
			map[string]string{"drain-timeout": "300"},
			`config-limpet/drain-timeout:1: got "300", expected a duration from 0s to 24h, such as 5m`,
		},
		{"a negative drain timeout", map[string]string{"drain-timeout": "-1s"}, `config-limpet/drain-timeout:1: got "-1s"`},
		{"a quota of none", map[string]string{"max-quota": "0"}, `config-limpet/max-quota:1: got "0", expected a number of bindings from 1 to 1000000000`},
		{"a drain timeout of days", map[string]string{"drain-timeout": "25h"}, `config-limpet/drain-timeout:1: got "25h"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := ParseDefaults(configMap(tt.data))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseDefaults(%q) = %v, want the error %q", tt.data, err, tt.want)
			}
			var problems config.Problems
			if !errors.As(err, &problems) || !cmp.Equal(d, Defaults{}, cmp.AllowUnexported(Defaults{})) {
				t.Errorf("ParseDefaults(%q) = %+v, %T, want the zero Defaults and config.Problems", tt.data, d, err)
			}
		})
	}
}

func TestBinaryDataIsRefused(t *testing.T) {
	cm := configMap(nil)
	cm.BinaryData = map[string][]byte{"policy": {0xff}}
	want := "config-limpet/policy: got binary data, expected text"
	if _, err := ParseDefaults(cm); err == nil || err.Error() != want {
		t.Errorf("ParseDefaults of binary data = %v, want %q", err, want)
	}
}

func TestDrainTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 5 * time.Minute, "0s": 0, "90s\n": 90 * time.Second, "24h": 24 * time.Hour} {
		data := map[string]string{"drain-timeout": text}
		if text == "" {
			data = nil
		}
		if got := defaults(t, data).DrainTimeout(); got != want {
			t.Errorf("DrainTimeout() with %q = %v, want %v", text, got, want)
		}
	}
	if d, err := ParseDefaults(nil); err != nil || d.DrainTimeout() != 5*time.Minute {
		t.Errorf("ParseDefaults(nil) = %v, %v, want the zero Defaults", d, err)
	}
}

func TestAPolicyIsItsCallersOwn(t *testing.T) {
	d := defaults(t, map[string]string{"policy": "session: {from: [{clientAddress: {}}], mode: token}"})
	for _, annotations := range []map[string]string{nil, {RevisionHeader: "X-Flow"}} {
		first, err := d.Policy(annotations)
		if err != nil {
			t.Fatal(err)
		}
		first.Session.From[0].ClientAddress.IPv4Prefix = 1
		first.Session.Token.Cookie = "changed"
		first.Session.Mode = affinity.ModeHash
	}
	got, err := d.Policy(nil)
	want := parsed(t, "session: {from: [{clientAddress: {}}], mode: token}")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Policy(nil) after others changed theirs = %v (-want +got):\n%s", err, diff)
	}
}

// FuzzPolicy checks that whatever is accepted is valid and filled in, and that the structured annotation is never read more
// generously than a configuration.
func FuzzPolicy(f *testing.F) {
	for _, s := range policytest.Scenarios(f) {
		if len(s.Annotations[Structured]) < 1000 {
			a := s.Annotations
			f.Add(a[SessionHeader], a[RevisionQueryParameter], a[SessionPathSegment], a[Structured], "mode")
		}
	}
	f.Fuzz(func(t *testing.T, header, query, segment, structured, other string) {
		annotations := map[string]string{structuredPrefix + other: "x"}
		for name, value := range map[string]string{
			SessionHeader: header, RevisionQueryParameter: query, SessionPathSegment: segment, Structured: structured,
		} {
			if value != "" {
				annotations[name] = value
			}
		}
		if other == "" {
			delete(annotations, structuredPrefix)
		}
		before := maps.Clone(annotations)
		p, err := Defaults{}.Policy(annotations)
		if !maps.Equal(before, annotations) {
			t.Fatalf("Policy(%q) changed its argument to %q", before, annotations)
		}
		if err != nil {
			if p != nil || err.Error() == "" {
				t.Fatalf("Policy(%q) = %v, %q, want an error with a text or a policy", annotations, p, err)
			}
			return
		}
		if p == nil {
			return
		}
		if wrong := p.Validate(); wrong != nil {
			t.Fatalf("Policy(%q) = %+v, which is invalid: %v", annotations, p, wrong)
		}
		if diff := cmp.Diff(p, p.WithDefaults()); diff != "" {
			t.Fatalf("Policy(%q) is not filled in:\n%s", annotations, diff)
		}
		if header != "" && (p.Session == nil || !strings.EqualFold(p.Session.From[0].Header, header)) {
			t.Fatalf("Policy(%q) = %+v, want the header first", annotations, p.Session)
		}
	})
}
