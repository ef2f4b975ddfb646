package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// selfSigned writes a certificate for name and its key, and returns the files and the PEM of the certificate.
func selfSigned(t testing.TB, dir, name string) (CertificateFiles, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	files := CertificateFiles{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")}
	write(t, files.Certificate, cert)
	write(t, files.Key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	return files, cert
}

func write(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shown returns the name on the certificate that the listener shows to a client that asks for name.
func shown(t testing.TB, address, name string) string {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].DNSNames[0]
}

func serial(t testing.TB, address string) string {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestTLSListenersSpeakBothProtocolsAndChooseTheCertificateByName(t *testing.T) {
	dir := t.TempDir()
	shop, _ := selfSigned(t, dir, "shop.example.com")
	blog, blogPEM := selfSigned(t, dir, "blog.example.com")
	certs, err := LoadCertificates([]CertificateFiles{shop, blog})
	if err != nil {
		t.Fatal(err)
	}
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-Proto")) })
	s := serve(t, &fakePicker{places: []place{at(address)}}, func(l *Listener, _ *Config) { l.Certificates = certs })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(blogPEM)
	for _, h2 := range []bool{true, false} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "blog.example.com"}, Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP2(h2)
		transport.Protocols.SetHTTP1(!h2)
		resp, err := (&http.Client{Transport: transport}).Get("https://" + s.address + "/")
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, resp); got != "https" || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("h2 %v: got %q over %s, want https", h2, got, resp.Proto)
		}
		resp.Body.Close()
		transport.CloseIdleConnections()
	}
	if got := shown(t, s.address, "shop.example.com"); got != "shop.example.com" {
		t.Errorf("certificate for shop.example.com = %s", got)
	}
	if got := shown(t, s.address, "elsewhere.example.com"); got != "shop.example.com" {
		t.Errorf("certificate for an unknown name = %s, want the first", got)
	}
}

func TestCertificatesFollowTheirFilesAndABadFileKeepsTheOldOnes(t *testing.T) {
	dir := t.TempDir()
	files, _ := selfSigned(t, dir, "shop.example.com")
	certs, err := LoadCertificates([]CertificateFiles{files})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	c := &Certificates{files: certs.files, seen: certs.seen}
	c.now.Store(certs.now.Load())
	s := serve(t, &fakePicker{}, func(l *Listener, _ *Config) {
		l.Certificates = c
	})
	first := serial(t, s.address)

	write(t, files.Certificate, []byte("half a file"))
	certs.now.Store(c.now.Load())
	certs.poll(log)
	certs.poll(log)
	if n := strings.Count(out.String(), "level=WARN"); n != 1 || !strings.Contains(out.String(), files.Certificate) {
		t.Errorf("log after a bad file = %q, want one warning that names it", out.String())
	}
	if certs.now.Load() != c.now.Load() {
		t.Error("a bad file replaced the certificate")
	}
	// The listener's own Run notices the new pair within its period.
	selfSigned(t, dir, "shop.example.com")
	eventually(t, "the listener shows the new certificate", func() bool { return serial(t, s.address) != first })
}

func TestCertificatesThatCannotBeLoadedAreRefused(t *testing.T) {
	dir := t.TempDir()
	shop, _ := selfSigned(t, dir, "shop.example.com")
	blog, _ := selfSigned(t, dir, "blog.example.com")
	for name, files := range map[string][]CertificateFiles{
		"none": nil, "missing": {{filepath.Join(dir, "no.pem"), shop.Key}}, "not a pair": {{shop.Certificate, blog.Key}},
	} {
		if _, err := LoadCertificates(files); err == nil {
			t.Errorf("%s: LoadCertificates() = nil, want an error", name)
		}
	}
}

func TestTLSEndpointsAreSpokenToByALPNAndVerified(t *testing.T) {
	for _, h2 := range []bool{true, false} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				webSocketEcho(w, r)
				return
			}
			io.WriteString(w, r.Proto+" "+r.TLS.ServerName)
		}))
		server.EnableHTTP2 = h2
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		server.StartTLS()
		t.Cleanup(server.Close)
		roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		address := server.Listener.Addr().String()
		up := Upstream{Protocol: ProtocolTLS, RootCAs: roots, ServerName: "example.com"}
		s := serve(t, sealing(address), withRoute(func(r *Route) { r.Upstream = up }))
		want := map[bool]string{true: "HTTP/2.0 example.com", false: "HTTP/1.1 example.com"}[h2]
		for range 2 {
			if got := text(t, s.get(t, "/")); got != want {
				t.Errorf("h2 %v: endpoint saw %q, want %q", h2, got, want)
			}
		}
		say(t, dialWebSocket(t, s), "over TLS")
		up.ServerName = "elsewhere.test"
		strict := serve(t, sealing(address), withRoute(func(r *Route) { r.Upstream = up }))
		wantOwn(t, strict.get(t, "/"), http.StatusServiceUnavailable, "no-connection")
	}
}

func TestHTTP2WithoutTLSIsServed(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
	s := serve(t, &fakePicker{places: []place{at(address)}})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Post("http://"+s.address+"/", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := text(t, resp); resp.ProtoMajor != 2 || got != "HTTP/1.1" {
		t.Errorf("client spoke %s, endpoint %s; want HTTP/2.0, HTTP/1.1", resp.Proto, got)
	}
}

func TestShutdownLetsRequestsAndWebSocketsEnd(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			webSocketEcho(w, r)
			return
		}
		close(inside)
		<-release
		io.WriteString(w, "whole")
	})
	s := serve(t, sealing(address))
	c := dialWebSocket(t, s)
	answers := make(chan *http.Response, 1)
	go func() {
		resp, err := s.client.Get("http://" + s.address + "/slow")
		if err != nil {
			t.Error(err)
		}
		answers <- resp
	}()
	<-inside
	down := make(chan error, 1)
	go func() { down <- s.listener.Shutdown(context.Background()) }()
	eventually(t, "no connection is accepted any longer", func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	say(t, c, "still there")
	close(release)
	resp := <-answers
	if got := text(t, resp); got != "whole" || !resp.Close {
		t.Errorf("answer = %q, Connection: close %v; want whole, true", got, resp.Close)
	}
	resp.Body.Close()
	select {
	case err := <-down:
		t.Fatalf("Shutdown() = %v while a WebSocket is open", err)
	default:
	}
	c.Close(websocket.StatusNormalClosure, "")
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

func TestShutdownClosesAtItsDeadlineWhatHasNotEnded(t *testing.T) {
	inside := make(chan struct{})
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			webSocketEcho(w, r)
			return
		}
		close(inside)
		<-r.Context().Done()
	})
	s := serve(t, sealing(address))
	c := dialWebSocket(t, s)
	broken := make(chan error, 1)
	go func() {
		_, err := s.client.Get("http://" + s.address + "/endless")
		broken <- err
	}()
	<-inside
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.listener.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown() = %v, want its deadline", err)
	}
	if n := len(s.picker.outcomes()); n != 2 {
		t.Errorf("after Shutdown %d picks are done, want both", n)
	}
	if err := <-broken; err == nil {
		t.Error("the endless request got an answer, want its connection closed")
	}
	if _, _, err := c.Read(context.Background()); err == nil {
		t.Error("the WebSocket goes on, want it closed")
	}
}

func TestHTTP2ClientsAreToldToGoAway(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	address := upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) {
		close(inside)
		<-release
		io.WriteString(w, "whole")
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	cc, err := transport.NewClientConn(context.Background(), "http", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	answer := make(chan string, 1)
	go func() {
		req, _ := http.NewRequest(http.MethodGet, "http://"+s.address+"/", nil)
		resp, err := cc.RoundTrip(req)
		if err != nil {
			t.Error(err)
			close(answer)
			return
		}
		defer resp.Body.Close()
		answer <- text(t, resp)
	}()
	<-inside
	down := make(chan error, 1)
	go func() { down <- s.listener.Shutdown(context.Background()) }()
	eventually(t, "the connection takes no further request", func() bool { return cc.Available() == 0 })
	close(release)
	if got := <-answer; got != "whole" {
		t.Errorf("answer = %q, want whole", got)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}
