package transport

import (
	"net/netip"
	"testing"

	"github.com/limpet-project/limpet/router"
)

func TestRequestIsWhatAListenerAsksNow(t *testing.T) {
	var tcp TCP
	var udp UDP
	for protocol, l := range map[string]interface {
		Swap(Route)
		Request(netip.Addr) *router.Request
	}{"tcp": &tcp, "udp": &udp} {
		client := netip.MustParseAddr("::ffff:10.0.3.7")
		if req := l.Request(client); req != nil {
			t.Errorf("%s: Request() before there is a route = %+v, want nil", protocol, req)
		}
		for _, route := range []Route{{Service: postgres, Policy: byAddress(24)}, {Service: coredns}} {
			l.Swap(route)
			req := l.Request(client)
			if req.Service != route.Service || req.Policy != route.Policy || req.Message.Peer() != netip.MustParseAddr("10.0.3.7") {
				t.Errorf("%s: Request() = %+v, want that of %v for 10.0.3.7", protocol, req, route)
			}
		}
	}
}
