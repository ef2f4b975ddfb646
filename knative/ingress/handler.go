package ingress

import (
	"net/http"

	"knative.dev/networking/pkg/http/header"
)

// Handler returns what stands in front of a gateway: the local one, or the external one. It answers the probes by which the ingress
// controller learns what this replica serves, and leaves all else to the gateway. A probe that brings a hash of its own is for the
// backend, and passes.
//
// A probe is answered with the hash of the spec that its host is served by, and only once every backend of that spec could take a
// request: 404 while the host is unknown, 503 while a backend is missing. Before the first publication everything is answered 503.
func (p *Programmer) Handler(local bool, gateway http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := p.answers.Load()
		switch {
		case now == nil:
			unavailable(w, "starting", "the Ingress objects are not known yet")
		case r.Header.Get(header.ProbeKey) == header.ProbeValue && r.Header.Get(header.HashKey) == header.HashValueOverride:
			p.answerProbe(w, r, now, local)
		default:
			gateway.ServeHTTP(w, r)
		}
	})
}

func (p *Programmer) answerProbe(w http.ResponseWriter, r *http.Request, now *answers, local bool) {
	hash, known := now.probes.Hash(local, r.Host)
	if !known {
		answer(w, http.StatusNotFound, "no-route", "no Ingress has this host")
		return
	}
	for _, name := range now.backends[hash] {
		if b, exists := p.o.Backends.Backend(name); !exists || !b.Ready {
			unavailable(w, "no-endpoint", "backend "+name.String()+" is not ready")
			return
		}
	}
	w.Header().Set("Server", "limpet")
	w.Header().Set(header.HashKey, hash)
	w.WriteHeader(http.StatusOK)
}

func unavailable(w http.ResponseWriter, reason, text string) {
	w.Header().Set("Retry-After", "1")
	answer(w, http.StatusServiceUnavailable, reason, text)
}

// answer says that Limpet itself answers, and why.
func answer(w http.ResponseWriter, status int, reason, text string) {
	w.Header().Set("Server", "limpet")
	w.Header().Set("Limpet-Reason", reason)
	http.Error(w, text, status)
}
