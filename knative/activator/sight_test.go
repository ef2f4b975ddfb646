package activator

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/proxy"
)

// A witness is an observer that remembers.
type witness struct {
	mu   sync.Mutex
	saw  []proxy.Observed
	open int
}

func (w *witness) Start(ctx context.Context, _ *http.Request) context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	return ctx
}

func (w *witness) Forward(context.Context, http.Header) {}

func (w *witness) End(_ context.Context, o *proxy.Observed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	w.saw = append(w.saw, *o)
}

// last returns what was seen last, when nothing is under way.
func (w *witness) last() (proxy.Observed, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open > 0 || len(w.saw) == 0 {
		return proxy.Observed{}, false
	}
	return w.saw[len(w.saw)-1], true
}

// Protects against prototype defects 32 and 49: nobody was told of a session that moved.
func TestAnObserverIsToldWhyARequestWentWhereItWent(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""})
	w := &witness{}
	c.observer = w
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 2)
	expect := func(pod string, reason affinity.Reason) {
		t.Helper()
		var got proxy.Observed
		a.eventually("the request has ended", func() (ended bool) { got, ended = w.last(); return ended })
		if got.Target.Endpoint != pod || got.Reason != reason || got.Status != http.StatusOK {
			t.Errorf("seen = %v, %v, %d, want %s, %v, 200", got.Target, got.Reason, got.Status, pod, reason)
		}
	}
	home := a.get(session("session-1"))
	expect(home, affinity.ReasonNew)
	a.get(session("session-1"))
	expect(home, affinity.ReasonBound)
	c.unlist("demo-00001", home)
	a.knows("demo-00001", 1)
	next := a.get(session("session-1"))
	expect(next, affinity.ReasonEndpointGone)
	a.get(call{revision: "demo-00001"})
	if n := len(w.saw); n != 3 {
		t.Errorf("%d requests were seen, want the 3 with affinity", n)
	}
}
