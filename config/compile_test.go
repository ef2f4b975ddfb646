package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("limpet.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse =\n%v\nwant no error", err)
	}
	return c
}

func mustReadFull(t *testing.T) *Config {
	t.Helper()
	data, err := os.ReadFile("testdata/good/full.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, string(data))
}

func TestServicesAreCompiledForTheTable(t *testing.T) {
	want := []endpoint.Service{{
		Name: affinity.ServiceName{Namespace: "shop", Name: "demo"},
		Revisions: []endpoint.Revision{
			{Name: "demo-00001", Weight: 95, Tags: []string{"stable"}},
			{Name: "demo-00002", Weight: 5, Tags: []string{"canary", "next"}},
			{Name: "demo-00003", Failed: true},
		},
		Retain: 10 * time.Minute,
		Probe: &endpoint.Probe{
			HTTPPath: "/healthz", HTTPHost: "demo.shop", Port: 8081, Interval: 2 * time.Second, Timeout: 500 * time.Millisecond,
			HealthyThreshold: 2, UnhealthyThreshold: 2,
		},
		Ejection: &endpoint.Ejection{Consecutive: 3, Base: 5 * time.Second, Max: time.Minute, MaxShare: 0.25},
	}, {
		Name:      affinity.ServiceName{Namespace: "shop", Name: "preview"},
		Revisions: []endpoint.Revision{{Name: "demo-00002", Weight: 1}},
		Probe: &endpoint.Probe{
			UDP: true, UDPSend: "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01",
			Interval: 5 * time.Second, Timeout: time.Second, HealthyThreshold: 1, UnhealthyThreshold: 3,
		},
	}}
	if diff := cmp.Diff(want, mustReadFull(t).EndpointServices()); diff != "" {
		t.Errorf("EndpointServices (-want +got):\n%s", diff)
	}
}

func TestMembersAreSharedByServicesThatNameOneRevision(t *testing.T) {
	name := func(revision string) endpoint.RevisionName {
		return endpoint.RevisionName{Namespace: "shop", Name: revision}
	}
	want := map[endpoint.RevisionName][]endpoint.Member{
		name("demo-00001"): {
			{Name: "demo-00001-a", Address: "10.1.0.7:8080", Limit: 20},
			{Name: "demo-00001-b", Address: "10.1.0.8:8080", Draining: true, DrainUntil: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), Limit: 100},
		},
		name("demo-00002"): {{Name: "demo-00002-a", Address: "demo-00002-a.internal:8080", Limit: 100}},
		name("demo-00003"): {},
	}
	if diff := cmp.Diff(want, mustReadFull(t).Members()); diff != "" {
		t.Errorf("Members (-want +got):\n%s", diff)
	}
}

func TestRoutesAreCompiledForTheGateway(t *testing.T) {
	c := mustReadFull(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("an authority"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Routes[0].Upstream.CAFile = Path(ca)
	got, err := c.Proxy()
	if err != nil {
		t.Fatal(err)
	}
	demo := affinity.ServiceName{Namespace: "shop", Name: "demo"}
	plain := proxy.Upstream{Protocol: proxy.ProtocolHTTP1, ConnectTimeout: time.Second, IdleTimeout: 5 * time.Minute, MaxIdleConns: 256}
	want := proxy.Config{
		Routes: []proxy.Route{{
			Hosts: []string{"shop.example.com", "*.shop.example.com"}, Path: "/", Service: demo, TagHeader: "X-Tag", Policy: c.Policy(demo),
			Upstream: proxy.Upstream{
				Protocol: proxy.ProtocolTLS, ServerName: "demo.internal", RootCAs: []byte("an authority"), ConnectTimeout: 250 * time.Millisecond,
				ResponseTimeout: 20 * time.Second, RequestTimeout: time.Minute, IdleTimeout: -1, MaxIdleConns: 64,
			},
			RetryIdempotent: true, MaxBodyBytes: 10485760, ForwardedHeader: true,
		}, {
			Hosts: []string{"shop.example.com"}, Path: "/canary", Service: demo, Tag: "canary", Policy: c.Policy(demo), Upstream: plain,
			PreserveHost: true,
		}, {
			Hosts: []string{"*"}, Path: "/", Service: affinity.ServiceName{Namespace: "shop", Name: "preview"}, Upstream: plain, PreserveHost: true,
		}},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("192.0.2.1/32")},
		Debuggers:      []netip.Prefix{netip.MustParsePrefix("::1/128")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("Proxy (-want +got):\n%s", diff)
	}
	if got.Routes[0].Policy != got.Routes[1].Policy || got.Routes[0].Policy == nil {
		t.Errorf("two routes of one service have the policies %p and %p, want the same one", got.Routes[0].Policy, got.Routes[1].Policy)
	}
	if p := got.Routes[0].Policy; p.Session.QueueTimeout == 0 {
		t.Errorf("policy of a route = %+v, want its defaults filled in", p.Session)
	}
}

func TestAnAuthorityFileThatIsMissingHasItsLine(t *testing.T) {
	c := mustParse(t, "services:\n- {name: demo, revisions: [{name: demo-00001}]}\nroutes:\n- service: demo\n  upstream:\n    protocol: https\n"+
		"    caFile: /nowhere/ca.pem\n")
	_, err := c.Proxy()
	want := "limpet.yaml:7: routes[0].upstream.caFile: open /nowhere/ca.pem: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("Proxy = %v, want %q", err, want)
	}
}

func TestLimitsAreCompiledForAListener(t *testing.T) {
	want := proxy.Limits{
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, WriteStall: time.Minute, ReadStall: time.Minute,
		MaxHeaderBytes: 65536, MaxConnections: 10000, MaxStreams: 250,
	}
	if got := Defaults().Listeners[0].Limits.Compile(); got != want {
		t.Errorf("Compile = %+v, want %+v", got, want)
	}
}

func TestEverySyntaxAcceptsWhatItSaysAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		syntax    string
		good, bad []string
	}{
		{"name", []string{"demo-00001", "7d1c3a52-0f5e-4d0e-9a55-6b8f2f0c9e11", "a", "A_1.b"}, []string{"", "-a", "a-", "a/b", "a b", "ä", strings.Repeat("a", 254)}},
		{"address", []string{"10.0.0.7:80", "[2001:db8::1]:443", "app_1:8080", "app.example.com:1"}, []string{"10.0.0.7", ":80", "app:0", "app:http", "app:65536", "2001:db8::1:80", "a..b:1"}},
		{"listen", []string{":0", ":8080", "127.0.0.1:8080", "[::]:8080"}, []string{"8080", "127.0.0.1", ":"}},
		{"listenOrOff", []string{"off", ":9901"}, []string{"on", ""}},
		{"host", []string{"app.example.com", "10.0.0.7", "2001:db8::1"}, []string{"", "a b", "a:1", "a..b", strings.Repeat("a", 64)}},
		{"hostPattern", []string{"*", "*.example.com", "example.com"}, []string{"", "*.", "a.*.b", "**", "*example.com"}},
		{"path", []string{"/", "/a", "/a/", "/a.b/c-d"}, []string{"", "a", "/a?b", "/a#b", "/a//b", "/a/../b", "/.", "/a b", "/a%2fb", "/ä"}},
		{"hexBytes", []string{"00", "0001 0100", "DEADbeef"}, []string{"", " ", "0", "0x00", "zz", strings.Repeat("00", 1025)}},
		{"requestPath", []string{"/healthz?full=1", "/a//b"}, []string{"healthz", "/a b", "/a\r\nb", "/a#b"}},
		{"header", []string{"X-Tag", "knative_serving-tag"}, []string{"", "X Tag", "X:Tag", "X\nTag"}},
		{"prefix", []string{"limpet:", "shop/"}, []string{"{shop}", "a b", strings.Repeat("a", 65)}},
		{"url", []string{"http://localhost:4318/v1/traces", "https://otel.example.com"}, []string{"localhost:4318", "ftp://otel", "http://"}},
	} {
		for i, text := range append(append([]string(nil), c.good...), c.bad...) {
			if got, want := syntaxes[c.syntax].ok(text), i < len(c.good); got != want {
				t.Errorf("%s.ok(%q) = %v, want %v", c.syntax, text, got, want)
			}
		}
	}
	if len(syntaxes) != 12 {
		t.Errorf("%d syntaxes, want a case here for each", len(syntaxes))
	}
}

func TestTwoConfigurationsShareNothing(t *testing.T) {
	text := "services: [{name: demo, affinity: {}, revisions: [{name: demo-00001, tags: [canary]}]}]\nroutes: [{service: demo}]\n"
	first, second := mustParse(t, text), mustParse(t, text)
	first.Services[0].Revisions[0].Tags[0] = "changed"
	name := affinity.ServiceName{Name: "demo"}
	if second.Services[0].Revisions[0].Tags[0] != "canary" || first.Policy(name) == second.Policy(name) {
		t.Errorf("a change of one configuration shows in another: %v", fmt.Sprint(second.Services))
	}
}
