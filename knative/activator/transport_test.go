package activator

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"knative.dev/pkg/network"
	fakeserving "knative.dev/serving/pkg/client/injection/client/fake"
)

// Another pod is tried only if no connection could be established, whatever the reason was and the transport is.
func TestOnlyThatNoConnectionWasEstablishedCountsAsUnreached(t *testing.T) {
	const closed = "127.0.0.1:1" // a port that was free a moment ago may be another test's
	hangsUp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.Close()
		}
	}))
	defer hangsUp.Close()
	encrypted := network.NewProxyAutoTLSTransport(10, 10, Dial(func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&tls.Dialer{}).DialContext(ctx, network, address)
	}))
	inClear := network.NewProxyAutoTransport(10, 10)
	late := &http.Transport{DialContext: network.NewBackoffDialer(wait.Backoff{Duration: time.Nanosecond})}
	for _, tt := range []struct {
		name      string
		transport http.RoundTripper
		url       string
		proto     int
		want      bool
	}{
		{"refused", inClear, "http://" + closed, 1, true},
		{"refused with HTTP/2", inClear, "http://" + closed, 2, true},
		{"refused with TLS", encrypted, "https://" + closed, 1, true},
		{"a handshake that fails", encrypted, "https://" + hangsUp.Listener.Addr().String(), 1, true},
		{"a handshake that fails with HTTP/2", encrypted, "https://" + hangsUp.Listener.Addr().String(), 2, true},
		{"too late", late, hangsUp.URL, 1, true},
		{"hung up", inClear, hangsUp.URL, 1, false},
		{"hung up with HTTP/2", inClear, hangsUp.URL, 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.ProtoMajor = tt.proto
			resp, err := tt.transport.RoundTrip(r)
			if err == nil {
				resp.Body.Close()
				t.Fatalf("RoundTrip() = %s, want an error", resp.Status)
			}
			if got := unreached(err); got != tt.want {
				t.Errorf("unreached(%v) = %v, want %v", err, got, tt.want)
			}
		})
	}
}

// What is known of a request is used again for others. Requests that are given up, while their handlers go on, must not share theirs.
func TestRequestsThatAreGivenUpShareNothingWithOthers(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 3)
	const sessions = 20
	homes := make(map[string]string)
	for i := range sessions {
		id := fmt.Sprintf("user-%05d", i)
		homes[id] = a.get(session(id))
	}
	a.setTimeout("demo-00001", 1)
	var all sync.WaitGroup
	given, over := context.WithCancel(c.ctx)
	var givenUp atomic.Int64
	for id := range homes {
		all.Go(func() {
			held := session(id)
			held.header["Hold"] = "1"
			if got, err := a.send(c.ctx, held); err != nil || got.status != http.StatusGatewayTimeout {
				t.Errorf("a request that is held = %v, %v, want 504", got, err)
			}
			givenUp.Add(1)
		})
	}
	a.eventually("all are held", func() bool {
		begun := givenUp.Load()
		for _, p := range c.pods {
			begun += p.inFlight.Load()
		}
		return begun == sessions
	})
	a.setTimeout("demo-00001", 30) // of those that begin now
	for id, home := range homes {
		all.Go(func() { // at the same time
			for given.Err() == nil {
				if got, err := a.send(given, session(id)); err == nil && (got.status != http.StatusOK || got.pod != home) {
					t.Errorf("%s = %v, want %s", id, got, home)
				}
			}
		})
		all.Go(func() { // clients that go away, at any moment
			for n := time.Duration(0); given.Err() == nil; n = (n + 100*time.Microsecond) % (5 * time.Millisecond) {
				ctx, cancel := context.WithTimeout(given, n)
				if got, err := a.send(ctx, session(id)); err == nil && got.status == http.StatusOK && got.pod != home {
					t.Errorf("%s = %v, want %s", id, got, home)
				}
				cancel()
			}
		})
	}
	a.eventually("all that are held are given up", func() bool { return givenUp.Load() == sessions })
	time.AfterFunc(200*time.Millisecond, over)
	all.Wait()
	for _, p := range c.pods {
		close(p.hold)
	}
	a.eventually("no request is in flight", func() bool {
		pool := (&throttler{source: a.source, table: a.table}).pool(types.NamespacedName{Namespace: shop, Name: "demo-00001"})
		for i := range pool.Endpoints {
			if a.table.Load(&pool.Endpoints[i]).InFlight != 0 {
				return false
			}
		}
		return true
	})
	for id, home := range homes {
		if got := a.get(session(id)); got != home {
			t.Errorf("%s afterwards = %s, want %s", id, got, home)
		}
	}
}

// setTimeout changes the time-out of a revision, in seconds, and waits until requests have it.
func (a *activator) setTimeout(revision string, seconds int64) {
	a.c.Helper()
	client := fakeserving.Get(a.c.ctx).ServingV1().Revisions(shop)
	r, err := client.Get(a.c.ctx, revision, metav1.GetOptions{})
	a.c.must(err)
	r = r.DeepCopy()
	r.Spec.TimeoutSeconds = &seconds
	_, err = client.Update(a.c.ctx, r, metav1.UpdateOptions{})
	a.c.must(err)
	a.eventually("the time-out is in force", func() bool {
		r := a.source.at(a.source.index.Load(), types.NamespacedName{Namespace: shop, Name: revision})
		return r != nil && *r.Spec.TimeoutSeconds == seconds
	})
}
