package redistest

import (
	"net"
	"sync"
	"testing"
)

// A Proxy stands between a client and a server and fails the way networks do. It begins by passing everything on.
type Proxy struct {
	listener net.Listener
	backend  string
	group    sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	links map[*link]bool
}

// A link is one connection through the proxy. It is spoiled once bytes of it were dropped.
type link struct {
	client, server net.Conn
	spoiled        bool
}

// StartProxy starts a proxy to a server at host:port. It ends with the test.
func StartProxy(t testing.TB, backend string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("starting a proxy: %v", err)
	}
	p := &Proxy{listener: l, backend: backend, links: map[*link]bool{}}
	p.group.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Reset()
		p.group.Wait()
	})
	return p
}

// Addr returns the host:port that clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut drops every byte from now on and keeps connections open, as a network does that lost its route. New connections are
// accepted and never answered.
func (p *Proxy) Cut() { p.mu.Lock(); defer p.mu.Unlock(); p.cut = true }

// Pass ends a Cut. Connections that lost bytes meanwhile are reset.
func (p *Proxy) Pass() {
	p.mu.Lock()
	p.cut = false
	spoiled := p.remove(func(l *link) bool { return l.spoiled })
	p.mu.Unlock()
	reset(spoiled)
}

// Reset breaks all connections with a TCP reset. New ones pass.
func (p *Proxy) Reset() {
	p.mu.Lock()
	all := p.remove(func(*link) bool { return true })
	p.mu.Unlock()
	reset(all)
}

func (p *Proxy) remove(which func(*link) bool) []*link {
	var removed []*link
	for l := range p.links {
		if which(l) {
			removed = append(removed, l)
			delete(p.links, l)
		}
	}
	return removed
}

func reset(links []*link) {
	for _, l := range links {
		for _, c := range []net.Conn{l.client, l.server} {
			_ = c.(*net.TCPConn).SetLinger(0) // closing then sends RST
			_ = c.Close()
		}
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.backend)
		if err != nil {
			_ = client.Close() // the server is away: so is the proxy
			continue
		}
		l := &link{client: client, server: server}
		p.mu.Lock()
		p.links[l] = true
		p.mu.Unlock()
		p.group.Go(func() { p.pump(l, server, client) })
		p.group.Go(func() { p.pump(l, client, server) })
	}
}

// pump copies one direction until either end closes.
func (p *Proxy) pump(l *link, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.drops(l) {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// drops reports whether bytes of l are to be dropped now.
func (p *Proxy) drops(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.spoiled = l.spoiled || p.cut
	return l.spoiled
}
