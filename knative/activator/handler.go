package activator

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	netheader "knative.dev/networking/pkg/http/header"
	serving "knative.dev/serving/pkg/activator"
	activatorconfig "knative.dev/serving/pkg/activator/config"
	activatorhandler "knative.dev/serving/pkg/activator/handler"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
)

// Headers of ours. What begins so and comes from a client is removed.
const (
	prefix       = "Limpet-"
	headerReason = "Limpet-Reason"
)

// An affine handler stands in front of Serving's: it settles the revision of a request that has a session or a flow.
type affine struct {
	source *Source
	router *router.Router
	trust  affinity.Trust
	watch  proxy.Observer // nil is none
	config *activatorconfig.Store
	next   http.Handler // Serving's context handler, which finds the revision that the headers name
	inner  http.Handler // what that calls
}

// ServeHTTP implements http.Handler.
func (h *affine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	strip(r.Header)
	t, err := h.trip(w, r)
	switch {
	case err != nil:
		refuse(w, err)
	case t == nil:
		h.next.ServeHTTP(w, r)
	case t.pick == nil:
		h.next.ServeHTTP(w, r.WithContext(t.in(r.Context())))
	default:
		defer t.end()
		h.inner.ServeHTTP(w, r.WithContext(h.found(r.Context(), t)))
	}
}

// found returns the context of a request whose revision is known here already, as Serving's context handler makes it.
func (h *affine) found(ctx context.Context, t *trip) context.Context {
	key := types.NamespacedName{Namespace: t.revision.Namespace, Name: t.revision.Name}
	return h.config.ToContext(activatorhandler.WithRevisionAndID(t.in(ctx), t.revision, key))
}

// trip returns what the Throttler has to know of a request: nil if it goes the way that it goes in Serving.
func (h *affine) trip(w http.ResponseWriter, r *http.Request) (*trip, error) {
	namespace, name := first(r, serving.RevisionHeaderNamespace), first(r, serving.RevisionHeaderName)
	if namespace == "" || name == "" { // a revision was addressed by its own host
		return &trip{answer: w.Header()}, nil
	}
	index := h.source.index.Load()
	if s, found := h.scope(index, namespace, r); found {
		t := newTrip(w)
		chosen, err := h.choose(t, index, s, namespace, r)
		if chosen {
			return t, nil
		}
		if t.forget(); err != nil {
			return nil, err
		}
	}
	if limit, _ := index.limit(types.NamespacedName{Namespace: namespace, Name: name}); limit > 0 {
		return &trip{answer: w.Header()}, nil
	}
	return nil, nil
}

// first returns the first value of a header, whose name is in canonical form.
func first(r *http.Request, name string) string {
	if values := r.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// strip removes what only Limpet says.
func strip(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, prefix) {
			delete(h, name)
		}
	}
}

// choose settles the revision of a request and says so in its headers. It reports false for a request without a session and a flow, and for
// one of whose Route too little is known here: these are left as they are. The error is the client's fault, or that of its context.
func (h *affine) choose(t *trip, x *index, s scope, namespace string, r *http.Request) (bool, error) {
	m := message{r}
	keyed, err := h.router.ChooseKeyed(r.Context(), &t.own, &router.Request{
		Service: s.service, Policy: s.policy, Message: m, Secure: m.secure(h.trust),
	})
	if !keyed {
		return false, fault(err)
	}
	key := types.NamespacedName{Namespace: namespace, Name: t.own.Target().Revision}
	if t.revision = h.source.at(x, key); t.revision == nil {
		t.own.Done(endpoint.OutcomeUnknown)
		return false, nil
	}
	if first(r, serving.RevisionHeaderName) != key.Name {
		r.Header.Set(serving.RevisionHeaderName, key.Name)
	}
	t.pick, t.overflow, t.wait = &t.own, affinity.OverflowWait, untilCanceled
	if session := s.policy.Session; session != nil && t.pick.Key().Scope.Kind == affinity.KindSession {
		t.overflow, t.wait = session.Overflow, time.Duration(session.QueueTimeout)
	}
	if h.watch != nil {
		t.seen.look(h.watch, r, s.service)
	}
	return true, nil
}

// scope finds the traffic that a request is of. A host that a proxy in between has put in the place of the client's counts first.
func (h *affine) scope(x *index, namespace string, r *http.Request) (scope, bool) {
	tag := ""
	if h.source.byHeader.Load() {
		tag = r.Header.Get(netheader.RouteTagKey)
	}
	s, found := x.find(namespace, r.Host, tag)
	if !found {
		if original := r.Header.Get(netheader.OriginalHostKey); original != "" {
			s, found = x.find(namespace, original, tag)
		}
	}
	return s, found
}

// untilCanceled is the wait of a request that waits as long as its client does.
const untilCanceled = 24 * time.Hour

// fault returns what of an error concerns the client. What this activator does not know is no reason to refuse a request.
func fault(err error) error {
	var id *affinity.IDError
	if errors.As(err, &id) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// refuse answers a request that cannot be served: 400 and what is wrong with its id, as Limpet's gateways do. A client that went away
// does not read it.
func refuse(w http.ResponseWriter, err error) {
	status, reason, text := http.StatusServiceUnavailable, "timeout", "the client's time is over"
	var id *affinity.IDError
	if errors.As(err, &id) {
		status, reason, text = http.StatusBadRequest, "bad-id", id.Error()
	}
	h := w.Header()
	h.Set("Server", "limpet")
	h.Set(headerReason, reason)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(text)+1))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // a client that is gone does not need the text
}
