package admin

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// maxPage bounds the bindings of one answer; it is also the default.
const maxPage = 1000

// A Page is the answer of GET /bindings: some bindings of a service, and the cursor of the next page, "" after the last.
type Page struct {
	Bindings []BindingView `json:"bindings"`
	Next     string        `json:"next,omitempty"`
}

// A BindingView is one binding as the API shows it.
type BindingView struct {
	Key      string    `json:"key"` // the whole digest, in hex
	Kind     string    `json:"kind"`
	Tag      string    `json:"tag,omitempty"`
	Revision string    `json:"revision"`
	Endpoint string    `json:"endpoint,omitempty"`
	Made     time.Time `json:"made"`
	Ends     time.Time `json:"ends,omitzero"`
}

// list answers GET /bindings?namespace=…&service=…&cursor=…&limit=….
func (a api) list(w http.ResponseWriter, r *http.Request) {
	lister, ok := a.o.Store.(binding.Lister)
	if !ok {
		http.Error(w, "this store cannot list its bindings", http.StatusNotImplemented)
		return
	}
	q := r.URL.Query()
	n, err := limit(q.Get("limit"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	service := affinity.ServiceName{Namespace: q.Get("namespace"), Name: q.Get("service")}
	if service.Name == "" {
		http.Error(w, "service: missing, expected the name of a service", http.StatusBadRequest)
		return
	}
	ctx, cancel := storeContext(r)
	defer cancel()
	entries, next, err := lister.List(ctx, service, q.Get("cursor"), n)
	if err != nil {
		http.Error(w, fmt.Sprintf("listing the bindings of %s: %v", service, err), http.StatusServiceUnavailable)
		return
	}
	page := Page{Bindings: make([]BindingView, 0, len(entries)), Next: next}
	for _, e := range entries {
		page.Bindings = append(page.Bindings, view(e))
	}
	reply(w, page)
}

func limit(s string) (int, error) {
	if s == "" {
		return maxPage, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxPage {
		return 0, fmt.Errorf("limit: got %q, expected a number from 1 to %d", s, maxPage)
	}
	return n, nil
}

func view(e binding.Entry) BindingView {
	return BindingView{
		Key:      hex.EncodeToString(e.Key.Digest[:]),
		Kind:     e.Key.Scope.Kind.String(),
		Tag:      e.Key.Scope.Tag,
		Revision: e.Binding.Target.Revision,
		Endpoint: e.Binding.Target.Endpoint,
		Made:     time.UnixMicro(e.Binding.Version.Made),
		Ends:     e.Binding.Ends,
	}
}

// A ForgetOrder is the body of DELETE /bindings.
type ForgetOrder struct {
	Service ServiceRef `json:"service"`
	Kind    string     `json:"kind"` // session or flow
	Tag     string     `json:"tag,omitempty"`
	Key     string     `json:"key"` // the whole digest, in hex
}

func (a api) forget(w http.ResponseWriter, r *http.Request) {
	var o ForgetOrder
	if !decode(w, r, &o) {
		return
	}
	k, err := o.key()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := storeContext(r)
	defer cancel()
	known, err := a.o.Store.Get(ctx, k)
	// It is deleted whatever was known of it here: another gateway may have bound it a moment ago.
	if err = errors.Join(err, a.o.Store.Delete(ctx, k, binding.Version{})); err != nil {
		http.Error(w, fmt.Sprintf("forgetting %s: %v", o.Key, err), http.StatusServiceUnavailable)
		return
	}
	if !known.Bound() {
		http.Error(w, fmt.Sprintf("service %s has no binding of %s %s", k.Scope.Service, o.Kind, o.Key), http.StatusNotFound)
		return
	}
	reply(w, o)
}

func (o ForgetOrder) key() (affinity.Key, error) {
	k := affinity.Key{Scope: affinity.Scope{Service: o.Service.name(), Tag: o.Tag}}
	switch o.Kind {
	case affinity.KindSession.String():
		k.Scope.Kind = affinity.KindSession
	case affinity.KindFlow.String():
		k.Scope.Kind = affinity.KindFlow
	default:
		return k, fmt.Errorf("kind: got %q, expected session or flow", o.Kind)
	}
	digest, err := hex.DecodeString(o.Key)
	if err != nil || len(digest) != len(k.Digest) {
		return k, errors.New("key: expected 32 hexadecimal digits, as limpet bindings prints them; logs and limpet explain tell the first 16")
	}
	copy(k.Digest[:], digest)
	return k, nil
}
