package flow

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// scrape returns what Prometheus would read.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("scraping: code %d, %v", w.Code, err)
	}
	return string(text)
}

func TestMetricsNameServicesAndEndpointsAndNoClients(t *testing.T) {
	m := NewMetrics()
	if got := scrape(t, m); got != "" {
		t.Errorf("metrics before the first interval = %q, want none", got)
	}
	c := newClock(t, Options{}, rules(t, time.Hour, 1, 2))
	c.add(by(1, 1), by(1, 2), by(2, 2), by(3, 3))
	c.SetRules(rules(t, time.Hour, 1, 2))
	v, _ := c.tick(t, 2*time.Second)
	v.Conntrack, v.Overruns = Fill{7, 100}, 3
	m.Set(v)
	got := scrape(t, m)
	const service = `family="IPv4",protocol="udp",service="demo/counter:dns"`
	for _, want := range []string{
		`limpet_clientip_new_flows_total{endpoint="10.2.0.2:5353",` + service + `} 2`,
		`limpet_clientip_new_flows_total{endpoint="10.2.0.3:5353",` + service + `} 1`,
		`limpet_clientip_new_flows_per_second{endpoint="10.2.0.1:5353",` + service + `} 0.5`,
		`limpet_clientip_list_entries{endpoint="10.2.0.1:5353",` + service + `} 0`,
		`limpet_clientip_moves_total{cause="forgotten",` + service + `} 1`,
		`limpet_clientip_moves_total{cause="endpoint-gone",` + service + `} 0`,
		`limpet_clientip_moved_clients{` + service + `} 1`,
		`limpet_clientip_effective_clients{` + service + `} 2.66`,
		`limpet_clientip_flows_max_over_mean{` + service + `} 1.33`,
		`limpet_clientip_conntrack_entries 7`,
		`limpet_clientip_event_overruns_total 3`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "10.1.0.") {
		t.Errorf("metrics name a client:\n%s", got)
	}
}
