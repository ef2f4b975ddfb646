package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A Listener serves a Gateway, or any handler, on a network listener: HTTP/1.1 and HTTP/2 without TLS, or, with Certificates, TLS
// with either by ALPN. Its Limits bound what a client may hold. It serves once.
type Listener struct {
	Handler http.Handler
	Limits  Limits
	// Certificates make it a TLS listener; nil is no TLS. A nil pointer in it, of a type of this package, is TLS without a
	// certificate: every handshake fails.
	Certificates CertificateSource
	MinVersion   uint16 // the oldest version of TLS accepted; 0 is TLS 1.2

	setup    sync.Once
	server   *http.Server
	conns    connSet
	limits   Limits
	leaving  atomic.Bool   // Drain was called
	handlers atomic.Int64  // requests being handled
	awaited  atomic.Bool   // somebody waits for handlers
	quiet    chan struct{} // handlers became 0 while they are awaited

	mu        sync.Mutex
	accepting *acceptance // nil before Serve
	closed    bool        // nothing is accepted any longer

	restFor time.Duration // 0 is restTime; a test that is slow has to have longer
}

// Serve accepts connections on ln, which it closes, until Shutdown is called or ctx ends, and returns nil then. The end of ctx
// breaks off what is under way; Shutdown does not. When Serve returns after either, all its goroutines have ended. What no
// request can report, such as a failed TLS handshake, goes to log.
func (l *Listener) Serve(ctx context.Context, ln net.Listener, log *slog.Logger) error {
	l.prepare(log)
	var aside sync.WaitGroup
	defer aside.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if source, ok := l.Certificates.(interface {
		Run(context.Context, *slog.Logger)
	}); ok {
		aside.Go(func() { source.Run(ctx, log) })
	}
	served := make(chan struct{})
	aside.Go(func() {
		select {
		case <-ctx.Done():
			l.breakOff()
		case <-served:
		}
	})
	err := l.accept(newLimitedListener(ln, &l.conns, l.limits, &l.leaving))
	if err == nil {
		<-l.conns.drained()
		l.waitHandlers(context.Background())
	} else {
		l.breakOff()
	}
	close(served)
	if err != nil {
		return fmt.Errorf("serving %s: %w", ln.Addr(), err)
	}
	return nil
}

// prepare makes the server. It is called by whichever of Serve and Shutdown comes first.
func (l *Listener) prepare(log *slog.Logger) {
	l.setup.Do(func() {
		l.limits = l.Limits.withDefaults()
		l.quiet = make(chan struct{}, 1)
		l.server = &http.Server{
			Handler:                      http.HandlerFunc(l.handle),
			DisableGeneralOptionsHandler: true, // it is a request like others
			ReadHeaderTimeout:            l.limits.ReadHeaderTimeout,
			IdleTimeout:                  l.limits.IdleTimeout,
			// The gateway refuses larger heads itself, and says so. This is where net/http cuts them off unread.
			MaxHeaderBytes: 2 * l.limits.MaxHeaderBytes,
			Protocols:      new(http.Protocols),
			HTTP2: &http.HTTP2Config{
				MaxConcurrentStreams: l.limits.MaxStreams,
				WriteByteTimeout:     l.limits.WriteStall,
			},
			ConnContext: l.connContext,
			ConnState:   noteState,
		}
		if log != nil {
			l.server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
		}
		l.server.Protocols.SetHTTP1(true)
		if l.Certificates == nil {
			l.server.Protocols.SetUnencryptedHTTP2(true)
			return
		}
		l.server.Protocols.SetHTTP2(true)
		l.server.TLSConfig = &tls.Config{MinVersion: max(l.MinVersion, tls.VersionTLS12), GetCertificate: l.Certificates.Certificate}
	})
}

// Shutdown begins to drain, lets in what waits in the kernel's backlog, for a second at most, stops accepting, ends kept-alive connections
// (Connection: close, GOAWAY) and lets requests and upgraded connections go on until they end or ctx does. Then what is left is closed. A
// kept-alive connection of HTTP/1 that rests has a second for another request. Shutdown returns when no request is handled any longer,
// with ctx's error if something had to be broken off.
func (l *Listener) Shutdown(ctx context.Context) error {
	l.prepare(nil)
	l.Drain()
	l.acceptWaiting(ctx)
	l.stopAccepting()
	l.settle(ctx)
	err := l.server.Shutdown(ctx)
	if err == nil {
		select {
		case <-l.conns.drained():
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		l.breakOff()
		return fmt.Errorf("draining: %w", err)
	}
	l.waitHandlers(context.Background())
	return nil
}

// breakOff closes everything and waits for what was handled.
func (l *Listener) breakOff() {
	// Errors of closing connections that are given up are of no use.
	_ = l.server.Close()
	l.conns.closeAll()
	l.waitHandlers(context.Background())
}

// handle counts the requests being handled.
func (l *Listener) handle(w http.ResponseWriter, r *http.Request) {
	l.handlers.Add(1)
	if c := connOf(r); c != nil && r.ProtoMajor == 1 {
		c.begin()
		defer c.busy.Store(false)
	}
	farewell(w.Header(), r)
	defer func() {
		if l.handlers.Add(-1) == 0 && l.awaited.Load() {
			select {
			case l.quiet <- struct{}{}:
			default:
			}
		}
	}()
	l.Handler.ServeHTTP(w, r)
}

// waitHandlers waits until no request is handled.
func (l *Listener) waitHandlers(ctx context.Context) {
	l.awaited.Store(true)
	for l.handlers.Load() > 0 {
		select {
		case <-l.quiet:
		case <-ctx.Done():
			return
		}
	}
	select { // wakes the next one that waits
	case l.quiet <- struct{}{}:
	default:
	}
}

func (l *Listener) connContext(ctx context.Context, c net.Conn) context.Context {
	if cc := clientOf(c); cc != nil {
		return context.WithValue(ctx, clientConnKey{}, cc)
	}
	return ctx
}

type clientConnKey struct{}

// connOf returns the connection of a request that came by a Listener, nil for another server's.
func connOf(r *http.Request) *clientConn {
	c, _ := r.Context().Value(clientConnKey{}).(*clientConn)
	return c
}
