package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/proxy"
)

func logged(t *testing.T, o AccessLogOptions, seen ...*proxy.Observed) string {
	t.Helper()
	var out bytes.Buffer
	o.Output = &out
	l := NewAccessLog(o)
	observe(l, seen...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestALineOfTheAccessLogIsJSON(t *testing.T) {
	o := served("demo-00001", affinity.ReasonOverflow)
	o.Upstream, o.Attempts, o.Upgraded, o.Cause, o.Tag = 5*time.Millisecond, 2, true, "timeout", "canary"
	o.Err, o.Peer = errors.New("no answer in 20s"), netip.MustParseAddr("192.0.2.7")
	var got map[string]any
	if err := json.Unmarshal([]byte(logged(t, AccessLogOptions{}, o)), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"time": "2026-03-14T09:26:53Z", "level": "INFO", "msg": "request", "method": "GET", "protocol": "HTTP/1.1", "status": 200.0,
		"service": "shop/demo", "route": "/", "tag": "canary", "revision": "demo-00001", "endpoint": "demo-00001-a",
		"address": "10.1.0.7:8080", "reason": "overflow", "key": "9e37000000000000", "bytesIn": 10.0, "bytesOut": 1000.0,
		"duration": 0.02, "upstream": 0.005, "attempts": 2.0, "upgraded": true, "cause": "timeout", "error": "no answer in 20s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestALineOfTheAccessLogIsText(t *testing.T) {
	got := logged(t, AccessLogOptions{Text: true}, &proxy.Observed{
		Method: "GET", Protocol: "HTTP/2.0", Status: 404, Cause: "no-route", Begin: time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC),
	})
	want := `time=2026-03-14T09:26:53.000Z level=INFO msg=request method=GET protocol=HTTP/2.0 status=404 service="" route="" ` +
		"bytesIn=0 bytesOut=0 duration=0 cause=no-route\n"
	if got != want {
		t.Errorf("line = %q, want %q", got, want)
	}
}

func TestTheClientsAddressIsLoggedOnlyWhenAskedFor(t *testing.T) {
	o := served("demo-00001", affinity.ReasonNew)
	o.Peer = netip.MustParseAddr("192.0.2.7")
	if got := logged(t, AccessLogOptions{}, o); strings.Contains(got, "192.0.2.7") {
		t.Errorf("line = %s, want no address of the client: it can be an id", got)
	}
	if got := logged(t, AccessLogOptions{Peer: true}, o); !strings.Contains(got, `"peer":"192.0.2.7"`) {
		t.Errorf("line = %s, want the address of the client", got)
	}
}

// A stuckWriter writes nothing until it is let go.
type stuckWriter struct {
	stuck chan struct{}
	out   bytes.Buffer
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	<-w.stuck
	return w.out.Write(b)
}

func TestAStuckDiskHoldsNoRequestUpAndLosesLinesVisibly(t *testing.T) {
	m, w := NewMetrics(), &stuckWriter{stuck: make(chan struct{})}
	l := NewAccessLog(AccessLogOptions{Output: w, Metrics: m})
	const requests = 3 * logQueue
	o := served("demo-00001", affinity.ReasonBound)
	for range requests {
		l.End(t.Context(), o) // would block here for ever
	}
	close(w.stuck)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	written := strings.Count(w.out.String(), "\n")
	if l.Dropped() == 0 || written+int(l.Dropped()) != requests {
		t.Errorf("%d lines written, %d dropped, want some dropped and %d together", written, l.Dropped(), requests)
	}
	wantSamples(t, scrape(t, m), map[string]float64{"limpet_access_log_dropped_total{}": float64(l.Dropped())})
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestAFullDiskIsTold(t *testing.T) {
	l := NewAccessLog(AccessLogOptions{Output: fullDisk{}})
	observe(l, served("demo-00001", affinity.ReasonBound))
	err := l.Close()
	if want := "writing the access log: no space left on device"; err == nil || err.Error() != want {
		t.Errorf("Close = %v, want %q", err, want)
	}
	if err := l.Close(); err == nil {
		t.Errorf("second Close = nil, want the same error")
	}
}

func TestAnAccessLogIsAppendedTo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	for range 2 {
		f, err := OpenAccessLog(file)
		if err != nil {
			t.Fatal(err)
		}
		l := NewAccessLog(AccessLogOptions{Output: f})
		observe(l, served("demo-00001", affinity.ReasonBound))
		if err := errors.Join(l.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if n := bytes.Count(got, []byte("\n")); err != nil || n != 2 {
		t.Errorf("%d lines in the log, %v, want 2", n, err)
	}
}

func BenchmarkAccessLog(b *testing.B) {
	l := NewAccessLog(AccessLogOptions{Output: discard{}})
	o, ctx := served("demo-00001", affinity.ReasonBound), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		l.End(ctx, o)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
