package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/transport"
)

// carried is what a listener tells of a connection or flow that went well.
func carried(protocol string) *transport.Observed {
	return &transport.Observed{
		Listener: "db", Protocol: protocol, Service: demo, Picked: true,
		Target: affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-a"}, Address: "10.1.0.7:5432", Reason: affinity.ReasonEndpointGone,
		Key: [8]byte{0x9e, 0x37}, Client: netip.MustParseAddr("192.0.2.7"), Begin: time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC),
		Duration: 20 * time.Second, Connect: time.Millisecond, Attempts: 2, BytesIn: 10, BytesOut: 1000, Ending: transport.EndClosed,
	}
}

func loggedTransport(t *testing.T, o AccessLogOptions, seen ...*transport.Observed) string {
	t.Helper()
	var out bytes.Buffer
	o.Output = &out
	l := NewAccessLog(o)
	for _, s := range seen {
		Transport(nil, l).End(s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestALineOfAConnectionIsJSON(t *testing.T) {
	want := map[string]any{
		"time": "2026-03-14T09:26:53Z", "level": "INFO", "msg": "connection", "protocol": "tcp", "listener": "db", "service": "shop/demo",
		"revision": "demo-00001", "endpoint": "demo-00001-a", "address": "10.1.0.7:5432", "reason": "endpoint-gone", "key": "9e37000000000000",
		"bytesIn": 10.0, "bytesOut": 1000.0, "duration": 20.0, "connect": 0.001, "attempts": 2.0, "ending": "closed",
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(loggedTransport(t, AccessLogOptions{}, carried("tcp"))), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestALineOfAFlowCountsDatagrams(t *testing.T) {
	o := carried("udp")
	o.DatagramsIn, o.DatagramsOut = 3, 2
	if got := loggedTransport(t, AccessLogOptions{}, o); !strings.Contains(got, `"msg":"flow"`) ||
		!strings.Contains(got, `"datagramsIn":3,"datagramsOut":2`) {
		t.Errorf("line = %s, want a flow with datagrams", got)
	}
}

func TestALineOfARefusedConnectionSaysWhy(t *testing.T) {
	o := &transport.Observed{
		Listener: "db", Protocol: "tcp", Service: demo, Client: netip.MustParseAddr("192.0.2.7"),
		Cause: transport.CauseProxyHeader, Err: errors.New("reading the PROXY header: i/o timeout"),
	}
	got := loggedTransport(t, AccessLogOptions{}, o)
	for _, want := range []string{`"cause":"proxy-header"`, `"error":"reading the PROXY header: i/o timeout"`} {
		if !strings.Contains(got, want) {
			t.Errorf("line = %s, want %s", got, want)
		}
	}
	if strings.Contains(got, "192.0.2.7") {
		t.Errorf("line = %s, want no address of the client", got)
	}
	if got := loggedTransport(t, AccessLogOptions{Peer: true}, o); !strings.Contains(got, `"peer":"192.0.2.7"`) {
		t.Errorf("line = %s, want the address of the client where it is asked for", got)
	}
}

func TestAScrapeTellsOfConnectionsAndFlows(t *testing.T) {
	m := NewMetrics()
	o := Transport(m, nil)
	for _, seen := range []*transport.Observed{carried("tcp"), carried("udp")} {
		o.Picked(seen)
		o.Carried(seen, 10, 0)
		o.Carried(seen, 0, 1000)
		o.End(seen)
	}
	refused := carried("tcp")
	refused.Cause, refused.Ending, refused.Outcome = transport.CauseConnect, "", endpoint.OutcomeFailed
	o.End(refused)
	o.Drop("dns", transport.CauseFlows)
	wantSamples(t, scrape(t, m), map[string]float64{
		"limpet_connections_total{listener=db,reason=endpoint-gone,revision=demo-00001,service=shop/demo}": 1,
		"limpet_flows_total{listener=db,reason=endpoint-gone,revision=demo-00001,service=shop/demo}":       1,
		"limpet_moved_total{reason=endpoint-gone,service=shop/demo}":                                       2,
		"limpet_transport_bytes_total{direction=in,listener=db,service=shop/demo}":                         20,
		"limpet_transport_bytes_total{direction=out,listener=db,service=shop/demo}":                        2000,
		"limpet_transport_endings_total{ending=closed,listener=db,service=shop/demo}":                      2,
		"limpet_transport_refused_total{cause=connect,listener=db}":                                        1,
		"limpet_transport_refused_total{cause=flows,listener=dns}":                                         1,
	})
}

func TestSeriesOfConnectionsEndWithTheirService(t *testing.T) {
	m, table := NewMetrics(), newTestTable("demo")
	m.Watch(table, nil)
	o := Transport(m, nil)
	o.Picked(carried("tcp"))
	o.Picked(carried("udp"))
	setServices(table, "cart")
	m.prune()
	o.Carried(carried("tcp"), 10, 1000) // it lasts longer than its service
	o.End(carried("tcp"))
	for name := range scrape(t, m) {
		if strings.Contains(name, "shop/demo") {
			t.Errorf("%s exists, want no series of a service that was removed", name)
		}
	}
}

func TestNothingObservesConnectionsWhereAllIsOff(t *testing.T) {
	if o := Transport(nil, nil); o != nil {
		t.Errorf("Transport(nil, nil) = %v, want nil", o)
	}
}
