package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

var demo = affinity.ServiceName{Namespace: "shop", Name: "demo"}

// served returns what the proxy tells of a request that went well.
func served(revision string, reason affinity.Reason) *proxy.Observed {
	return &proxy.Observed{
		Service: demo, Route: "/", Picked: true, Target: affinity.Target{Revision: revision, Endpoint: revision + "-a"},
		Address: "10.1.0.7:8080", Reason: reason, Key: [8]byte{0x9e, 0x37}, Method: "GET", Protocol: "HTTP/1.1", Status: 200,
		BytesIn: 10, BytesOut: 1000, Begin: time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC), Duration: 20 * time.Millisecond, Attempts: 1,
	}
}

func observe(o proxy.Observer, seen ...*proxy.Observed) {
	for _, s := range seen {
		ctx := o.Start(context.Background(), httptest.NewRequest("GET", "/", nil))
		o.Forward(ctx, http.Header{})
		o.End(ctx, s)
	}
}

// scrape asks over HTTP, as Prometheus does, and returns each sample of limpet by its name and labels.
func scrape(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	answer, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("scrape = %s, %v\n%s", answer.Status, err, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for name, f := range families {
		for _, s := range f.Metric {
			if strings.HasPrefix(name, "limpet_") {
				samples[name+labelsOf(s)] = valueOf(s)
			}
		}
	}
	return samples
}

func labelsOf(s *dto.Metric) string {
	var labels []string
	for _, l := range s.Label {
		labels = append(labels, l.GetName()+"="+l.GetValue())
	}
	sort.Strings(labels)
	return "{" + strings.Join(labels, ",") + "}"
}

func valueOf(s *dto.Metric) float64 {
	switch {
	case s.Counter != nil:
		return s.Counter.GetValue()
	case s.Gauge != nil:
		return s.Gauge.GetValue()
	case s.Histogram != nil:
		return float64(s.Histogram.GetSampleCount())
	}
	return s.Untyped.GetValue()
}

func wantSamples(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for name, value := range want {
		if v, ok := got[name]; !ok || v != value {
			t.Errorf("%s = %v (exists: %v), want %v", name, v, ok, value)
		}
	}
}

func TestAScrapeTellsWhereRequestsWentAndWhy(t *testing.T) {
	m := NewMetrics()
	failed := served("demo-00002", affinity.ReasonNew)
	failed.Status, failed.Cause = 504, "timeout"
	gone := served("demo-00001", affinity.ReasonEndpointGone)
	unmatched := &proxy.Observed{Method: "GET", Status: 404, Cause: "no-route"}
	away := &proxy.Observed{Service: demo, Method: "GET", Status: proxy.StatusClientGone, Cause: "client-gone"}
	observe(m, served("demo-00001", affinity.ReasonBound), served("demo-00001", affinity.ReasonBound), failed, gone, unmatched, away)
	wantSamples(t, scrape(t, m), map[string]float64{
		"limpet_requests_total{code=2xx,reason=bound,revision=demo-00001,service=shop/demo}":         2,
		"limpet_requests_total{code=2xx,reason=endpoint-gone,revision=demo-00001,service=shop/demo}": 1,
		"limpet_requests_total{code=5xx,reason=new,revision=demo-00002,service=shop/demo}":           1,
		"limpet_requests_total{code=4xx,reason=,revision=,service=}":                                 1,
		"limpet_requests_total{code=4xx,reason=,revision=,service=shop/demo}":                        1,
		"limpet_request_duration_seconds{service=shop/demo}":                                         5,
		"limpet_bytes_total{direction=in,service=shop/demo}":                                         40,
		"limpet_bytes_total{direction=out,service=shop/demo}":                                        4000,
		"limpet_moved_total{reason=endpoint-gone,service=shop/demo}":                                 1,
		"limpet_answers_total{cause=timeout,service=shop/demo}":                                      1,
		"limpet_answers_total{cause=no-route,service=}":                                              1,
		"limpet_requests_in_flight{}":                                                                0,
	})
}

func TestRequestsInFlightAreCountedWhileTheyLast(t *testing.T) {
	m := NewMetrics()
	ctx := m.Start(context.Background(), httptest.NewRequest("GET", "/", nil))
	wantSamples(t, scrape(t, m), map[string]float64{"limpet_requests_in_flight{}": 1})
	m.End(ctx, served("demo-00001", affinity.ReasonNone))
	wantSamples(t, scrape(t, m), map[string]float64{"limpet_requests_in_flight{}": 0})
}

func TestEveryReasonHasItsOwnPlace(t *testing.T) {
	m := NewMetrics()
	for _, r := range affinity.Reasons() {
		if 1+int(r) >= reasonSlots {
			t.Fatalf("reason %v has no place among %d", r, reasonSlots)
		}
		observe(m, served("demo-00001", r))
	}
	got := scrape(t, m)
	for _, r := range affinity.Reasons() {
		wantSamples(t, got, map[string]float64{
			fmt.Sprintf("limpet_requests_total{code=2xx,reason=%s,revision=demo-00001,service=shop/demo}", r): 1,
		})
	}
}

func newTestTable(services ...string) *endpoint.Table {
	t := endpoint.NewTable(endpoint.Options{})
	setServices(t, services...)
	t.SetSynced()
	return t
}

func setServices(t *endpoint.Table, services ...string) {
	var list []endpoint.Service
	for _, name := range services {
		list = append(list, endpoint.Service{
			Name:      affinity.ServiceName{Namespace: "shop", Name: name},
			Revisions: []endpoint.Revision{{Name: name + "-00001", Weight: 95}, {Name: name + "-00002", Weight: 5}},
		})
		t.SetMembers(endpoint.RevisionName{Namespace: "shop", Name: name + "-00001"}, []endpoint.Member{
			{Name: name + "-00001-a", Address: "10.1.0.7:8080"},
			{Name: name + "-00001-b", Address: "10.1.0.8:8080", NotReady: true},
		})
	}
	t.SetServices(list)
}

func TestAScrapeTellsTheStateOfEndpoints(t *testing.T) {
	m, table := NewMetrics(), newTestTable("demo")
	m.Watch(table, nil)
	e := &table.Snapshot(demo).Revisions[0].Pool.Endpoints[0]
	if err := table.Acquire(t.Context(), e, 0); err != nil {
		t.Fatal(err)
	}
	table.Count(demo, affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-a"}, 3)
	wantSamples(t, scrape(t, m), map[string]float64{
		"limpet_endpoints_synced{}": 1,
		"limpet_revision_weight_ratio{revision=demo-00001,service=shop/demo}":                            0.95,
		"limpet_revision_weight_ratio{revision=demo-00002,service=shop/demo}":                            0.05,
		"limpet_endpoint_state{endpoint=demo-00001-a,revision=demo-00001,service=shop/demo,state=ready}": 1,
		"limpet_endpoint_state{endpoint=demo-00001-b,revision=demo-00001,service=shop/demo,state=down}":  1,
		"limpet_endpoint_in_flight{endpoint=demo-00001-a,revision=demo-00001,service=shop/demo}":         1,
		"limpet_endpoint_queued{endpoint=demo-00001-a,revision=demo-00001,service=shop/demo}":            0,
		"limpet_endpoint_bound_sessions{endpoint=demo-00001-a,revision=demo-00001,service=shop/demo}":    3,
	})
}

func TestSeriesOfARemovedServiceEnd(t *testing.T) {
	m, table := NewMetrics(), newTestTable("demo", "cart")
	m.Watch(table, nil)
	timeout := served("demo-00001", affinity.ReasonRevisionGone)
	timeout.Cause = "timeout"
	cart := served("cart-00001", affinity.ReasonNew)
	cart.Service.Name = "cart"
	unmatched := &proxy.Observed{Method: "GET", Status: 404, Cause: "no-route"}
	observe(m, timeout, cart, unmatched)
	m.Router().StoreFull(demo)
	m.Router().Conflict(demo)
	before := len(scrape(t, m))
	setServices(table, "cart")
	got := scrape(t, m)
	for name := range got {
		if strings.Contains(name, "shop/demo") {
			t.Errorf("%s exists, want no series of a service that was removed", name)
		}
	}
	if len(got) >= before {
		t.Errorf("%d series after the removal of a service, want fewer than %d", len(got), before)
	}
	wantSamples(t, got, map[string]float64{
		"limpet_requests_total{code=2xx,reason=new,revision=cart-00001,service=shop/cart}": 1,
		"limpet_requests_total{code=4xx,reason=,revision=,service=}":                       1,
	})
	observe(m, served("demo-00001", affinity.ReasonNew))
	setServices(table, "cart", "demo")
	wantSamples(t, scrape(t, m), map[string]float64{
		"limpet_requests_total{code=2xx,reason=new,revision=demo-00001,service=shop/demo}": 1,
	})
}

func TestEventsOfRouterAndEndpointsAreCounted(t *testing.T) {
	m := NewMetrics()
	m.Router().StoreFull(demo)
	m.Router().Conflict(demo)
	m.Router().Waiters(3)
	m.Router().RenewalsDropped(7)
	m.Endpoints().EndpointChanged(endpoint.Event{To: affinity.EndpointDown, Cause: endpoint.CauseProbe})
	m.Endpoints().Missed(2)
	m.Reloaded(errors.New("limpet.yaml:1: unknown field"))
	wantSamples(t, scrape(t, m), map[string]float64{
		"limpet_bindings_refused_total{service=shop/demo}":   1,
		"limpet_binding_conflicts_total{service=shop/demo}":  1,
		"limpet_unknown_target_waiters{}":                    3,
		"limpet_renewals_dropped_total{}":                    7,
		"limpet_endpoint_changes_total{cause=probe,to=down}": 1,
		"limpet_endpoint_events_missed_total{}":              2,
		"limpet_config_reloads_total{result=accepted}":       1,
		"limpet_config_reloads_total{result=refused}":        1,
		"limpet_config_last_reload_successful{}":             0,
	})
}

func TestAScrapeTellsTheStateOfTheStore(t *testing.T) {
	m := NewMetrics()
	m.Watch(nil, func() StoreStatus {
		return StoreStatus{Away: true, Bindings: -1, LastKnown: 12, Provisional: 3, Evicted: 4, Expired: 5}
	})
	got := scrape(t, m)
	wantSamples(t, got, map[string]float64{
		"limpet_store_away{}": 1, "limpet_bindings_last_known{}": 12, "limpet_bindings_provisional{}": 3,
		"limpet_bindings_evicted_total{}": 4, "limpet_bindings_expired_total{}": 5,
	})
	if v, ok := got["limpet_bindings{}"]; ok {
		t.Errorf("limpet_bindings = %v, want no sample of what the store does not know", v)
	}
}

func TestMetricsKeepTheRulesOfPrometheus(t *testing.T) {
	m, table := NewMetrics(), newTestTable("demo")
	m.Watch(table, func() StoreStatus { return StoreStatus{} })
	observe(m, served("demo-00001", affinity.ReasonBound))
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestCountingIsSafeWhileSeriesEnd(t *testing.T) {
	m, table := NewMetrics(), newTestTable("demo")
	m.Watch(table, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				observe(m, served("demo-00001", affinity.ReasonBound))
			}
		})
	}
	for range 20 {
		setServices(table, "cart")
		m.prune()
		setServices(table, "demo")
		m.prune()
	}
	wg.Wait()
	before := scrape(t, m)["limpet_requests_total{code=2xx,reason=bound,revision=demo-00001,service=shop/demo}"]
	observe(m, served("demo-00001", affinity.ReasonBound))
	wantSamples(t, scrape(t, m), map[string]float64{
		"limpet_requests_total{code=2xx,reason=bound,revision=demo-00001,service=shop/demo}": before + 1,
	})
}

func TestCountingAKnownSeriesAllocatesNothing(t *testing.T) {
	m, o := NewMetrics(), served("demo-00001", affinity.ReasonBound)
	ctx := context.Background()
	m.Start(ctx, nil)
	m.End(ctx, o)
	if n := testing.AllocsPerRun(100, func() { m.Start(ctx, nil); m.Forward(ctx, nil); m.End(ctx, o) }); n != 0 {
		t.Errorf("counting a request allocates %v times, want never", n)
	}
}

func BenchmarkCountRequest(b *testing.B) {
	m, ctx := NewMetrics(), context.Background()
	var seen []*proxy.Observed
	for i := range 1000 {
		o := served(fmt.Sprintf("demo-%05d", i), affinity.ReasonBound)
		o.Service.Name = fmt.Sprintf("demo-%d", i)
		m.End(ctx, o)
		seen = append(seen, o)
	}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			m.End(ctx, seen[i%len(seen)])
		}
	})
}
