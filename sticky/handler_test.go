package sticky

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestHandlerNamesTheRevision(t *testing.T) {
	tests := []struct {
		name     string
		revision string // K_REVISION
		naming   Naming
		want     []string
	}{
		{"of the environment", "demo-rev2", Naming{}, []string{"demo-rev2"}},
		{"or the tag that it is told", "demo-rev2", Naming{Tag: "blue"}, []string{"blue"}},
		{"also outside of Knative", "", Naming{Tag: "blue"}, []string{"blue"}},
		{"but nothing without a revision", "", Naming{}, nil},
		{"nor what is no revision", "demo rev2", Naming{}, nil},
		{"nor what is no tag, not even the revision then", "demo-rev2", Naming{Tag: "Blue"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("K_REVISION", tt.revision)
			h := tt.naming.Handler(http.NotFoundHandler())
			t.Setenv("K_REVISION", "demo-later")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			got := w.Result()
			if tags := got.Header.Values(Header); !slices.Equal(tags, tt.want) {
				t.Errorf("%s = %q, want %q", Header, tags, tt.want)
			}
			if vary, want := got.Header.Get("Vary") == Header, tt.want != nil; vary != want {
				t.Errorf("Vary = %q, want the tag's header in it: %t", got.Header.Get("Vary"), want)
			}
			if got.StatusCode != http.StatusNotFound {
				t.Errorf("status = %d, want that of next", got.StatusCode)
			}
		})
	}
}

func TestHandlerNamesKRevisionAndServesTheDefaultMux(t *testing.T) {
	t.Setenv("K_REVISION", "demo-rev2")
	w := httptest.NewRecorder()
	Handler(nil).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := w.Header().Get(Header); got != "demo-rev2" || w.Code != http.StatusNotFound {
		t.Errorf("Handler(nil) names %q with status %d, want demo-rev2 and the default mux", got, w.Code)
	}
}

func TestNextHasTheLastWord(t *testing.T) {
	h := Naming{Tag: "demo-rev2"}.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Del(Header)
		w.Header().Set("Vary", "Accept")
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := w.Header(); got.Get(Header) != "" || got.Get("Vary") != "Accept" {
		t.Errorf("header = %v, want what next made of it", got)
	}
}

func TestHandlerSetsACookieIfAsked(t *testing.T) {
	const name = "knative-serving-tag"
	tests := []struct {
		name   string
		cookie string // Naming.Cookie
		sent   string
		tls    bool
		proto  string // X-Forwarded-Proto
		want   string
	}{
		{"to a new browser", name, "", false, "", "knative-serving-tag=demo-rev2; Path=/; SameSite=Lax"},
		{"to one that was elsewhere", name, name + "=demo-rev1", false, "http", "knative-serving-tag=demo-rev2; Path=/; SameSite=Lax"},
		{"secure over the ingress's TLS", name, "", false, "https", "knative-serving-tag=demo-rev2; Path=/; Secure; SameSite=Lax"},
		{"secure over its own TLS", name, "", true, "", "knative-serving-tag=demo-rev2; Path=/; Secure; SameSite=Lax"},
		{"not to one that has it", name, "sid=1; " + name + "=demo-rev2", false, "", ""},
		{"not if not asked", "", "", false, "", ""},
		{"not under a name that no cookie has", "a b", "", false, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Cookie", tt.sent)
			r.Header.Set("X-Forwarded-Proto", tt.proto)
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			w := httptest.NewRecorder()
			Naming{Tag: "demo-rev2", Cookie: tt.cookie}.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
			if got := w.Header().Get("Set-Cookie"); got != tt.want {
				t.Errorf("Set-Cookie = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestHandlerKeepsWhatAResponseWriterCanDo(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/duplex", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			t.Errorf("full duplex: %v", err)
		}
		if err := c.Flush(); err != nil {
			t.Errorf("flushing: %v", err)
		}
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Errorf("hijacking: %v", err)
			return
		}
		defer conn.Close()
		line, _ := rw.ReadString('\n')
		rw.WriteString(line)
		rw.Flush()
	})
	server := httptest.NewServer(Naming{Tag: "demo-rev2"}.Handler(mux))
	defer server.Close()

	t.Run("the head is there before the body is", func(t *testing.T) {
		body, w := io.Pipe()
		req := request(t, server.URL+"/duplex")
		req.Method, req.Body = http.MethodPost, body
		var s Session
		resp, err := s.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got := resp.Header.Get(Header); got != "demo-rev2" {
			t.Errorf("%s = %q, want demo-rev2", Header, got)
		}
		io.WriteString(w, "hello")
		w.Close()
		if got, err := io.ReadAll(resp.Body); string(got) != "hello" || err != nil {
			t.Errorf("body = %q, %v, want hello", got, err)
		}
	})

	t.Run("an upgraded connection is named and passed through", func(t *testing.T) {
		var s Session
		resp, err := s.RoundTrip(request(t, server.URL+"/hijack", "Connection", "Upgrade", "Upgrade", "echo"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		conn, ok := resp.Body.(io.ReadWriter)
		if got := resp.Header.Get(Header); got != "demo-rev2" || resp.StatusCode != http.StatusSwitchingProtocols || !ok {
			t.Fatalf("response %d names %q with a body of %T, want 101, demo-rev2 and a connection", resp.StatusCode, got, resp.Body)
		}
		io.WriteString(conn, "hello\n")
		if got, err := bufio.NewReader(conn).ReadString('\n'); got != "hello\n" {
			t.Errorf("the connection says %q, %v, want hello", got, err)
		}
	})
}

func TestARelaySpeaksForItself(t *testing.T) {
	behind := newKnative(t, "stock-rev1")
	to, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	relay := httptest.NewServer(Naming{Tag: "shop-rev1"}.Handler(httputil.NewSingleHostReverseProxy(to)))
	defer relay.Close()
	base := &spy{}
	s := Session{Base: base}
	for range 2 {
		ask(t, &s, request(t, relay.URL))
	}
	if got, want := strings.Join(base.tags, " "), "- shop-rev1"; got != want {
		t.Errorf("tags sent to the relay = %s, want %s", got, want)
	}
}

// spy notes the tag of every request; "-" is none.
type spy struct{ tags []string }

func (s *spy) RoundTrip(req *http.Request) (*http.Response, error) {
	tag := "-"
	if got := req.Header.Values(Header); len(got) > 0 {
		tag = strings.Join(got, ", ")
	}
	s.tags = append(s.tags, tag)
	return http.DefaultTransport.RoundTrip(req)
}
