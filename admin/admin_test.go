package admin

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A gateway is the API of a router with two endpoints of the service shop/demo, and what it speaks for.
type gateway struct {
	t       *testing.T
	handler http.Handler
	router  *router.Router
	table   *endpoint.Table
	store   *binding.Memory
	policy  *affinity.Policy
	ready   error
}

var demo = affinity.ServiceName{Namespace: "shop", Name: "demo"}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	digester, err := affinity.NewDigester([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatalf("NewDigester() = %v", err)
	}
	g := &gateway{t: t, store: binding.NewMemory(binding.MemoryOptions{}), table: endpoint.NewTable(endpoint.Options{})}
	g.policy = (&affinity.Policy{Session: &affinity.SessionAffinity{}, Revision: &affinity.RevisionAffinity{}}).WithDefaults()
	g.table.SetServices([]endpoint.Service{{Name: demo, Revisions: []endpoint.Revision{{Name: "demo-00001", Weight: 1, Tags: []string{"canary"}}}}})
	g.table.SetMembers(endpoint.RevisionName{Namespace: "shop", Name: "demo-00001"}, []endpoint.Member{
		{Name: "demo-00001-a", Address: "10.1.0.7:8080"}, {Name: "demo-00001-b", Address: "10.1.0.8:8080"},
	})
	g.table.SetSynced()
	g.router = router.New(router.Options{Endpoints: g.table, Store: g.store, Keys: affinity.Keyer{Digester: digester}})
	g.handler = Handler(Options{
		Router: g.router, Endpoints: g.table, Store: g.store, Resolve: g.resolve,
		Ready: func() error { return g.ready },
	})
	return g
}

// resolve routes demo.example.com.
func (g *gateway) resolve(m affinity.Message) (*router.Request, error) {
	if m.Host() != "demo.example.com" {
		return nil, fmt.Errorf("no route for host %s", m.Host())
	}
	return &router.Request{Service: demo, Policy: g.policy, Message: m}, nil
}

// visit binds a session, as a request would, and returns its endpoint.
func (g *gateway) visit(session string) string {
	g.t.Helper()
	q := Question{URL: "http://demo.example.com/incr", Header: map[string][]string{"K-Session": {session}}}
	m, err := q.message()
	if err != nil {
		g.t.Fatal(err)
	}
	pick, err := g.router.Pick(context.Background(), &router.Request{Service: demo, Policy: g.policy, Message: m})
	if err != nil {
		g.t.Fatalf("Pick() = %v", err)
	}
	name := pick.Target().Endpoint
	pick.Done(endpoint.OutcomeOK)
	return name
}

// call sends a request with headers, given as name and value in turns, and returns status and body.
func (g *gateway) call(method, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest(method, "http://127.0.0.1:9901"+path, strings.NewReader(body))
	if method != http.MethodGet && method != http.MethodHead {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

// page lists bindings.
func (g *gateway) page(query string) Page {
	g.t.Helper()
	status, body := g.call(http.MethodGet, "/bindings?namespace=shop&service=demo"+query, "")
	if status != http.StatusOK {
		g.t.Fatalf("GET /bindings%s = %d %s, want 200", query, status, body)
	}
	var p Page
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		g.t.Fatalf("GET /bindings%s = %s: %v", query, body, err)
	}
	return p
}

func TestWrongCallsAreRefusedWithWhatWasExpected(t *testing.T) {
	const key = "00112233445566778899aabbccddeeff"
	tests := []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"a body that is no JSON", "POST", "/drain", `service`, 400, "reading the request: invalid character"},
		{"an empty body", "POST", "/explain", ``, 400, "reading the request: EOF"},
		{"an unknown field", "POST", "/drain", `{"servcie": {}}`, 400, `unknown field "servcie"`},
		{"an unknown field inside", "POST", "/drain", `{"service": {"nmae": "demo"}}`, 400, `unknown field "nmae"`},
		{"two values", "POST", "/explain", `{"url": "http://demo.example.com/"} {}`, 400, "expected one JSON value"},
		{"rubbish after the value", "POST", "/explain", `{"url": "http://demo.example.com/"} ]`, 400, "expected one JSON value"},
		{"a number for a duration", "POST", "/drain", `{"deadline": 5}`, 400, "reading the request"},
		{
			"a negative deadline", "POST", "/drain",
			`{"service": {"namespace": "shop", "name": "demo"}, "revision": "demo-00001", "endpoint": "demo-00001-a", "deadline": "-1s"}`,
			400, `expected a duration that is not negative, got "-1s"`,
		},
		{"a body too long", "POST", "/explain", `{"url": "` + strings.Repeat("a", maxBody) + `"}`, 400, "too large"},
		{
			"an unknown service", "POST", "/drain", `{"service": {"name": "cart"}, "revision": "demo-00001", "endpoint": "demo-00001-a"}`,
			404, "service cart has no endpoint demo-00001/demo-00001-a",
		},
		{
			"the service of another namespace", "POST", "/drain",
			`{"service": {"name": "demo"}, "revision": "demo-00001", "endpoint": "demo-00001-a"}`, 404, "service demo has no endpoint",
		},
		{
			"an unknown revision", "POST", "/drain",
			`{"service": {"namespace": "shop", "name": "demo"}, "revision": "demo-00009", "endpoint": "demo-00001-a"}`, 404, "has no endpoint",
		},
		{
			"an unknown endpoint", "POST", "/drain",
			`{"service": {"namespace": "shop", "name": "demo"}, "revision": "demo-00001", "endpoint": "demo-00001-z"}`, 404, "has no endpoint",
		},
		{"no host to explain", "POST", "/explain", `{"url": "/incr"}`, 400, `url: got "/incr", expected http://host/path`},
		{"a client that is no address", "POST", "/explain", `{"url": "http://demo.example.com/", "client": "home"}`, 400, "expected an IP address"},
		{"a host without route", "POST", "/explain", `{"url": "http://cart.example.com/"}`, 404, "no route for host cart.example.com"},
		{"no service to list", "GET", "/bindings", ``, 400, "service: missing"},
		{"a limit of 0", "GET", "/bindings?service=demo&limit=0", ``, 400, `limit: got "0", expected a number from 1 to 1000`},
		{"a limit too large", "GET", "/bindings?service=demo&limit=1001", ``, 400, "expected a number from 1 to 1000"},
		{
			"a kind that there is not", "DELETE", "/bindings", `{"service": {"name": "demo"}, "kind": "both", "key": "` + key + `"}`,
			400, `kind: got "both", expected session or flow`,
		},
		{
			"half a key", "DELETE", "/bindings", `{"service": {"name": "demo"}, "kind": "session", "key": "` + key[:16] + `"}`,
			400, "key: expected 32 hexadecimal digits",
		},
		{
			"a key that is not bound", "DELETE", "/bindings", `{"service": {"name": "demo"}, "kind": "session", "key": "` + key + `"}`,
			404, "service demo has no binding of session " + key,
		},
		{"a path that there is not", "GET", "/nowhere", ``, 404, "not found"},
		{"a method that there is not", "PUT", "/drain", `{}`, 405, "Method Not Allowed"},
	}
	g := newGateway(t)
	g.visit("alice-4711")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := g.call(tt.method, tt.path, tt.body)
			if status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%s %s = %d %s, want %d and %q", tt.method, tt.path, status, body, tt.status, tt.want)
			}
		})
	}
	if n := len(g.page("").Bindings); n != 1 {
		t.Errorf("afterwards there are %d bindings, want 1: a refused call changes nothing", n)
	}
}

func TestWhatAWebPageCouldSendIsRefused(t *testing.T) {
	const order = `{"service": {"namespace": "shop", "name": "demo"}, "revision": "demo-00001", "endpoint": "demo-00001-a"}`
	tests := []struct {
		name   string
		header []string
		want   int
	}{
		{"a form", []string{"Content-Type", "application/x-www-form-urlencoded"}, http.StatusUnsupportedMediaType},
		{"plain text", []string{"Content-Type", "text/plain"}, http.StatusUnsupportedMediaType},
		{"no type", []string{"Content-Type", ""}, http.StatusUnsupportedMediaType},
		{"another site's page", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{"a page of the same site", []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{"an old browser's page", []string{"Origin", "http://evil.example.com"}, http.StatusForbidden},
		{"a program", nil, http.StatusOK},
		{"a program that names the encoding", []string{"Content-Type", "application/json; charset=utf-8"}, http.StatusOK},
		{"the gateway's own page", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:9901"}, http.StatusOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t)
			if status, body := g.call(http.MethodPost, "/drain", order, tt.header...); status != tt.want {
				t.Errorf("POST /drain = %d %s, want %d", status, body, tt.want)
			}
			draining := slices.ContainsFunc(g.table.Status()[0].Revisions[0].Endpoints, func(e endpoint.EndpointStatus) bool { return e.Draining })
			if draining != (tt.want == http.StatusOK) {
				t.Errorf("the endpoint drains = %t, want %t", draining, tt.want == http.StatusOK)
			}
		})
	}
}

// A page at a name that was made to resolve to 127.0.0.1 is of the gateway's own origin to its browser.
func TestPageWhoseNameResolvesToLoopbackIsRefused(t *testing.T) {
	g := newGateway(t)
	server := httptest.NewServer(g.handler)
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	for host, want := range map[string]int{
		"evil.example.com": http.StatusForbidden, "evil.example.com:9901": http.StatusForbidden, "localhost.example.com": http.StatusForbidden,
		"localhost:9901": http.StatusOK, "limpet.localhost": http.StatusOK, "127.0.0.1:9901": http.StatusOK, "[::1]:9901": http.StatusOK,
	} {
		req, err := http.NewRequest(http.MethodGet, server.URL+"/services", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET /services of %s = %d, want %d", host, resp.StatusCode, want)
		}
	}
}

func TestHealthIsForAnyCheckOfALoadBalancer(t *testing.T) {
	g := newGateway(t)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, body := g.call(method, path, ""); status != http.StatusOK {
				t.Errorf("%s %s = %d %s, want 200", method, path, status, body)
			}
		}
	}
	g.ready = errors.New("draining")
	if status, body := g.call(http.MethodGet, "/readyz", ""); status != http.StatusServiceUnavailable || body != "draining" {
		t.Errorf("GET /readyz = %d %s, want 503 draining", status, body)
	}
	if status, _ := g.call(http.MethodGet, "/healthz", ""); status != http.StatusOK {
		t.Errorf("GET /healthz of a gateway that is not ready = %d, want 200", status)
	}
}

func TestBindingsAreListedPageByPageEachOnce(t *testing.T) {
	g := newGateway(t)
	const sessions = 25
	for i := range sessions {
		g.visit(fmt.Sprintf("session-%d", i))
	}
	seen, cursor := map[string]bool{}, ""
	for range sessions + 20 {
		p := g.page("&limit=4&cursor=" + cursor)
		if len(p.Bindings) > 4 {
			t.Errorf("a page has %d bindings, want at most 4", len(p.Bindings))
		}
		for _, b := range p.Bindings {
			if seen[b.Key] || b.Kind != "session" || b.Revision != "demo-00001" || !strings.HasPrefix(b.Endpoint, "demo-00001-") ||
				time.Since(b.Made) > time.Hour || time.Until(b.Ends) < 50*time.Minute {
				t.Errorf("binding %+v, seen before = %t", b, seen[b.Key])
			}
			seen[b.Key] = true
		}
		if cursor = p.Next; cursor == "" {
			break
		}
	}
	if cursor != "" || len(seen) != sessions {
		t.Errorf("%d bindings listed, cursor at the end %q, want %d and none", len(seen), cursor, sessions)
	}
	if status, body := g.call(http.MethodGet, "/bindings?service=demo", ""); status != http.StatusOK || strings.Contains(body, "session") {
		t.Errorf("bindings of the service of this name without namespace = %d %s, want none", status, body)
	}
}

func TestForgottenBindingIsGone(t *testing.T) {
	g := newGateway(t)
	g.visit("alice-4711")
	g.visit("bob-4712")
	key := g.page("").Bindings[0].Key
	order := `{"service": {"namespace": "shop", "name": "demo"}, "kind": "session", "key": "` + key + `"}`
	if status, body := g.call(http.MethodDelete, "/bindings", order); status != http.StatusOK {
		t.Fatalf("DELETE /bindings = %d %s, want 200", status, body)
	}
	if left := g.page("").Bindings; len(left) != 1 || left[0].Key == key {
		t.Errorf("bindings left = %+v, want the other one", left)
	}
	if status, _ := g.call(http.MethodDelete, "/bindings", order); status != http.StatusNotFound {
		t.Errorf("DELETE /bindings again = %d, want 404", status)
	}
}

func TestDrainHoldsUntilItIsCancelled(t *testing.T) {
	g := newGateway(t)
	home := g.visit("alice-4711")
	order := fmt.Sprintf(`{"service": {"namespace": "shop", "name": "demo"}, "revision": "demo-00001", "endpoint": %q, "deadline": "1h"`, home)
	if status, body := g.call(http.MethodPost, "/drain", order+"}"); status != http.StatusOK {
		t.Fatalf("POST /drain = %d %s, want 200", status, body)
	}
	if at := g.visit("alice-4711"); at != home {
		t.Errorf("a session of the endpoint that drains went to %s, want %s", at, home)
	}
	for i := range 20 {
		if at := g.visit(fmt.Sprintf("late-%d", i)); at == home {
			t.Errorf("a new session went to %s, which drains", at)
		}
	}
	if _, body := g.call(http.MethodGet, "/services", ""); !strings.Contains(body, `"drainUntil"`) {
		t.Errorf("GET /services = %s, want the deadline", body)
	}
	if status, body := g.call(http.MethodPost, "/drain", order+`, "cancel": true}`); status != http.StatusOK {
		t.Fatalf("POST /drain to cancel = %d %s, want 200", status, body)
	}
	if _, body := g.call(http.MethodGet, "/services", ""); strings.Contains(body, `"drainUntil"`) {
		t.Errorf("GET /services after the drain was cancelled = %s, want no deadline", body)
	}
}

func TestExplainTellsWhatPickWouldDoAndDoesNothing(t *testing.T) {
	g := newGateway(t)
	explain := func(question string) router.Explanation {
		status, body := g.call(http.MethodPost, "/explain", question)
		var e router.Explanation
		if err := json.Unmarshal([]byte(body), &e); err != nil || status != http.StatusOK {
			t.Fatalf("POST /explain %s = %d %s, want 200", question, status, body)
		}
		return e
	}
	for _, question := range []string{
		`{"url": "http://demo.example.com/incr", "header": {"K-Session": ["alice-4711"]}}`,
		`{"url": "http://demo.example.com/incr", "header": {"k-session": ["alice-4711"]}}`,
		`{"url": "http://10.1.0.1:8080/incr", "header": {"Host": ["demo.example.com"], "K-Session": ["alice-4711"]}}`,
	} {
		if e := explain(question); e.Reason != "new" {
			t.Errorf("explain %s = %+v, want reason new", question, e)
		}
	}
	if n := len(g.page("").Bindings); n != 0 {
		t.Errorf("explain bound %d keys, want 0", n)
	}
	home := g.visit("alice-4711")
	e := explain(`{"url": "http://demo.example.com/incr", "header": {"K-Session": ["alice-4711"]}}`)
	if e.Reason != "bound" || e.Endpoint != home || !strings.HasPrefix(g.page("").Bindings[0].Key, e.Session.Key) {
		t.Errorf("explain = %+v, want bound to %s", e, home)
	}
}

// Ids are never shown: whoever reads the API's answers learns keys only.
func TestNoAnswerHasAnID(t *testing.T) {
	g := newGateway(t)
	const id = "alice-4711"
	home := g.visit(id)
	key := g.page("").Bindings[0].Key
	for _, c := range [][3]string{
		{"POST", "/explain", `{"url": "http://demo.example.com/incr", "header": {"K-Session": ["` + id + `"], "K-Revision": ["` + id + `"]}}`},
		{"POST", "/explain", `{"url": "http://demo.example.com/` + id + `?session=` + id + `", "header": {"K-Session": ["` +
			strings.Repeat(id, 200) + `"]}}`},
		{"POST", "/explain", `{"url": "http://cart.example.com/` + id + `", "header": {"K-Session": ["` + id + `"]}}`},
		{"GET", "/services", ""},
		{"GET", "/store", ""},
		{"GET", "/bindings?namespace=shop&service=demo", ""},
		{"POST", "/drain", `{"service": {"namespace": "shop", "name": "demo"}, "revision": "demo-00001", "endpoint": "` + home + `"}`},
		{"DELETE", "/bindings", `{"service": {"namespace": "shop", "name": "demo"}, "kind": "session", "key": "` + key + `"}`},
	} {
		_, body := g.call(c[0], c[1], c[2])
		if strings.Contains(body, id) || strings.Contains(body, hex.EncodeToString([]byte(id))) {
			t.Errorf("%s %s %s tells the id: %s", c[0], c[1], c[2], body)
		}
	}
}

// An unlisted store has no List.
type unlisted struct{ binding.Store }

func TestStoreThatCannotListSaysSo(t *testing.T) {
	g := newGateway(t)
	g.handler = Handler(Options{Router: g.router, Endpoints: g.table, Store: unlisted{g.store}, Resolve: g.resolve})
	if status, body := g.call(http.MethodGet, "/bindings?service=demo", ""); status != http.StatusNotImplemented {
		t.Errorf("GET /bindings = %d %s, want 501", status, body)
	}
}

// An away store cannot be asked.
type away struct{ binding.Store }

func (away) Delete(context.Context, affinity.Key, binding.Version) error {
	return binding.ErrUnavailable
}

func (away) Get(context.Context, affinity.Key) (binding.Binding, error) {
	return binding.Binding{}, binding.ErrUnavailable
}

func (away) List(context.Context, affinity.ServiceName, string, int) ([]binding.Entry, string, error) {
	return nil, "", binding.ErrUnavailable
}

func TestStoreThatIsAwayIsAnswered503(t *testing.T) {
	g := newGateway(t)
	g.handler = Handler(Options{Router: g.router, Endpoints: g.table, Store: away{g.store}, Resolve: g.resolve})
	for method, body := range map[string]string{
		http.MethodGet:    "",
		http.MethodDelete: `{"service": {"name": "demo"}, "kind": "flow", "key": "00112233445566778899aabbccddeeff"}`,
	} {
		if status, answer := g.call(method, "/bindings?service=demo", body); status != http.StatusServiceUnavailable {
			t.Errorf("%s /bindings = %d %s, want 503", method, status, answer)
		}
	}
}
