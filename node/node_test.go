package node_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/token"
)

// A cluster is a source of one service that a configuration knows nothing of.
type cluster struct {
	upstreams nodetest.Upstreams
	err       error // that ends it
}

var shop = affinity.ServiceName{Namespace: "shop", Name: "demo"}

func (c cluster) Run(ctx context.Context, t *endpoint.Table) error {
	if c.err != nil {
		return c.err
	}
	service := endpoint.Service{Name: shop}
	for _, revision := range nodetest.Revisions {
		var members []endpoint.Member
		for _, letter := range nodetest.Letters {
			name := revision + "-" + letter
			members = append(members, endpoint.Member{Name: name, Address: c.upstreams[name].Listener.Addr().String()})
		}
		t.SetMembers(endpoint.RevisionName{Namespace: shop.Namespace, Name: revision}, members)
		service.Revisions = append(service.Revisions, endpoint.Revision{Name: revision, Weight: 50})
	}
	t.SetServices([]endpoint.Service{service})
	t.SetSynced()
	<-ctx.Done()
	return nil
}

// twoSides is the configuration of a gateway whose services come from elsewhere.
const twoSides = `
listeners: [{name: web, address: "127.0.0.1:0"}, {name: local, address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
accessLog: {file: "off"}
`

// routes lead one host to the cluster's service.
func routes(host string) proxy.Config {
	policy := (&affinity.Policy{Session: &affinity.SessionAffinity{}}).WithDefaults()
	upstream := proxy.Upstream{ConnectTimeout: 30 * time.Second}
	return proxy.Config{Routes: []proxy.Route{{Hosts: []string{host}, Path: "/", Service: shop, Policy: policy, Upstream: upstream}}}
}

// get asks a listener for a host and returns the status and who answered.
func get(t *testing.T, client *http.Client, url, host string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	req.Header.Set("K-Session", "session-4711")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Replica"))
}

func TestServicesRoutesAndHandlersMayComeFromTheMaker(t *testing.T) {
	var local *proxy.Gateway
	g := nodetest.New(t, twoSides, node.Options{
		Source: cluster{upstreams: nodetest.StartUpstreams(t)},
		Handler: func(l *config.Listener) http.Handler {
			if l.Name != "local" {
				return nil
			}
			return local
		},
	})
	local = g.NewGateway()
	for gateway, host := range map[*proxy.Gateway]string{g.Gateway(): "demo.example.com", local: "demo.shop.svc"} {
		if err := gateway.Swap(routes(host)); err != nil {
			t.Fatal(err)
		}
	}
	g.Serve()
	g.AwaitReady()
	client := &http.Client{}
	defer client.CloseIdleConnections()
	external := get(t, client, g.URL(), "demo.example.com")
	if !strings.HasPrefix(external, "200 demo-0000") {
		t.Fatalf("the external listener = %s, want 200 and a replica", external)
	}
	if got := get(t, client, "http://"+g.Address("local"), "demo.shop.svc"); got != external {
		t.Errorf("the session through the local listener = %s, want %s as through the external one", got, external)
	}
	if got := get(t, client, g.URL(), "demo.shop.svc"); got != "404 " {
		t.Errorf("a local host at the external listener = %s, want 404", got)
	}
	for _, host := range []string{"demo.example.com", "demo.shop.svc"} {
		question := fmt.Sprintf(`{"url": "http://%s/incr", "header": {"K-Session": ["session-4711"]}}`, host)
		resp, err := client.Post(g.Admin()+"/explain", "application/json", strings.NewReader(question))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(answer), external[len("200 "):]) {
			t.Errorf("explain for %s = %s, %v\n%s\nwant it to name %s", host, resp.Status, err, answer, external)
		}
	}
}

func TestReasonOfTheMakerKeepsAGatewayUnready(t *testing.T) {
	var known atomic.Bool
	g := nodetest.New(t, twoSides, node.Options{
		Source: cluster{upstreams: nodetest.StartUpstreams(t)},
		Ready: func() error {
			if !known.Load() {
				return errors.New("the ingresses are not known yet")
			}
			return nil
		},
	})
	g.Serve()
	nodetest.Eventually(t, "readiness says so", func() bool {
		return nodetest.Fetch(g.Admin()+"/readyz") == "503 the ingresses are not known yet"
	})
	known.Store(true)
	g.AwaitReady()
}

func TestSourceThatCannotGoOnEndsTheNode(t *testing.T) {
	o := node.Options{Source: cluster{err: errors.New("the API server is gone")}, Log: slog.New(slog.DiscardHandler)}
	n, err := node.New(t.Context(), parse(t, twoSides), o)
	if err != nil {
		t.Fatalf("New() = %v", err)
	}
	const want = "publishing services and endpoints: the API server is gone"
	if err := n.Run(t.Context(), nil); err == nil || err.Error() != want {
		t.Errorf("Run() = %v, want %s", err, want)
	}
}

func parse(t *testing.T, configuration string) *config.Config {
	t.Helper()
	c, err := config.Parse("limpet.yaml", []byte(configuration))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConfigurationThatDoesNotFitTheOptionsIsAnErrorOfUsage(t *testing.T) {
	const bare = "admin: {address: \"off\"}\nlisteners:\n- {name: external-tls, address: \"127.0.0.1:0\", tls: {}}\n"
	digest := filepath.Join(t.TempDir(), "digest.key")
	if err := node.WriteDigestSecret(digest); err != nil {
		t.Fatal(err)
	}
	elsewhere := node.Options{Source: cluster{}}
	tests := []struct {
		name, configuration string
		options             node.Options
		want                string
	}{
		{
			"TLS without certificates", bare,
			node.Options{},
			"limpet.yaml:3: listeners[0].tls.certificates: missing, expected a list, each of it a mapping",
		},
		{
			"TLS for which the maker has no certificates", bare,
			node.Options{Certificates: func(*config.Listener) proxy.CertificateSource { return nil }},
			"listener external-tls: no certificates: tls names no files, and nobody else supplies any for this listener",
		},
		{
			"connections to services from elsewhere",
			"listeners: [{name: db, address: \"127.0.0.1:0\", tcp: {service: db}}]\nservices: [{name: db, revisions: [{name: db-00001}]}]", elsewhere,
			"limpet.yaml: listeners[0].tcp: expected listeners for HTTP only: services come from elsewhere",
		},
		{
			"services from two sides", "services: [{name: demo, revisions: [{name: demo-00001}]}]", elsewhere,
			"limpet.yaml: got services or routes, expected none: they come from elsewhere",
		},
		{
			"a shared store without token keys",
			fmt.Sprintf("secrets: {digestFile: %q}\nstore: {redis: {addresses: [\"redis.example.com:6379\"]}}", digest), elsewhere,
			"limpet.yaml: secrets.tokenKeysFile: missing, expected the name of a file: any service may use session mode token, and" +
				" gateways that share a store need the same keys; make them once with `limpet keys tokens` and give them to all of them",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Log = slog.New(slog.DiscardHandler)
			_, err := node.New(t.Context(), parse(t, tt.configuration), tt.options)
			if !errors.As(err, new(node.UsageError)) || err.Error() != tt.want {
				t.Errorf("New() = %v, want the UsageError %s", err, tt.want)
			}
		})
	}
}

// A named source shows one certificate and remembers the names that were asked for.
type named struct {
	certificate tls.Certificate
	asked       chan string
}

func (n named) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	n.asked <- hello.ServerName
	return &n.certificate, nil
}

func TestCertificatesMayComeFromTheMaker(t *testing.T) {
	other := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer other.Close()
	source := named{other.TLS.Certificates[0], make(chan string, 1)}
	g := nodetest.Start(t, strings.Replace(twoSides, "name: web, ", "name: web, tls: {}, ", 1), node.Options{
		Source: cluster{upstreams: nodetest.StartUpstreams(t)},
		Certificates: func(l *config.Listener) proxy.CertificateSource {
			if l.Name != "web" {
				t.Errorf("Certificates is asked for listener %s, want web alone", l.Name)
			}
			return source
		},
	})
	if err := g.Gateway().Swap(routes("example.com")); err != nil {
		t.Fatal(err)
	}
	transport := other.Client().Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, g.Address("web"))
	}
	defer transport.CloseIdleConnections()
	if got := get(t, other.Client(), "https://example.com/", "example.com"); !strings.HasPrefix(got, "200 demo-0000") {
		t.Errorf("a request by TLS = %s, want 200 and a replica", got)
	}
	if name := <-source.asked; name != "example.com" {
		t.Errorf("the source was asked for %q, want example.com", name)
	}
}

func TestTokenKeysAreReadAgainWhereServicesComeFromElsewhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.keys")
	if err := node.WriteTokenKeys(file); err != nil {
		t.Fatal(err)
	}
	g := nodetest.Start(t, fmt.Sprintf("secrets: {tokenKeysFile: %q}\n", file)+twoSides,
		node.Options{Source: cluster{upstreams: nodetest.StartUpstreams(t)}})
	ring, err := token.Load(file)
	if err == nil {
		ring, err = ring.Rotate(2, time.Now(), time.Minute)
	}
	if err == nil {
		err = os.WriteFile(file, ring.Format(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, "the node has both keys", func() bool { return g.Tokens().Ring().Len() == 2 })
}

func TestNoGoroutineIsLeftOfAGateway(t *testing.T) {
	before := goleak.IgnoreCurrent()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "done") }))
	g := nodetest.Start(t, fmt.Sprintf(`
listeners: [{name: web, address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
accessLog: {file: "off"}
services: [{name: demo, affinity: {}, revisions: [{name: demo-00001, endpoints: [{name: demo-00001-a, address: %q}]}]}]
routes: [{service: demo}]
`, server.Listener.Addr()), node.Options{})
	client := &http.Client{}
	for range 20 {
		if status, _, err := g.Ask(client, "session-4711"); err != nil || status != http.StatusOK {
			t.Fatalf("Ask() = %d, %v, want 200", status, err)
		}
	}
	g.Stop()
	client.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	server.Close()
	goleak.VerifyNone(t, before)
}

func TestNodeThatNeverServedLeavesNothingEither(t *testing.T) {
	before := goleak.IgnoreCurrent()
	var taken []error
	for range 3 { // another process may be given the port at that moment, but not each time
		g := nodetest.New(t, twoSides, node.Options{})
		address := g.Address("web")
		g.Stop()
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
			break
		}
		taken = append(taken, err)
	}
	if len(taken) == 3 {
		t.Fatalf("listening where the node did = %v", errors.Join(taken...))
	}
	goleak.VerifyNone(t, before)
}

func TestCertificateFilesThatCannotBeReadAreNoSource(t *testing.T) {
	configuration := "admin: {address: \"off\"}\nlisteners:\n- {name: web, address: \"127.0.0.1:0\", " +
		"tls: {certificates: [{certFile: /nowhere/tls.crt, keyFile: /nowhere/tls.key}]}}\n"
	_, err := node.New(t.Context(), parse(t, configuration), node.Options{Log: slog.New(slog.DiscardHandler)})
	if !errors.As(err, new(node.UsageError)) || !strings.Contains(err.Error(), "/nowhere/tls.crt") {
		t.Errorf("New() = %v, want a UsageError that names the file", err)
	}
}
