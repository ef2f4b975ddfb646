package telemetry

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestGaugeIsReadAtEachScrape(t *testing.T) {
	m := NewMetrics()
	value := 1.0
	m.Gauge("limpet_knative_misconfigured", "Ingress objects whose annotations are wrong.", []string{"namespace", "ingress"},
		func(yield func(float64, ...string)) {
			yield(value, "shop", "demo")
			yield(0, "shop", "cart")
		})
	for _, want := range []string{
		`limpet_knative_misconfigured{ingress="demo",namespace="shop"} 1`,
		`limpet_knative_misconfigured{ingress="demo",namespace="shop"} 2`,
	} {
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if !strings.Contains(w.Body.String(), want) || !strings.Contains(w.Body.String(), `ingress="cart",namespace="shop"} 0`) {
			t.Errorf("scrape lacks %s:\n%s", want, w.Body)
		}
		value++
	}
}
