package sticky

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const rev1, rev2, rev3 = "demo-rev1", "demo-rev2", "demo-rev3"

func TestTheFirstRevisionStays(t *testing.T) {
	for range 2 { // Knative's turn: each begins at another revision
		k := newKnative(t, rev1, rev2)
		var s Session
		first := ask(t, &s, request(t, k.URL))
		for n := range 10 {
			if got := ask(t, &s, request(t, k.URL+"/"+strconv.Itoa(n))); got != first {
				t.Errorf("request %d was processed by %s, want %s as the first", n+2, got, first)
			}
			ask(t, http.DefaultTransport, request(t, k.URL)) // another client takes a turn
		}
	}
}

func TestASessionFollowsTheRoute(t *testing.T) {
	tests := []struct {
		name        string
		tags, split []string // after the first answer, by demo-rev1
		answers     []string
		sent        []string
	}{
		{"it stays when the split changes", []string{rev1, rev2}, []string{rev2}, []string{rev1, rev1}, []string{rev1, rev1}},
		{"it stays on a revision without a share", []string{rev1}, []string{rev3}, []string{rev1, rev1}, []string{rev1, rev1}},
		{"it adopts who answers when its tag is gone", []string{rev2, rev3}, []string{rev2, rev3}, []string{rev2, rev2}, []string{rev1, rev2}},
		{"it goes by the split when there are no tags", nil, []string{rev2, rev3}, []string{rev2, rev3}, []string{rev1, rev2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKnative(t, rev1, rev2)
			var s Session
			if got := ask(t, &s, request(t, k.URL)); got != rev1 {
				t.Fatalf("request 1 was processed by %s, want %s", got, rev1)
			}
			k.become(tt.tags, tt.split)
			for n, want := range tt.answers {
				if got := ask(t, &s, request(t, k.URL)); got != want {
					t.Errorf("request %d was processed by %s, want %s", n+2, got, want)
				}
			}
			if got, want := k.sent(), append([]string{"-"}, tt.sent...); !slices.Equal(got, want) {
				t.Errorf("tags sent = %q, want %q", got, want)
			}
		})
	}
}

func TestWhatAResponseTeaches(t *testing.T) {
	tests := []struct {
		name   string
		header []string // values of the second response's header; the first names demo-rev1
		status int
		want   string // sent with the third request
	}{
		{"another tag is adopted", []string{rev2}, 200, rev2},
		{"the same changes nothing", []string{rev1}, 200, rev1},
		{"an error names who made it", []string{rev2}, 500, rev2},
		{"a redirect as well", []string{rev2}, 302, rev2},
		{"no header keeps what is known", nil, 200, rev1},
		{"nor does an answer of Knative itself change it", nil, 503, rev1},
		{"nor an empty one", []string{""}, 200, rev1},
		{"nor what is no tag", []string{"Demo Rev2"}, 200, rev1},
		{"nor a list", []string{"demo-rev2, demo-rev3"}, 200, rev1},
		{"nor one that is too long", []string{strings.Repeat("a", 64)}, 200, rev1},
		{"of several the first counts", []string{rev2, rev3}, 200, rev2},
		{"even if it is no tag", []string{"", rev3}, 200, rev1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n++
				if n == 1 {
					w.Header().Set(Header, rev1)
					return
				}
				w.Header()[Header] = tt.header
				w.WriteHeader(tt.status)
			}))
			defer server.Close()
			base := &spy{}
			s := Session{Base: base}
			for range 3 {
				ask(t, &s, request(t, server.URL))
			}
			if want := []string{"-", rev1, tt.want}; !slices.Equal(base.tags, want) {
				t.Errorf("tags sent = %q, want %q", base.tags, want)
			}
		})
	}
}

func TestTheCallersTagIsTheCallers(t *testing.T) {
	tests := []struct {
		name   string
		header http.Header
		sent   string
	}{
		{"a tag", http.Header{Header: {rev2}}, rev2},
		{"in another spelling", http.Header{"knative-serving-tag": {rev2}}, rev2},
		{"what is no tag", http.Header{Header: {"Blue"}}, "Blue"},
		{"an empty one", http.Header{Header: {""}}, ""},
		{"none", http.Header{Header: nil}, "-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKnative(t, rev1, rev2)
			var s Session
			explicit := request(t, k.URL)
			explicit.Header = tt.header
			ask(t, &s, explicit)
			k.become([]string{rev1, rev2}, []string{rev1, rev2})
			ask(t, &s, request(t, k.URL))
			ask(t, &s, explicit)
			ask(t, &s, request(t, k.URL))
			if got, want := k.sent(), []string{tt.sent, "-", tt.sent, rev1}; !slices.Equal(got, want) {
				t.Errorf("tags sent = %q, want %q", got, want)
			}
		})
	}
}

func TestEachOriginHasItsOwn(t *testing.T) {
	const known = "http://demo.default.example.com/cart"
	tests := []struct {
		name string
		url  string
		host string
		same bool
	}{
		{"another path", "http://demo.default.example.com/order?id=7#top", "", true},
		{"the port spelled out", "http://demo.default.example.com:80/", "", true},
		{"an empty port", "http://demo.default.example.com:/", "", true},
		{"upper case", "HTTP://Demo.Default.Example.COM/", "", true},
		{"a user", "http://alice:secret@demo.default.example.com/", "", true},
		{"the Host header spelled out", "http://demo.default.example.com/", "Demo.default.example.com:80", true},
		{"another scheme", "https://demo.default.example.com/", "", false},
		{"another scheme at the same port", "https://demo.default.example.com:80/", "", false},
		{"another port", "http://demo.default.example.com:8080/", "", false},
		{"another host", "http://shop.default.example.com/", "", false},
		{"a host below", "http://rev2.demo.default.example.com/", "", false},
		{"a host above", "http://default.example.com/", "", false},
		{"the host as a user", "http://demo.default.example.com@evil.example.com/", "", false},
		{"another Host header", "http://demo.default.example.com/", "shop.default.example.com", false},
		{"the Host header at another address", "http://evil.example.com/", "demo.default.example.com", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := &canned{header: http.Header{Header: {rev1}}}
			s := Session{Base: base}
			ask(t, &s, request(t, known))
			req := request(t, tt.url)
			if tt.host != "" {
				req.Host = tt.host
			}
			ask(t, &s, req)
			if got := base.last.Get(Header) == rev1; got != tt.same {
				t.Errorf("the tag of %s is sent to %s (Host %q): %t, want %t", known, tt.url, tt.host, got, tt.same)
			}
		})
	}
}

func TestAddressesOfIPv6(t *testing.T) {
	base := &canned{header: http.Header{Header: {rev1}}}
	s := Session{Base: base}
	ask(t, &s, request(t, "http://[2001:db8::1]/"))
	ask(t, &s, request(t, "http://[2001:DB8::1]:80/"))
	if got := base.last.Get(Header); got != rev1 {
		t.Errorf("tag = %q, want %q: the port is the default one", got, rev1)
	}
	ask(t, &s, request(t, "http://[2001:db8::1]:81/"))
	if got := base.last.Get(Header); got != "" {
		t.Errorf("tag = %q, want none: the port is another", got)
	}
}

func TestServicesBehindOneAddressAreTwo(t *testing.T) {
	ingress := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service, _, _ := strings.Cut(r.Host, ".")
		w.Header().Set(Header, service+"-rev1")
		io.WriteString(w, r.Header.Get(Header))
	}))
	defer ingress.Close()
	var s Session
	for range 2 {
		for _, service := range []string{"demo", "shop"} {
			ask(t, &s, request(t, ingress.URL, "Host", service+".default.example.com"))
		}
	}
	for _, service := range []string{"demo", "shop"} {
		if got := ask(t, &s, request(t, ingress.URL, "Host", service+".default.example.com")); got != service+"-rev1" {
			t.Errorf("the tag sent to %s is %s, want its own", service, got)
		}
	}
}

func TestRedirectsCarryNothingToAnotherOrigin(t *testing.T) {
	// The worst that clients do: every header of what came before is copied.
	copyAll := func(req *http.Request, via []*http.Request) error {
		for _, old := range append(via, req.Response.Request) {
			for name, values := range old.Header {
				req.Header[name] = values
			}
		}
		return nil
	}
	for name, check := range map[string]func(*http.Request, []*http.Request) error{"as net/http does": nil, "copying all headers": copyAll} {
		t.Run(name, func(t *testing.T) {
			other := newKnative(t, "other-rev1", "other-rev2")
			home := httptest.NewServer(Naming{Tag: rev1}.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/away" {
					http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
					return
				}
				io.WriteString(w, r.Header.Get(Header))
			})))
			defer home.Close()
			client := &http.Client{Transport: &Session{}, CheckRedirect: check}
			for range 3 {
				if got := get(t, client, home.URL+"/away"); got != "other-rev1" {
					t.Errorf("the redirect ends at %s, want other-rev1", got)
				}
			}
			if got := get(t, client, home.URL); got != rev1 {
				t.Errorf("tag sent home = %q, want %s", got, rev1)
			}
			if got, want := other.sent(), []string{"-", "other-rev1", "other-rev1"}; !slices.Equal(got, want) {
				t.Errorf("tags sent to the other origin = %q, want %q", got, want)
			}
		})
	}
}

func TestRedirectsWithinAnOriginKeepTheRevision(t *testing.T) {
	k := newKnative(t, rev1, rev2)
	front := http.NewServeMux()
	front.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(Header, k.route(r.Header.Values(Header)))
		http.Redirect(w, r, "/home", http.StatusSeeOther)
	})
	front.Handle("/home", k)
	server := httptest.NewServer(front)
	defer server.Close()
	if got := get(t, &http.Client{Transport: &Session{}}, server.URL+"/login"); got != rev1 {
		t.Errorf("after the redirect %s answers, want %s, which redirected", got, rev1)
	}
}

// TestABaseThatFollowsRedirects is about a Base that breaks the contract of RoundTrippers, as some that retry do.
func TestABaseThatFollowsRedirects(t *testing.T) {
	other := newKnative(t, "other-rev1")
	home := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer home.Close()
	s := Session{Base: roundTrip(func(req *http.Request) (*http.Response, error) { return http.DefaultClient.Do(req) })}
	for range 2 {
		if got := ask(t, &s, request(t, home.URL)); got != "other-rev1" {
			t.Fatalf("the redirect ends at %s, want other-rev1", got)
		}
	}
	if got, want := other.sent(), []string{"-", "-"}; !slices.Equal(got, want) {
		t.Errorf("tags sent = %q, want %q: what the other origin names is not home's", got, want)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Do(request(t, url))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestTheRequestIsNotModified(t *testing.T) {
	k := newKnative(t, rev1, rev2)
	var s Session
	ask(t, &s, request(t, k.URL))
	req := request(t, k.URL, "Accept", "text/plain")
	before := req.Clone(req.Context())
	resp, err := s.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !reflect.DeepEqual(req.Header, before.Header) || !reflect.DeepEqual(req.URL, before.URL) || req.Host != before.Host {
		t.Errorf("the request is %v, want it as it was: %v", req, before)
	}
	if resp.Request != req {
		t.Errorf("the response's request is %p, want the caller's, %p", resp.Request, req)
	}
	if got, want := k.sent(), []string{"-", rev1}; !slices.Equal(got, want) {
		t.Errorf("tags sent = %q, want %q", got, want)
	}
}

func TestTheBodyIsClosedWhateverHappens(t *testing.T) {
	k := newKnative(t, rev1)
	var s Session
	ask(t, &s, request(t, k.URL))
	errRefused := errors.New("connection refused")
	failing := roundTrip(func(req *http.Request) (*http.Response, error) {
		req.Body.Close()
		return nil, errRefused
	})
	for _, base := range []http.RoundTripper{nil, failing} {
		s.Base = base
		body := &closeNoted{Reader: strings.NewReader("order=7")}
		req := request(t, k.URL)
		req.Method, req.Body, req.ContentLength = http.MethodPost, body, 7
		resp, err := s.RoundTrip(req)
		if base != nil && !errors.Is(err, errRefused) || base == nil && err != nil {
			t.Errorf("RoundTrip = %v, want the error of Base", err)
		}
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		if !body.isClosed() {
			t.Errorf("the body is open after RoundTrip = %v", err)
		}
	}
}

type closeNoted struct {
	io.Reader
	mu     sync.Mutex
	closed bool
}

func (c *closeNoted) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *closeNoted) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func TestRequestsThatGoNowhereAreLeftToBase(t *testing.T) {
	for name, req := range map[string]*http.Request{
		"no URL":    {Header: http.Header{}},
		"no host":   {URL: request(t, "http:///path").URL, Header: http.Header{}},
		"no header": {URL: request(t, "http://demo.example.com").URL},
	} {
		var s Session
		resp, err := s.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: RoundTrip succeeded, want the error of http.Transport", name)
		}
	}
}

func TestTheFirstOfSeveralFirstResponsesWins(t *testing.T) {
	arrived, release := make(chan string), map[string]chan bool{"/" + rev1: make(chan bool), "/" + rev2: make(chan bool)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(Header, strings.TrimPrefix(r.URL.Path, "/"))
		if r.URL.Path != "/" {
			arrived <- r.URL.Path
			<-release[r.URL.Path]
			return
		}
		io.WriteString(w, r.Header.Get(Header))
	}))
	defer server.Close()
	var s Session
	done := make(map[string]chan bool)
	for path := range release {
		ended := make(chan bool)
		done[path] = ended
		req := request(t, server.URL+path)
		go func() {
			defer close(ended)
			if resp, err := s.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		}()
	}
	<-arrived
	<-arrived
	for _, path := range []string{"/" + rev2, "/" + rev1} {
		close(release[path])
		<-done[path]
	}
	if got := ask(t, &s, request(t, server.URL+"/")); got != rev2 {
		t.Errorf("tag sent after both = %q, want %q, which answered first", got, rev2)
	}
}

func TestManyAtOnceAgree(t *testing.T) {
	services := [][]string{{rev1, rev2, rev3}, {"shop-rev1", "shop-rev2", "shop-rev3"}}
	homes := []*knative{newKnative(t, services[0]...), newKnative(t, services[1]...)}
	var s Session
	for round := range 21 {
		for n, k := range homes { // each round another revision is gone
			left := slices.Delete(slices.Clone(services[n]), round%3, round%3+1)
			k.become(left, left)
		}
		var wg sync.WaitGroup
		for n := range 16 {
			req := request(t, homes[n%2].URL)
			wg.Go(func() {
				resp, err := s.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
			})
		}
		wg.Wait()
		for n, k := range homes {
			first := ask(t, &s, request(t, k.URL))
			if again := ask(t, &s, request(t, k.URL)); first != again || !slices.Contains(services[n], first) {
				t.Errorf("round %d: processed by %s, then %s, want the same of %v", round, first, again, services[n])
			}
		}
	}
	for n, k := range homes {
		for _, tag := range k.sent() {
			if tag != "-" && !slices.Contains(services[n], tag) {
				t.Errorf("%s was sent to the service of %v, want its own tags only", tag, services[n])
			}
		}
	}
}

func TestTheOriginLongestUnusedIsForgotten(t *testing.T) {
	tests := []struct {
		name  string
		limit int
		use   []string
		known []string // in the end
	}{
		{"room for all", 3, []string{"a", "b", "c"}, []string{"a", "b", "c"}},
		{"the first goes", 2, []string{"a", "b", "c"}, []string{"b", "c"}},
		{"use keeps it", 2, []string{"a", "b", "a", "c"}, []string{"a", "c"}},
		{"room for one", 1, []string{"a", "b", "a"}, []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := &canned{header: http.Header{Header: {rev1}}}
			s := Session{Base: base, Origins: tt.limit}
			for _, host := range tt.use {
				ask(t, &s, request(t, "http://demo-"+host+".example.com"))
			}
			base.header = nil // learn nothing more
			var known []string
			for _, host := range []string{"a", "b", "c"} {
				ask(t, &s, request(t, "http://demo-"+host+".example.com"))
				if base.last.Get(Header) != "" {
					known = append(known, host)
				}
			}
			if !slices.Equal(known, tt.known) {
				t.Errorf("known = %v, want %v", known, tt.known)
			}
		})
	}
}

func TestMemoryIsBounded(t *testing.T) {
	base := &canned{header: http.Header{Header: {rev1}}}
	s := Session{Base: base, Origins: -1}
	for n := range DefaultOrigins + 100 {
		ask(t, &s, request(t, "http://demo-"+strconv.Itoa(n)+".example.com"))
	}
	if got, listed := len(s.memory.byOrigin), s.memory.recent.Len(); got != DefaultOrigins || listed != got {
		t.Errorf("remembers %d origins (%d listed), want %d", got, listed, DefaultOrigins)
	}
	long := "http://" + strings.Repeat("a.", maxOriginBytes/2) + "example.com"
	for range 2 {
		ask(t, &s, request(t, long))
		if got := base.last.Get(Header); got != "" {
			t.Errorf("a name of %d bytes is remembered", len(long))
		}
	}
	silent := Session{Base: &canned{}}
	ask(t, &silent, request(t, "http://demo.example.com"))
	if got := len(silent.memory.byOrigin); got != 0 {
		t.Errorf("remembers %d origins that named nothing, want 0", got)
	}
}

func TestWhatWasForgottenMeanwhileIsLearnedAgain(t *testing.T) {
	var m memory
	demo, shop := origin{"http", "demo 80", "demo 80"}, origin{"http", "shop 80", "shop 80"}
	m.adopt(demo, "", rev1, 1)
	m.adopt(shop, "", "shop-rev1", 1)
	m.adopt(demo, rev1, rev2, 1) // a response to a request of before
	if got := m.tag(demo); got != rev2 {
		t.Errorf("tag = %q, want %q", got, rev2)
	}
	m.adopt(demo, rev1, rev3, 1) // and another, later
	if got := m.tag(demo); got != rev2 {
		t.Errorf("tag = %q, want %q, which came first", got, rev2)
	}
}

func TestIdleConnectionsAreBases(t *testing.T) {
	base := &idle{}
	(&http.Client{Transport: &Session{Base: base}}).CloseIdleConnections()
	if base.closed != 1 {
		t.Errorf("Base closed its idle connections %d times, want once", base.closed)
	}
	(&Session{Base: &canned{}}).CloseIdleConnections() // which has none to close
}

type idle struct {
	canned
	closed int
}

func (i *idle) CloseIdleConnections() { i.closed++ }
