// Package admin is the operator's view of a running gateway: who is bound where and why, which endpoints there are, drain, forget.
//
// It is a JSON API for a listener of its own, on loopback unless configured otherwise. It promises to show no id of a client,
// only keys, and to change nothing but what its POST and DELETE calls say. It does not authenticate: whoever reaches the
// listener may use it. Requests that a web page could send in a user's browser are refused.
//
// Start with [Handler].
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// maxBody bounds the body of a call.
const maxBody = 1 << 20

// Options are what the API speaks for. Router, Endpoints, Store and Resolve are required.
type Options struct {
	Router    *router.Router
	Endpoints *endpoint.Table
	Store     binding.Store
	// Resolve finds the route of a message, as a listener would.
	Resolve func(m affinity.Message) (*router.Request, error)
	// Listeners returns those for TCP and UDP; nil is none.
	Listeners func() []Listener
	// Ready returns why the gateway should get no traffic, nil if it should. Nil is always ready.
	Ready func() error
	// StoreState describes the store: "memory", "closed", "open since …". Nil is left out.
	StoreState func() any
	// Metrics serves the metrics; nil serves none.
	Metrics http.Handler
}

// Handler returns the whole API.
func Handler(o Options) http.Handler {
	a := api{o}
	mux := http.NewServeMux()
	health := Health(o)
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, health)
	}
	ui := page()
	for _, file := range []string{"/{$}", "/style.css", "/app.js"} {
		mux.Handle("GET "+file, ui)
	}
	mux.HandleFunc("POST /explain", a.explain)
	mux.HandleFunc("GET /services", a.services)
	mux.HandleFunc("GET /store", a.store)
	mux.HandleFunc("POST /drain", a.drain)
	mux.HandleFunc("GET /bindings", a.list)
	mux.HandleFunc("DELETE /bindings", a.forget)
	return refuseBrowsers(mux)
}

// Health returns the part of the API that a load balancer and Prometheus need: /healthz, /readyz and /metrics.
func Health(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if o.Ready != nil {
			if err := o.Ready(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		io.WriteString(w, "ready\n")
	})
	if o.Metrics != nil {
		mux.Handle("GET /metrics", o.Metrics)
	}
	return mux
}

// refuseBrowsers refuses what a page of another origin could make a browser send: the API has no other protection than its address.
func refuseBrowsers(next http.Handler) http.Handler {
	guard := http.NewCrossOriginProtection()
	return guard.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rebound(r) {
			http.Error(w, fmt.Sprintf("host: got %q, expected localhost or an address", r.Host), http.StatusForbidden)
			return
		}
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if !reads && (err != nil || kind != "application/json") {
			http.Error(w, "expected Content-Type: application/json", http.StatusUnsupportedMediaType)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// rebound reports whether a request that came by loopback asks for the host of somebody else: a page whose name was made to
// resolve to 127.0.0.1 is of the same origin to its browser. On other addresses the gateway's names are not known here.
func rebound(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if local == nil || !local.IP.IsLoopback() {
		return false
	}
	host := (&url.URL{Host: r.Host}).Hostname()
	return net.ParseIP(host) == nil && host != "localhost" && !strings.HasSuffix(host, ".localhost")
}

type api struct{ o Options }

func (a api) store(w http.ResponseWriter, _ *http.Request) {
	if a.o.StoreState == nil {
		reply(w, struct{}{})
		return
	}
	reply(w, a.o.StoreState())
}

func (a api) drain(w http.ResponseWriter, r *http.Request) {
	var d DrainOrder
	if !decode(w, r, &d) {
		return
	}
	service := d.Service.name()
	if !a.listed(service, d.Revision, d.Endpoint) {
		http.Error(w, fmt.Sprintf("service %s has no endpoint %s/%s", service, d.Revision, d.Endpoint), http.StatusNotFound)
		return
	}
	order := endpoint.Drain{Service: service, Revision: d.Revision, Endpoint: d.Endpoint, Cancel: d.Cancel}
	if d.Deadline > 0 {
		order.Until = time.Now().Add(time.Duration(d.Deadline))
	}
	if err := a.o.Endpoints.Drain(r.Context(), order); err != nil {
		http.Error(w, fmt.Sprintf("ordering the drain: %v", err), http.StatusServiceUnavailable)
		return
	}
	reply(w, order)
}

// listed reports whether the service has that endpoint now.
func (a api) listed(service affinity.ServiceName, revision, name string) bool {
	snap := a.o.Endpoints.Snapshot(service)
	if snap == nil {
		return false
	}
	rev := snap.Revision(revision)
	if rev == nil || rev.Pool == nil {
		return false
	}
	e := rev.Pool.Endpoint(name)
	return e != nil && e.State != affinity.EndpointGone
}

// A DrainOrder is the body of POST /drain.
type DrainOrder struct {
	Service  ServiceRef        `json:"service"`
	Revision string            `json:"revision"`
	Endpoint string            `json:"endpoint"`
	Deadline affinity.Duration `json:"deadline,omitempty"` // from now; 0 is none
	Cancel   bool              `json:"cancel,omitempty"`
}

// A ServiceRef is a service in the API's JSON.
type ServiceRef struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (s ServiceRef) name() affinity.ServiceName {
	return affinity.ServiceName{Namespace: s.Namespace, Name: s.Name}
}

// reply writes v as JSON.
func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client went away: nobody to tell
}

// decode reads the body strictly into v, or answers 400.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil && dec.Decode(new(json.RawMessage)) != io.EOF {
		err = errors.New("expected one JSON value and nothing after it")
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("reading the request: %v", err), http.StatusBadRequest)
	}
	return err == nil
}

// storeTimeout bounds a call's wait for the store: nobody's request waits for it.
const storeTimeout = 5 * time.Second

func storeContext(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), storeTimeout)
}
