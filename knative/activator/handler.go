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
	next   http.Handler
}

// ServeHTTP implements http.Handler.
func (h *affine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := &trip{answer: w.Header()}
	strip(r.Header)
	if err := h.choose(t, r); err != nil {
		refuse(w, err)
		return
	}
	defer t.end()
	h.next.ServeHTTP(w, r.WithContext(t.in(r.Context())))
}

// strip removes what only Limpet says.
func strip(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, prefix) {
			delete(h, name)
		}
	}
}

// choose settles the revision of a request and says so in its headers. A request that affinity does not concern, or of whose Route too
// little is known here, is left as it is. The error is the client's fault, or that of its context.
func (h *affine) choose(t *trip, r *http.Request) error {
	namespace := r.Header.Get(serving.RevisionHeaderNamespace)
	if namespace == "" || r.Header.Get(serving.RevisionHeaderName) == "" {
		return nil // a revision was addressed by its own host
	}
	s, found := h.scope(namespace, r)
	if !found {
		return nil
	}
	m := newMessage(r)
	pick, err := h.router.Choose(r.Context(), &router.Request{
		Service: s.service, Policy: s.policy, Message: m, Secure: m.secure(h.trust),
	})
	if err != nil {
		return fault(err)
	}
	key := types.NamespacedName{Namespace: namespace, Name: pick.Target().Revision}
	if _, err := h.source.revision(key); err != nil || pick.Key().IsZero() {
		pick.Done(endpoint.OutcomeUnknown)
		return nil
	}
	r.Header.Set(serving.RevisionHeaderName, key.Name)
	t.pick, t.overflow, t.wait = pick, affinity.OverflowWait, untilCanceled
	if session := s.policy.Session; session != nil && pick.Key().Scope.Kind == affinity.KindSession {
		t.overflow, t.wait = session.Overflow, time.Duration(session.QueueTimeout)
	}
	if h.watch != nil {
		t.seen = look(h.watch, r, s.service)
	}
	return nil
}

// scope finds the traffic that a request is of. A host that a proxy in between has put in the place of the client's counts first.
func (h *affine) scope(namespace string, r *http.Request) (scope, bool) {
	tag := ""
	if h.source.byHeader.Load() {
		tag = r.Header.Get(netheader.RouteTagKey)
	}
	x := h.source.index.Load()
	s, found := x.find(namespace, r.Host, tag)
	if original := r.Header.Get(netheader.OriginalHostKey); !found && original != "" {
		s, found = x.find(namespace, original, tag)
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
