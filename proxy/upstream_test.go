package proxy

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// An endpoint that a tenant names must not be what listens beside the gateway, such as its admin API.
func TestAnUpstreamWithoutLocalAddressesReachesNothingBesideTheGateway(t *testing.T) {
	var seen atomic.Int64
	address := upstreamServer(t, func(http.ResponseWriter, *http.Request) { seen.Add(1) })
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	p := &fakePicker{places: []place{at(address)}}
	s := serve(t, p, withConfig(func(c *Config) {
		open := c.Routes[0]
		open.Path = "/open"
		c.Routes[0].Upstream.NoLocal = true
		c.Routes = append(c.Routes, open)
	}))
	if got := s.get(t, "/open").StatusCode; got != http.StatusOK {
		t.Errorf("with local addresses: status = %d, want 200", got)
	}
	for _, name := range []string{
		"127.0.0.1", "127.8.9.10", "localhost", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "", "169.254.169.254", "fe80::1%lo",
	} {
		p.places = []place{at(net.JoinHostPort(name, port))}
		wantOwn(t, s.get(t, "/"), http.StatusServiceUnavailable, "no-connection")
	}
	if n := seen.Load(); n != 1 {
		t.Errorf("the endpoint saw %d requests, want that of the open route", n)
	}
}

func TestRefuseLocalLooksAtTheWholeAddress(t *testing.T) {
	for address, want := range map[string]bool{
		"10.0.12.7:80": true, "198.51.100.7:443": true, "[2001:db8::7]:80": true, "[::ffff:10.0.12.7]:80": true, "[fd00::7]:80": true,
		"127.0.0.53:53": false, "[::1]:80": false, "[::ffff:127.0.0.1]:80": false, "0.0.0.0:80": false, "[::]:80": false,
		"169.254.169.254:80": false, "[fe80::1%eth0]:80": false, "localhost:80": false, "10.0.12.7": false, "": false,
	} {
		if err := refuseLocal(context.Background(), "tcp", address, nil); (err == nil) != want {
			t.Errorf("refuseLocal(%q) = %v, want nil: %v", address, err, want)
		}
	}
}

// The caller of Swap may hold a lock, and an endpoint may be silent for a whole connect timeout.
func TestSwapDoesNotWaitForConnectionsThatAreBeingMadeAndCloseDoes(t *testing.T) {
	address := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	p := &fakePicker{places: []place{at(address)}}
	s := serve(t, p, withRoute(func(r *Route) { r.Upstream.Protocol = ProtocolH2C }))
	inside, release := make(chan struct{}), make(chan struct{})
	var once sync.Once // a request whose pool was closed makes another connection, of its own
	dial := s.gateway.engine.dial
	s.gateway.engine.dial = func(_ context.Context, network, address string) (net.Conn, error) {
		once.Do(func() { close(inside) })
		<-release // longer than any timeout
		return dial(context.Background(), network, address)
	}
	answered := make(chan int, 1)
	go func() { answered <- s.get(t, "/").StatusCode }()
	<-inside
	if err := s.gateway.Swap(Config{}); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() { defer close(closed); s.gateway.Close() }()
	select {
	case <-closed:
		t.Error("Close() has returned while a connection is being made")
	case status := <-answered:
		t.Errorf("status = %d before there is a connection", status)
	default:
	}
	close(release)
	if status := <-answered; status != http.StatusOK {
		t.Errorf("status = %d, want 200: a request ends by the configuration that it began with", status)
	}
	<-closed
}
