package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	over *authority // nil is a root
}

// newAuthority returns an authority that over has signed, or a root.
func newAuthority(t testing.TB, over *authority) *authority {
	t.Helper()
	a := &authority{over: over}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = over.sign(t, template)
	return a
}

// sign returns a certificate of its own key; a nil authority signs with that.
func (a *authority) sign(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// issue returns a certificate of a server with these names, or what edit makes of it, with its chain.
func (a *authority) issue(t testing.TB, names []string, edit ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, e := range edit {
		e(template)
	}
	cert, key := a.sign(t, template)
	chain := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	for ; a.over != nil; a = a.over {
		chain.Certificate = append(chain.Certificate, a.cert.Raw)
	}
	return chain
}

// pem returns the authority as a configuration names it.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// tlsServer starts an endpoint that shows cert and speaks HTTP/2 if the client wants it, and returns its address.
func tlsServer(t testing.TB, cert tls.Certificate, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestAnEndpointMayShowACertificateOfAnyOfTheNames(t *testing.T) {
	root, other := newAuthority(t, nil), newAuthority(t, nil)
	between := newAuthority(t, root)
	for _, c := range []struct {
		name       string
		cert       tls.Certificate
		serverName string
		names      []string
		asked      string // the name that the endpoint is asked for, "" if it is refused
	}{
		{"the first", root.issue(t, []string{"kn-user-default"}), "", []string{"kn-user-default", "kn-routing"}, "kn-user-default"},
		{"the second", root.issue(t, []string{"kn-routing"}), "", []string{"kn-user-default", "kn-routing"}, "kn-user-default"},
		{"the server name beside them", root.issue(t, []string{"data-plane.knative.dev"}), "data-plane.knative.dev", []string{"kn-routing"}, "data-plane.knative.dev"},
		{"one that is not asked for", root.issue(t, []string{"kn-routing"}), "data-plane.knative.dev", []string{"kn-routing"}, "data-plane.knative.dev"},
		{"one of a certificate's several", root.issue(t, []string{"legacy", "kn-routing"}), "", []string{"kn-routing"}, "kn-routing"},
		{"a chain", between.issue(t, []string{"kn-routing"}), "", []string{"kn-routing"}, "kn-routing"},
		{"none", root.issue(t, []string{"kn-user-other"}), "", []string{"kn-user-default", "kn-routing"}, ""},
		{"the Host, which is none of them", root.issue(t, []string{"demo.default.example.com"}), "", []string{"kn-routing"}, ""},
		{"another authority's", other.issue(t, []string{"kn-routing"}), "", []string{"kn-routing"}, ""},
		{"a client's", root.issue(t, []string{"kn-routing"}, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), "", []string{"kn-routing"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := tlsServer(t, c.cert, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto+" "+r.TLS.ServerName) })
			s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) {
				r.Upstream = Upstream{Protocol: ProtocolTLS, RootCAs: root.pem(), ServerName: c.serverName, ServerNames: c.names}
			}))
			resp := s.get(t, "/", func(r *http.Request) { r.Host = "demo.default.example.com" })
			if c.asked == "" {
				wantOwn(t, resp, http.StatusServiceUnavailable, "no-connection")
			} else if got, want := text(t, resp), "HTTP/2.0 "+c.asked; got != want {
				t.Errorf("endpoint saw %q, want %q", got, want)
			}
		})
	}
}

func TestResumedSessionsAreVerifiedAgainstTheNamesToo(t *testing.T) {
	root := newAuthority(t, nil)
	var resumed atomic.Int64
	address := tlsServer(t, root.issue(t, []string{"kn-routing"}), func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			resumed.Add(1)
		}
		w.Header().Set("Connection", "close")
	})
	config, err := clientTLS(Upstream{RootCAs: root.pem(), ServerNames: []string{"kn-user-default", "kn-routing"}})
	if err != nil {
		t.Fatal(err)
	}
	verify, verified := config.VerifyConnection, 0
	config.VerifyConnection = func(s tls.ConnectionState) error { verified++; return verify(s) }
	for range 2 {
		transport := &http.Transport{TLSClientConfig: config}
		resp, err := (&http.Client{Transport: transport}).Get("https://" + address + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		transport.CloseIdleConnections()
	}
	if verified != 2 || resumed.Load() != 1 {
		t.Errorf("%d connections were verified, %d of them resumed; want 2, 1", verified, resumed.Load())
	}
}

func TestUpstreamsWithDifferentNamesShareNoConnections(t *testing.T) {
	for _, c := range []struct {
		a, b Upstream
		same bool
	}{
		{Upstream{ServerNames: []string{"kn-routing", "kn-user-default"}}, Upstream{ServerNames: []string{"kn-routing", "kn-user-default"}}, true},
		{Upstream{ServerNames: []string{"kn-routing", "kn-user-default"}}, Upstream{ServerNames: []string{"kn-user-default", "kn-routing"}}, false},
		{Upstream{ServerNames: []string{"kn-routing", "kn-user-default"}}, Upstream{ServerNames: []string{"kn-routing\" \"kn-user-default"}}, false},
		{Upstream{ServerNames: []string{"kn-routing"}}, Upstream{ServerName: "kn-routing"}, false},
		{Upstream{ServerNames: nil}, Upstream{ServerNames: []string{}}, true},
	} {
		if got := keyOf(c.a) == keyOf(c.b); got != c.same {
			t.Errorf("keyOf(%+v) == keyOf(%+v) is %v, want %v", c.a, c.b, got, c.same)
		}
	}
}
