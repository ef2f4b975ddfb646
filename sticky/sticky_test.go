package sticky

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A knative stands for Knative's ingress in front of a service whose tags are named like its revisions: a request with a known tag goes to
// that revision, any other to the revisions of the split in turn.
type knative struct {
	*httptest.Server

	mu    sync.Mutex
	tags  []string
	split []string
	next  int
	seen  []string // the tag of each request; "-" is none
}

// newKnative starts one whose revisions are in the split and tagged. They are real handlers, and answer with their name.
func newKnative(t *testing.T, revisions ...string) *knative {
	t.Helper()
	k := &knative{tags: revisions, split: revisions}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

func (k *knative) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	revision := k.route(r.Header.Values(Header))
	Naming{Tag: revision}.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, revision)
	})).ServeHTTP(w, r)
}

func (k *knative) route(tags []string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	tag := "-"
	if len(tags) > 0 {
		tag = strings.Join(tags, ", ")
	}
	k.seen = append(k.seen, tag)
	if slices.Contains(k.tags, tag) {
		return tag
	}
	k.next++
	return k.split[(k.next-1)%len(k.split)]
}

// become changes the Route.
func (k *knative) become(tags, split []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tags, k.split, k.next = tags, split, 0
}

// sent returns the tag of each request so far.
func (k *knative) sent() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.seen)
}

// ask sends a request and returns the body of the answer, which is closed.
func ask(t *testing.T, rt http.RoundTripper, req *http.Request) string {
	t.Helper()
	resp, err := rt.RoundTrip(req)
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

// request makes a GET request with headers, given as name and value in turn; "Host" is the request's Host.
func request(t *testing.T, url string, headers ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(headers, 2) {
		if pair[0] == "Host" {
			req.Host = pair[1]
			continue
		}
		req.Header.Add(pair[0], pair[1])
	}
	return req
}

func TestValidTag(t *testing.T) {
	for tag, want := range map[string]bool{
		"demo-rev2": true, "demo-00002": true, "a": true, "z9": true, "a--b": true, "a" + strings.Repeat("0", 62): true,
		"": false, "-": false, "2demo": false, "-demo": false, "demo-": false, "Demo": false, "demo.rev2": false, "demo_rev2": false,
		"demo rev2": false, "demo,rev2": false, "demo\r\nX: y": false, "démo": false, "demo\x00": false, "a" + strings.Repeat("0", 63): false,
	} {
		if got := ValidTag(tag); got != want {
			t.Errorf("ValidTag(%q) = %t, want %t", tag, got, want)
		}
	}
}

// dns1035 is the rule as Kubernetes writes it (IsDNS1035Label).
var dns1035 = regexp.MustCompile(`\A[a-z]([-a-z0-9]*[a-z0-9])?\z`)

func FuzzValidTag(f *testing.F) {
	for _, tag := range []string{"demo-rev2", "demo-", "-", "", "Demo", "a\n", strings.Repeat("a", 64)} {
		f.Add(tag)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		if got, want := ValidTag(tag), len(tag) <= 63 && dns1035.MatchString(tag); got != want {
			t.Errorf("ValidTag(%q) = %t, want %t", tag, got, want)
		}
	})
}

// FuzzResponse lets a server name anything, and looks at what it gets back.
func FuzzResponse(f *testing.F) {
	f.Add("demo-rev2", "demo-rev1")
	f.Add("demo-rev2\r\nCookie: x", "")
	f.Add("demo-rev2, demo-rev1", "demo-rev2")
	f.Add(" demo-rev2", strings.Repeat("a", 100))
	f.Fuzz(func(t *testing.T, first, second string) {
		base := &canned{header: http.Header{Header: {first, second}}}
		s := Session{Base: base}
		for range 2 {
			if body := ask(t, &s, request(t, "http://demo.example.com")); body != "" {
				t.Fatalf("body = %q, want none", body)
			}
		}
		want := []string(nil)
		if ValidTag(first) {
			want = []string{first}
		}
		if got := base.last.Values(Header); !slices.Equal(got, want) {
			t.Errorf("after %q and %q the tag sent is %q, want %q", first, second, got, want)
		}
	})
}

// canned answers every request with the same headers and keeps the last request's.
type canned struct{ header, last http.Header }

func (c *canned) RoundTrip(req *http.Request) (*http.Response, error) {
	c.last = maps.Clone(req.Header)
	return &http.Response{StatusCode: http.StatusOK, Header: c.header, Body: http.NoBody, Request: req}, nil
}
