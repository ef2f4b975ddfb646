package ingress

import (
	"net/http"
	"testing"

	"knative.dev/networking/pkg/http/header"
)

func TestProbesAreAnsweredByWhatIsServed(t *testing.T) {
	const host = "demo.default.example.com"
	probe := []string{header.ProbeKey, header.ProbeValue, header.HashKey, header.HashValueOverride}
	p := newPlane(t)
	if w := p.ask(host, probe...); w.Code != http.StatusServiceUnavailable {
		t.Errorf("before the first publication a probe is answered %d, want 503", w.Code)
	}
	if w := p.ask(host); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("before the first publication a request is answered %d, want 503 and Retry-After", w.Code)
	}
	p.Publish()
	if w := p.ask(host, probe...); w.Code != http.StatusNotFound {
		t.Errorf("the probe of an unknown host is answered %d, want 404", w.Code)
	}

	p.board.list("demo-00001")
	first := demo("demo", host, "demo-00001")
	p.set(t, first)
	p.Publish()
	if w := p.ask(host, probe...); w.Code != http.StatusServiceUnavailable {
		t.Errorf("the probe of a host without an endpoint is answered %d, want 503", w.Code)
	}
	p.board.list("demo-00001", upstream(t, "demo-00001-a"))
	answered := func(want string) {
		t.Helper()
		w := p.ask(host, probe...)
		if got := w.Header().Get(header.HashKey); w.Code != http.StatusOK || got != want {
			t.Errorf("the probe is answered %d with hash %q, want 200 with %q", w.Code, got, want)
		}
	}
	answered(hashOf(Object{Ingress: first}))

	second := demo("demo", host, "demo-00002")
	if err := p.Set(Object{Ingress: second}); err == nil {
		t.Fatal("Set() = nil, want a backend to be unknown")
	}
	p.Publish()
	answered(hashOf(Object{Ingress: first})) // it is still what is served
	p.board.list("demo-00002", upstream(t, "demo-00002-a"))
	p.set(t, second)
	answered(hashOf(Object{Ingress: first}))
	p.Publish()
	answered(hashOf(Object{Ingress: second}))

	if w := p.ask("demo.default.svc.cluster.local", probe...); w.Code != http.StatusNotFound {
		t.Errorf("the probe of a local host is answered %d outside, want 404", w.Code)
	}
	w := p.ask(host, header.ProbeKey, header.ProbeValue, header.HashKey, "2701a1b2")
	if got := w.Header().Get(header.HashKey); w.Code != http.StatusOK || got != "2701a1b2" {
		t.Errorf("a probe with a hash of its own is answered %d with %q, want the backend's answer", w.Code, got)
	}
}
