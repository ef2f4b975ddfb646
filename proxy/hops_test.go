package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// With no end to it, one request would take all connections of the listener.
func TestARequestWhoseRouteLeadsBackToItsGatewayEnds(t *testing.T) {
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		p := &fakePicker{places: []place{{}}}
		s := serve(t, p, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
		p.places[0] = at(s.address)
		if got := s.get(t, "/").StatusCode; got != http.StatusLoopDetected {
			t.Errorf("%s: status = %d, want 508", protocol, got)
		}
		first := s.ledger.next(t)
		if first.Cause != "loop" || first.Picked {
			t.Errorf("%s: the pass that ends it has cause %q, picked %v, want loop, false", protocol, first.Cause, first.Picked)
		}
		for range maxHops {
			s.ledger.next(t)
		}
		if n := len(s.ledger.ended); n != 0 {
			t.Errorf("%s: the request passed %d times more than %d", protocol, n, maxHops)
		}
	}
}

func TestARequestMayPassSeveralGateways(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header[headerHops], ","))
	})
	for n, want := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "508"} {
		s := serve(t, &fakePicker{places: []place{at(address)}})
		resp := s.get(t, "/")
		if got := text(t, resp); want != "508" && got != want || want == "508" && resp.StatusCode != http.StatusLoopDetected {
			t.Errorf("behind %d gateways: %d with hops %q, want %s", n+1, resp.StatusCode, got, want)
		}
		address = s.address
	}
}

func TestClientsThatMakeUpHopsEndAtMostTheirOwnRequest(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header[headerHops], ","))
	})
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) {
		r.SetHeaders = map[string]string{headerHops: "0"}
	}))
	for _, c := range []struct {
		lines []string
		want  string // "" is 508
	}{
		{nil, "1"},
		{[]string{"7"}, "8"},
		{[]string{"8"}, ""},
		{[]string{"255"}, ""},
		{[]string{"99999999999999999999999"}, ""},
		{[]string{"2", "5", "1"}, "6"},
		{[]string{"-3"}, "1"},
		{[]string{"many"}, "1"},
		{[]string{""}, "1"},
	} {
		resp := s.get(t, "/", func(r *http.Request) {
			r.Header[headerHops] = c.lines
			r.Header.Set("Connection", headerHops)
		})
		if c.want == "" {
			wantOwn(t, resp, http.StatusLoopDetected, "loop")
		} else if got := text(t, resp); got != c.want {
			t.Errorf("hops %q: %d, forwarded with %q, want %q", c.lines, resp.StatusCode, got, c.want)
		}
	}
}
