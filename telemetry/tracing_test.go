package telemetry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/limpet-project/limpet/affinity"
)

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// traced runs one request that asks the store, is forwarded twice and ends, and returns the headers of the two attempts.
func traced(t *testing.T, tracing *Tracing, incoming string) []http.Header {
	t.Helper()
	r := httptest.NewRequest("GET", "/secret/path?session=secret-id", nil)
	if incoming != "" {
		r.Header.Set("Traceparent", incoming)
	}
	ctx := tracing.Start(context.Background(), r)
	if _, err := NewMetrics().ObserveStore(&brittleStore{}).Get(ctx, affinity.Key{}); err != nil {
		t.Fatal(err)
	}
	attempts := []http.Header{{}, {}}
	for _, h := range attempts {
		tracing.Forward(ctx, h)
	}
	tracing.End(ctx, served("demo-00001", affinity.ReasonBound))
	return attempts
}

func TestARequestsSpansHangTogether(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	tracing := NewTracingTo(exporter, 0)
	attempts := traced(t, tracing, traceparent)
	if err := tracing.provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var names []string
	parents := map[string]string{}
	byID := map[string]string{"00f067aa0ba902b7": "client"}
	spans := exporter.GetSpans()
	for _, s := range spans {
		byID[s.SpanContext.SpanID().String()] = s.Name
	}
	for _, s := range spans {
		names = append(names, s.Name)
		parents[s.Name] = byID[s.Parent.SpanID().String()]
		if got := s.SpanContext.TraceID().String(); got != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("span %s is of trace %s, want the client's", s.Name, got)
		}
		for _, a := range s.Attributes {
			if strings.Contains(a.Value.String(), "secret") {
				t.Errorf("span %s has %s=%s, which is the client's", s.Name, a.Key, a.Value.String())
			}
		}
	}
	slices.Sort(names)
	if want := []string{"GET /", "forward", "forward", "pick", "store get"}; !slices.Equal(names, want) {
		t.Errorf("spans %v, want %v", names, want)
	}
	for name, want := range map[string]string{"GET /": "client", "forward": "GET /", "pick": "GET /", "store get": "pick"} {
		if parents[name] != want {
			t.Errorf("parent of %s is %q, want %q", name, parents[name], want)
		}
	}
	for i, h := range attempts {
		_, id, _ := strings.Cut(h.Get("Traceparent"), "4bf92f3577b34da6a3ce929d0e0e4736-")
		if id, _, _ := strings.Cut(id, "-"); byID[id] != "forward" {
			t.Errorf("attempt %d is sent with traceparent %q, want that of a forward span", i, h.Get("Traceparent"))
		}
	}
	if attempts[0].Get("Traceparent") == attempts[1].Get("Traceparent") {
		t.Error("both attempts have the same span, want one each")
	}
	if err := tracing.Close(t.Context()); err != nil {
		t.Errorf("Close = %v, want nil", err)
	}
}

func TestARequestThatIsNotSampledStillHandsItsTraceOn(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	tracing := NewTracingTo(exporter, 0)
	for _, h := range traced(t, tracing, "") {
		if got := h.Get("Traceparent"); !strings.HasSuffix(got, "-00") {
			t.Errorf("traceparent = %q, want one that says not sampled", got)
		}
	}
	if err := tracing.provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := exporter.GetSpans(); len(got) != 0 {
		t.Errorf("%d spans, want none", len(got))
	}
	if err := tracing.Close(t.Context()); err != nil {
		t.Errorf("Close = %v, want nil", err)
	}
}

func TestSpansReachAnOTLPReceiver(t *testing.T) {
	var mu sync.Mutex
	var names []string
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &request) != nil || r.URL.Path != "/v1/traces" {
			http.Error(w, "not OTLP", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range request.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					names = append(names, s.Name)
				}
			}
		}
	}))
	defer receiver.Close()
	tracing, err := NewTracing(t.Context(), receiver.URL+"/v1/traces", 1)
	if err != nil {
		t.Fatal(err)
	}
	traced(t, tracing, "")
	if err := tracing.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	if want := []string{"GET /", "forward", "forward", "pick", "store get"}; !slices.Equal(names, want) {
		t.Errorf("the receiver got %v, want %v", names, want)
	}
}

func TestWhatIsOffCostsNothing(t *testing.T) {
	if o := Observers(nil, nil, nil); o != nil {
		t.Errorf("Observers of nothing = %v, want nil", o)
	}
	m := NewMetrics()
	if o := Observers(m, nil, nil); o != m {
		t.Errorf("Observers of metrics alone = %v, want the metrics", o)
	}
	seen := served("demo-00001", affinity.ReasonBound)
	all := Observers(m, NewAccessLog(AccessLogOptions{Output: discard{}}), NewTracingTo(tracetest.NewNoopExporter(), 1))
	observe(all, seen)
	wantSamples(t, scrape(t, m), map[string]float64{
		"limpet_requests_total{code=2xx,reason=bound,revision=demo-00001,service=shop/demo}": 1,
	})
	l, tracing := all.(observers)[2].(*AccessLog), all.(observers)[0].(*Tracing)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := tracing.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
