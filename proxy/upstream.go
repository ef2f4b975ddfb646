package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/limpet-project/limpet/socket"
)

// Defaults of Upstream and what is not configurable.
const (
	defaultConnectTimeout = time.Second
	defaultIdleTimeout    = 5 * time.Minute
	defaultMaxIdleConns   = 256
	// idleConnLife ends an upstream connection that no request used. It is below the 120 s and more that servers keep theirs, so
	// that seldom a request meets a connection that its server is just closing.
	idleConnLife = 90 * time.Second
	// maxResponseHeaderBytes bounds what an endpoint may send before the body.
	maxResponseHeaderBytes = 1 << 20
	// continueWait is how long a body is held back for an endpoint that does not answer "Expect: 100-continue" (RFC 9110, 10.1.1).
	continueWait = time.Second
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// An engine holds what all upstreams share. The two transports never dial and never pool: they speak HTTP over a connection
// that an upstream has made.
type engine struct {
	h1, h2 *http.Transport
	dial   dialFunc
	// dialElsewhere refuses local addresses.
	dialElsewhere dialFunc
	// dials are the connections that are made for no single request. A pool that is closed begins none.
	dials sync.WaitGroup
}

func newEngine() *engine {
	transport := func() *http.Transport {
		return &http.Transport{
			Protocols:              new(http.Protocols),
			DialContext:            handOver,
			DisableCompression:     true,
			ExpectContinueTimeout:  continueWait,
			MaxResponseHeaderBytes: maxResponseHeaderBytes,
		}
	}
	elsewhere := net.Dialer{ControlContext: refuseLocal}
	e := &engine{h1: transport(), h2: transport(), dial: new(net.Dialer).DialContext, dialElsewhere: elsewhere.DialContext}
	e.h1.Protocols.SetHTTP1(true)
	e.h2.Protocols.SetUnencryptedHTTP2(true)
	return e
}

// refuseLocal lets no connection be made to an address that means the gateway's own machine or link. It sees the address that a name
// has led to, so that no name gets around it.
func refuseLocal(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%s: expected an address with a port", address)
	}
	if a := to.Addr().Unmap(); a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() {
		return errors.New("local addresses are not connected to")
	}
	return nil
}

// handOver gives a transport the connection that its context carries.
func handOver(ctx context.Context, _, _ string) (net.Conn, error) {
	c, ok := ctx.Value(handOverKey{}).(*countedConn)
	if !ok {
		return nil, errors.New("no connection handed over")
	}
	return c, nil
}

type handOverKey struct{}

// upstreamKey is everything by which upstreams differ, with defaults filled in. Equal settings share connections.
type upstreamKey struct {
	protocol   Protocol
	serverName string
	names      string // the ServerNames, quoted
	rootCAs    string
	connect    time.Duration
	response   time.Duration
	request    time.Duration
	idle       time.Duration // 0 is none
	maxIdle    int
	noLocal    bool
}

func keyOf(u Upstream) upstreamKey {
	k := upstreamKey{
		protocol:   u.Protocol,
		serverName: u.ServerName,
		names:      fmt.Sprintf("%q", u.ServerNames),
		rootCAs:    string(u.RootCAs),
		connect:    u.ConnectTimeout,
		response:   u.ResponseTimeout,
		request:    u.RequestTimeout,
		idle:       max(u.IdleTimeout, 0),
		maxIdle:    u.MaxIdleConns,
		noLocal:    u.NoLocal,
	}
	if k.protocol == "" {
		k.protocol = ProtocolHTTP1
	}
	if k.connect <= 0 {
		k.connect = defaultConnectTimeout
	}
	if u.IdleTimeout == 0 {
		k.idle = defaultIdleTimeout
	}
	if k.maxIdle <= 0 {
		k.maxIdle = defaultMaxIdleConns
	}
	return k
}

// An upstream holds the connections to all endpoints that are spoken to in one way.
type upstream struct {
	upstreamKey
	engine *engine
	tls    *tls.Config // nil without TLS; its name is the pool's if it has none

	mu      sync.RWMutex
	pools   map[poolKey]*pool
	retired bool
}

// poolKey names an endpoint as connections see it: the same address may need several names in TLS.
type poolKey struct{ address, serverName string }

func newUpstream(key upstreamKey, settings Upstream, e *engine) (*upstream, error) {
	u := &upstream{upstreamKey: key, engine: e, pools: map[poolKey]*pool{}}
	switch key.protocol {
	case ProtocolHTTP1, ProtocolH2C:
		return u, nil
	case ProtocolTLS:
	default:
		return nil, fmt.Errorf("upstream protocol %q: expected %s, %s or %s", key.protocol, ProtocolHTTP1, ProtocolH2C, ProtocolTLS)
	}
	var err error
	u.tls, err = clientTLS(settings)
	return u, err
}

// pool returns the pool of an endpoint; host is the Host that is sent there.
func (u *upstream) pool(address, host string) *pool {
	key := poolKey{address: address}
	if u.tls != nil {
		if key.serverName = u.tls.ServerName; key.serverName == "" {
			key.serverName = canonicalHost(host)
		}
	}
	u.mu.RLock()
	p := u.pools[key]
	u.mu.RUnlock()
	if p != nil {
		return p
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if p = u.pools[key]; p == nil {
		p = &pool{upstream: u, key: key, closed: u.retired}
		u.pools[key] = p
	}
	return p
}

// drop forgets p if it holds no connection any longer.
func (u *upstream) drop(p *pool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pools[p.key] == p && p.closeIfEmpty() {
		delete(u.pools, p.key)
	}
}

// retire closes idle connections now and the others when their requests end. Requests that still hold u are served, each over
// a connection of its own. Connections that are being made go to the requests that wait for them.
func (u *upstream) retire() {
	u.mu.Lock()
	u.retired = true
	pools := u.pools
	u.pools = map[poolKey]*pool{}
	u.mu.Unlock()
	for _, p := range pools {
		p.close()
	}
}

// A connectError means that no connection to an endpoint could be established: no byte of a request left.
type connectError struct{ err error }

func (e *connectError) Error() string { return "connecting: " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// dial makes a connection. A failure is a *connectError unless ctx ended first.
func (u *upstream) dial(ctx context.Context, key poolKey, http1Only bool) (*conn, error) {
	limited, cancel := context.WithTimeout(ctx, u.connect)
	defer cancel()
	c, err := u.establish(limited, key, http1Only)
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, &connectError{err}
}

func (u *upstream) establish(ctx context.Context, key poolKey, http1Only bool) (*conn, error) {
	dial := u.engine.dial
	if u.noLocal {
		dial = u.engine.dialElsewhere
	}
	nc, err := dial(ctx, "tcp", key.address)
	if err != nil {
		return nil, err
	}
	sock := socket.Of(nc)
	h2 := u.protocol == ProtocolH2C && !http1Only
	if u.tls != nil {
		if nc, h2, err = u.handshake(ctx, nc, key.serverName, http1Only); err != nil {
			return nil, err
		}
	}
	transport := u.engine.h1
	if h2 {
		transport = u.engine.h2
	}
	counted := &countedConn{Conn: nc}
	cc, err := transport.NewClientConn(context.WithValue(ctx, handOverKey{}, counted), "http", key.address)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &conn{http: cc, net: counted, sock: sock, h2: h2}, nil
}

// handshake returns the TLS connection over nc and whether it speaks HTTP/2. It owns nc.
func (u *upstream) handshake(ctx context.Context, nc net.Conn, name string, http1Only bool) (net.Conn, bool, error) {
	config := u.tls.Clone()
	config.ServerName = name
	config.NextProtos = []string{"h2", "http/1.1"}
	if http1Only {
		config.NextProtos = config.NextProtos[1:]
	}
	tc := tls.Client(nc, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, false, err
	}
	return tc, tc.ConnectionState().NegotiatedProtocol == "h2", nil
}

// scheme is what requests over this upstream name.
func (u *upstream) scheme() string {
	if u.tls != nil {
		return "https"
	}
	return "http"
}
