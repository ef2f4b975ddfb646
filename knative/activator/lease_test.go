package activator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	netconfig "knative.dev/networking/pkg/config"
	"knative.dev/pkg/network"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// An authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key, a.cert = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) sign(c *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	by, with := c, key
	if a.cert != nil {
		by, with = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
	if err != nil {
		a.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, signed
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// certificate returns one of a server with that name.
func (a *authority) certificate(name string) tls.Certificate {
	key, cert := a.sign(&x509.Certificate{DNSNames: []string{name}})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// roots are what the cluster says of trusted authorities: one in the Secret, others in ConfigMaps.
func roots(t *testing.T, secret []byte, bundles ...*corev1.ConfigMap) func() *x509.CertPool {
	t.Helper()
	by := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	secrets, maps := cache.NewIndexer(cache.MetaNamespaceKeyFunc, by), cache.NewIndexer(cache.MetaNamespaceKeyFunc, by)
	if err := secrets.Add(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "knative-serving", Name: netconfig.ServingRoutingCertName},
		Data:       map[string][]byte{"ca.crt": secret},
	}); err != nil {
		t.Fatal(err)
	}
	for _, m := range bundles {
		if err := maps.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	return Roots(corelisters.NewSecretLister(secrets).Secrets("knative-serving"), corelisters.NewConfigMapLister(maps).ConfigMaps("knative-serving"))
}

func bundle(text []byte, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "knative-serving", Name: "authorities", Labels: labels}, Data: map[string]string{"ca.crt": string(text)},
	}
}

// newTestPeers returns peers of that name, whom nobody tells of others.
func newTestPeers(t testing.TB, name string, roots func() *x509.CertPool) *Peers {
	t.Helper()
	return newTestPeersWith(t, name, roots, patient)
}

func newTestPeersWith(t testing.TB, name string, roots func() *x509.CertPool, b bounds) *Peers {
	t.Helper()
	d, err := affinity.NewDigester([]byte(strings.Repeat("a", 32)))
	if err != nil {
		t.Fatal(err)
	}
	o := PeersOptions{Namespace: "knative-serving", Service: "activator-service", PodName: name, Digester: d, Roots: roots}
	p := newPeers(o, b)
	t.Cleanup(func() { p.tasks.end(); p.transport.CloseIdleConnections() })
	return p
}

// listen serves what activators ask of p, with TLS if there is a certificate, and returns where.
func (p *Peers) listen(t testing.TB, certificate *tls.Certificate) peer {
	t.Helper()
	return p.listenWith(t, certificate, p.Handler(http.NotFoundHandler()))
}

func (p *Peers) listenWith(t testing.TB, certificate *tls.Certificate, h http.Handler) peer {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := network.NewServer("", h)
	s.ErrorLog = log.New(io.Discard, "", 0)
	open := &conns{Listener: socket}
	if certificate == nil {
		go s.Serve(open)
	} else {
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*certificate}}
		go s.ServeTLS(open, "", "")
	}
	t.Cleanup(func() { s.Close(); open.sever() })
	scheme := "http://"
	if p.o.Roots != nil {
		scheme = "https://"
	}
	return peer{name: p.o.PodName, url: scheme + socket.Addr().String()}
}

func TestActivatorsKnowEachOtherByServingsCertificates(t *testing.T) {
	ours, foreign := newAuthority(t), newAuthority(t)
	trusted := map[string]string{"networking.knative.dev/trust-bundle": "true"}
	for _, tt := range []struct {
		name    string
		roots   func() *x509.CertPool
		by      *authority
		of      string
		reached bool
	}{
		{"its authority is in the Secret", roots(t, ours.pem()), ours, "kn-routing", true},
		{"its authority is in a bundle", roots(t, nil, bundle(ours.pem(), trusted)), ours, "kn-routing", true},
		{"a ConfigMap without the label is none", roots(t, nil, bundle(ours.pem(), nil)), ours, "kn-routing", false},
		{"another authority signed it", roots(t, ours.pem()), foreign, "kn-routing", false},
		{"it is a tenant's certificate", roots(t, ours.pem()), ours, "kn-user-shop", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			one, two := newTestPeers(t, "activator-1", tt.roots), newTestPeers(t, "activator-2", tt.roots)
			certificate := tt.by.certificate(tt.of)
			at := two.listen(t, &certificate)
			two.known.Store(&[]peer{{name: "activator-1"}, at})
			a := one.ledger.open("pod-a")
			s, _, err := one.lease(t.Context(), a, at, claim{Ask: askPlace, From: "activator-1", Pod: "pod-a", Limit: 1})
			if (err == nil) != tt.reached || err != nil && !errors.Is(err, errAway) {
				t.Fatalf("a place there = %v, want reached %t", err, tt.reached)
			}
			if n, _ := two.ledger.state("pod-a"); tt.reached && n != 1 {
				t.Errorf("the other one counts %d, want 1", n)
			}
			s.leave()
		})
	}
}

// An address may be another activator's by now, with the same secret.
func TestAnActivatorAnswersOnlyWhatItIsAsked(t *testing.T) {
	one, two := newTestPeers(t, "activator-1", nil), newTestPeers(t, "activator-2", nil)
	at := two.listen(t, nil)
	two.known.Store(&[]peer{{name: "activator-1"}, at})
	ended := peer{name: "activator-9", url: at.url}
	a := one.ledger.open("pod-a")
	c := claim{Ask: askPlace, From: "activator-1", Pod: "pod-a", Limit: 1}
	if _, _, err := one.lease(t.Context(), a, ended, c); !errors.Is(err, errAway) {
		t.Errorf("a place of an activator that has ended = %v, want %v", err, errAway)
	}
	s, _, err := one.lease(t.Context(), a, at, c)
	if err != nil {
		t.Fatalf("a place of the one that is there = %v", err)
	}
	s.leave()
}

// One that has not heard yet that an activator has ended names it as the one who counts.
func TestAPlaceIsAskedForUntilActivatorsAgreeWhoCounts(t *testing.T) {
	one, two := newTestPeers(t, "activator-1", nil), newTestPeers(t, "activator-2", nil)
	var behind atomic.Int64
	right := two.Handler(http.NotFoundHandler())
	at := two.listenWith(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if behind.Add(-1) >= 0 {
			say(w, http.StatusConflict, placeElsewhere+"activator-2")
			return
		}
		right.ServeHTTP(w, r)
	}))
	list := []peer{{name: "activator-1"}, at}
	for _, p := range []*Peers{one, two} {
		p.list.Store(&list)
		p.known.Store(&list)
	}
	pod := "pod-0"
	for i := 0; one.owned(pod) != "activator-2"; i++ {
		pod = fmt.Sprintf("pod-%d", i)
	}
	behind.Store(3 * maxAsked)
	if _, err := one.seat(t.Context(), pod, 1, 0); err != endpoint.ErrBusy {
		t.Errorf("a place at once = %v, want %v", err, endpoint.ErrBusy)
	}
	s, err := one.seat(t.Context(), pod, 1, time.Minute)
	if err != nil || s == nil {
		t.Fatalf("a place = %v, %v, want one", s, err)
	}
	if n, _ := two.ledger.state(pod); n != 1 {
		t.Errorf("the other one counts %d, want 1", n)
	}
	s.leave()
}

func TestAPlaceAtAnotherActivatorIsGivenBack(t *testing.T) {
	one, two := remote(t)
	first, err := one.seat(t.Context(), "pod-a", 1, 0)
	if err != nil {
		t.Fatalf("seat() = %v, want a place", err)
	}
	if _, err := one.seat(t.Context(), "pod-a", 1, 20*time.Millisecond); !errors.Is(err, endpoint.ErrBusy) {
		t.Errorf("seat() of a full pod = %v, want %v", err, endpoint.ErrBusy)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := one.seat(ctx, "pod-a", 1, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("seat() of a full pod = %v, want %v", err, context.DeadlineExceeded)
	}
	got := make(chan error, 1)
	go func() {
		s, err := two.seat(t.Context(), "pod-a", 1, time.Minute)
		s.leave()
		got <- err
	}()
	first.leave()
	if err := <-got; err != nil {
		t.Errorf("seat() once the first has left = %v, want a place", err)
	}
}

// remote returns peers whose requests the other one counts.
func remote(t testing.TB) (one, two *Peers) {
	t.Helper()
	one, two = newTestPeers(t, "activator-1", nil), newTestPeers(t, "activator-2", nil)
	list := []peer{one.listen(t, nil), two.listen(t, nil)}
	only := list[1:] // counts for all pods
	for _, p := range []*Peers{one, two} {
		p.known.Store(&list)
		p.list.Store(&only)
	}
	return one, two
}

// One connection has 250 streams at once.
func TestManyPlacesCanBeHadAtOnce(t *testing.T) {
	one, two := remote(t)
	const many = 600
	seats := make([]*seat, many)
	var asked sync.WaitGroup
	for i := range seats {
		asked.Go(func() {
			var err error
			if seats[i], err = one.seat(t.Context(), "pod-a", many, time.Minute); err != nil || seats[i] == nil {
				t.Errorf("seat() = %v, %v, want a place", seats[i], err)
			}
		})
	}
	asked.Wait()
	for _, p := range []*Peers{one, two} {
		if n, _ := p.ledger.state("pod-a"); n != many {
			t.Errorf("%s counts %d, want %d", p.o.PodName, n, many)
		}
	}
	for _, s := range seats {
		s.leave()
	}
	if s, err := one.seat(t.Context(), "pod-a", 1, time.Minute); err != nil || s == nil {
		t.Errorf("seat() when all have left = %v, %v, want a place", s, err)
	} else {
		s.leave()
	}
}

// BenchmarkPlaceAtAnotherActivator is what a request costs more whose pod another activator counts for.
func BenchmarkPlaceAtAnotherActivator(b *testing.B) {
	one, _ := remote(b)
	for b.Loop() {
		s, err := one.seat(b.Context(), "pod-a", 10, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		s.leave()
	}
}

// An activator that accepts connections and says nothing is as one that is away.
func TestAnActivatorThatStandsStillHoldsUpNobody(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	soon := 20 * time.Millisecond // nobody who is alive is asked
	one := newTestPeersWith(t, "activator-1", nil, bounds{answer: soon, dial: time.Minute, ping: soon})
	still := peer{name: "activator-2", url: "http://" + socket.Addr().String()}
	both, only := []peer{one.listen(t, nil), still}, []peer{still}
	one.known.Store(&both)
	one.list.Store(&only)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := one.seat(ctx, "pod-a", 1, time.Hour)
	if err != nil || s == nil {
		t.Fatalf("seat() = %v, %v, want a place that this activator counts", s, err)
	}
	s.leave()
}
