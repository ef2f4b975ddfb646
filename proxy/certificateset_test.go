package proxy

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// certificatesOf returns a set with one certificate of a for each list of hosts.
func certificatesOf(t testing.TB, a *authority, hosts ...[]string) []HostCertificate {
	t.Helper()
	certs := make([]HostCertificate, len(hosts))
	for i, names := range hosts {
		certs[i] = HostCertificate{Hosts: names, Certificate: a.issue(t, append([]string{fmt.Sprintf("certificate-%d", i)}, names...))}
	}
	return certs
}

// ask returns the first name on the certificate that the listener shows, or why there is none.
func ask(address string, config *tls.Config) string {
	config.InsecureSkipVerify = true
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].DNSNames[0]
}

func TestACertificateSetShowsTheCertificateOfTheNameThatIsAskedFor(t *testing.T) {
	root := newAuthority(t, nil)
	const none = "remote error: tls: unrecognized name"
	demo := []string{"demo.default.example.com", "Shop.Default.example.com."}
	for _, c := range []struct {
		name  string
		certs [][]string // their hosts
		want  map[string]string
	}{
		{"by exact name, wildcard, default", [][]string{demo, {"*.default.example.com"}, nil, nil}, map[string]string{
			"demo.default.example.com": "certificate-0", "DEMO.default.Example.com": "certificate-0",
			"shop.default.example.com": "certificate-0", "blog.default.example.com": "certificate-1",
			"a.blog.default.example.com": "certificate-2", "default.example.com": "certificate-2", "other.test": "certificate-2",
			"localhost": "certificate-2", "": "certificate-2",
		}},
		{"the first is the default if there is none", [][]string{demo, {"blog.default.example.com"}}, map[string]string{
			"blog.default.example.com": "certificate-1", "other.test": "certificate-0", "": "certificate-0",
		}},
		{"the first of one host", [][]string{nil, demo, demo}, map[string]string{"demo.default.example.com": "certificate-1"}},
		{"none", nil, map[string]string{"demo.default.example.com": none, "": none}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var set CertificateSet
			if err := set.Swap(certificatesOf(t, root, c.certs...)); err != nil {
				t.Fatal(err)
			}
			s := serve(t, &fakePicker{}, func(l *Listener, _ *Config) { l.Certificates = &set })
			for name, want := range c.want {
				if got := ask(s.address, &tls.Config{ServerName: name}); got != want {
					t.Errorf("asked for %q it shows %s, want %s", name, got, want)
				}
			}
		})
	}
}

func TestAStrictCertificateSetShowsNoCertificateOfAnotherHost(t *testing.T) {
	root := newAuthority(t, nil)
	const none = "remote error: tls: unrecognized name"
	set := CertificateSet{Strict: true}
	certs := certificatesOf(t, root, []string{"demo.default.example.com"}, []string{"*.shop.example.com"}, nil)
	if err := set.Swap(certs); err != nil {
		t.Fatal(err)
	}
	s := serve(t, &fakePicker{}, func(l *Listener, _ *Config) { l.Certificates = &set })
	for name, want := range map[string]string{
		"demo.default.example.com": "certificate-0", "blog.shop.example.com": "certificate-1",
		"blog.default.example.com": none, "shop.example.com": none, "localhost": none, "": none,
	} {
		if got := ask(s.address, &tls.Config{ServerName: name}); got != want {
			t.Errorf("asked for %q it shows %s, want %s", name, got, want)
		}
	}
}

func TestACertificateThatAClientDoesNotSupportIsPassedOver(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root := newAuthority(t, nil)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"rsa"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, root.cert, &key.PublicKey, root.key)
	if err != nil {
		t.Fatal(err)
	}
	host := []string{"demo.default.example.com"}
	var set CertificateSet
	if err := set.Swap([]HostCertificate{
		{host, root.issue(t, []string{"ecdsa"})},
		{host, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}},
	}); err != nil {
		t.Fatal(err)
	}
	s := serve(t, &fakePicker{}, func(l *Listener, _ *Config) { l.Certificates = &set })
	for want, suite := range map[string]uint16{
		"ecdsa": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "rsa": tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	} {
		config := &tls.Config{ServerName: host[0], MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}}
		if got := ask(s.address, config); got != want {
			t.Errorf("a client of %s is shown %s, want %s", tls.CipherSuiteName(suite), got, want)
		}
	}
}

func TestACertificateSetIsReplacedWithoutEndingConnections(t *testing.T) {
	root := newAuthority(t, nil)
	host := "demo.default.example.com"
	var set CertificateSet
	swap := func(name string) {
		t.Helper()
		if err := set.Swap([]HostCertificate{{[]string{host}, root.issue(t, []string{name, host})}}); err != nil {
			t.Fatal(err)
		}
	}
	swap("first")
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "demo") })
	s := serve(t, &fakePicker{places: []place{at(address)}}, func(l *Listener, _ *Config) { l.Certificates = &set })
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	request := func(want string) {
		t.Helper()
		resp, err := (&http.Client{Transport: transport}).Get("https://" + s.address + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got := resp.TLS.PeerCertificates[0].DNSNames[0]; resp.ProtoMajor != 2 || text(t, resp) != "demo" || got != want {
			t.Errorf("answer over %s with certificate %s, want HTTP/2.0 with %s", resp.Proto, got, want)
		}
	}
	request("first")
	swap("second")
	request("first") // over the connection that there is
	if got := ask(s.address, &tls.Config{ServerName: host}); got != "second" {
		t.Errorf("a new connection is shown %s, want second", got)
	}
	for name, bad := range map[string][]HostCertificate{
		"no chain":    {{[]string{host}, tls.Certificate{}}},
		"no key":      {{[]string{host}, tls.Certificate{Certificate: [][]byte{root.cert.Raw}}}},
		"no DER":      {{[]string{host}, tls.Certificate{Certificate: [][]byte{[]byte("x")}, PrivateKey: root.key}}},
		"no host":     {{[]string{""}, root.issue(t, []string{"third"})}},
		"any host":    {{[]string{"*"}, root.issue(t, []string{"third"})}},
		"with a port": {{[]string{host + ":443"}, root.issue(t, []string{"third"})}},
		"one of two":  {{[]string{host}, root.issue(t, []string{"third"})}, {[]string{host}, tls.Certificate{}}},
	} {
		if err := set.Swap(bad); err == nil || ask(s.address, &tls.Config{ServerName: host}) != "second" {
			t.Errorf("%s: Swap() = %v, want an error and the old set", name, err)
		}
	}
}

func TestACertificateSetIsSwappedUnderHandshakes(t *testing.T) {
	root := newAuthority(t, nil)
	const host = "demo.default.example.com"
	sets := [][]HostCertificate{certificatesOf(t, root, []string{host}), certificatesOf(t, root, nil, []string{host})}
	var set CertificateSet
	if err := set.Swap(sets[0]); err != nil {
		t.Fatal(err)
	}
	s := serve(t, &fakePicker{}, func(l *Listener, _ *Config) { l.Certificates = &set })
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range 10 {
				if got := ask(s.address, &tls.Config{ServerName: host}); !strings.HasPrefix(got, "certificate-") {
					t.Errorf("asked for %s it shows %s", host, got)
				}
			}
		})
	}
	for i := range 100 {
		if err := set.Swap(sets[i%2]); err != nil {
			t.Error(err)
		}
	}
	clients.Wait()
}

func TestANilCertificateSourceIsTLSWithoutCertificates(t *testing.T) {
	for name, source := range map[string]CertificateSource{"files": (*Certificates)(nil), "set": (*CertificateSet)(nil)} {
		s := serve(t, &fakePicker{}, func(l *Listener, _ *Config) { l.Certificates = source })
		if got := ask(s.address, &tls.Config{ServerName: "demo.default.example.com"}); got != "remote error: tls: unrecognized name" {
			t.Errorf("%s: handshake = %s, want it refused", name, got)
		}
		if status, _ := exchangeRaw(t, s.address, "GET / HTTP/1.1\r\n"+host+"\r\n"); status != http.StatusBadRequest {
			t.Errorf("%s: without TLS the status is %d, want 400", name, status)
		}
	}
}

// runningSource is a source that says when it runs.
type runningSource struct {
	CertificateSet
	running, ended chan struct{}
}

func (s *runningSource) Run(ctx context.Context, _ *slog.Logger) {
	close(s.running)
	<-ctx.Done()
	close(s.ended)
}

func TestASourceThatRunsDoesSoWhileItsListenerServes(t *testing.T) {
	source := &runningSource{running: make(chan struct{}), ended: make(chan struct{})}
	s := serve(t, &fakePicker{}, func(l *Listener, _ *Config) { l.Certificates = source })
	<-source.running
	if err := s.listener.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.served <- <-s.served // for the cleanup
	<-source.ended
}
