package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"syscall"
	"testing"
)

// cpu returns the processor time that this process has used, in nanoseconds.
func cpu(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// load sends b.N requests from a few connections and reports the processor time of one, which includes the client's and the
// endpoint's: both are the same for what is compared.
func load(b *testing.B, target string) {
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}
	defer transport.CloseIdleConnections()
	b.ReportAllocs()
	b.SetParallelism(4)
	b.ResetTimer()
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequest(http.MethodGet, target+"/cart/items?page=2", nil)
			req.Header.Set("K-Session", "3f2a9c1e-77aa-4d5e-9b1c-0d2c6c0f9b11")
			req.Header.Set("Accept", "application/json")
			req.Header.Set("Cookie", "theme=dark; sid=8c2f")
			resp, err := transport.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

func BenchmarkForwarding(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 1024)
	address := upstreamServer(b, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(payload)
	})
	b.Run("none", func(b *testing.B) { load(b, "http://"+address) })
	bare := func(pool httputil.BufferPool) func(*testing.B) {
		return func(b *testing.B) { loadReverseProxy(b, address, pool) }
	}
	b.Run("ReverseProxy", bare(nil))
	b.Run("ReverseProxyWithBufferPool", bare(bufferPool{}))
	b.Run("Gateway", func(b *testing.B) {
		s := serve(b, &fakePicker{places: []place{at(address)}})
		s.gateway.observer = nil
		load(b, "http://"+s.address)
	})
}

// loadReverseProxy is load on a server whose only handler is the standard library's proxy.
func loadReverseProxy(b *testing.B, address string, pool httputil.BufferPool) {
	target, err := url.Parse("http://" + address)
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	defer transport.CloseIdleConnections()
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.BufferPool = transport, pool
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: proxy}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ln) }()
	load(b, "http://"+ln.Addr().String())
	server.Close()
	<-done
}

// bufferPool lends the gateway's own buffers.
type bufferPool struct{}

func (bufferPool) Get() []byte  { return buffers.Get().(*[32 << 10]byte)[:] }
func (bufferPool) Put(b []byte) { buffers.Put((*[32 << 10]byte)(b)) }
