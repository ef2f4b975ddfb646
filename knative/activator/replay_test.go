package activator

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/limpet-project/limpet/endpoint"
)

func TestABodyIsReadAgainAsLongAsLittleOfItWasRead(t *testing.T) {
	for _, tt := range []struct {
		name       string
		size, read int
		again      bool
	}{
		{"nothing was read", 10, 0, true},
		{"a small one was read whole", 10, 10, true},
		{"a part was read", maxReplay, 100, true},
		{"too much was read", maxReplay + 1, maxReplay + 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Repeat("a", tt.size-1) + "b"
			b := &replay{from: iotest.OneByteReader(strings.NewReader(text))}
			first := b.open()
			if _, err := io.CopyN(io.Discard, first, int64(tt.read)); err != nil {
				t.Fatal(err)
			}
			if got := b.rewind(); got != tt.again {
				t.Fatalf("rewind() = %t, want %t", got, tt.again)
			}
			if !tt.again {
				return
			}
			second := b.open()
			if got, err := io.ReadAll(second); string(got) != text || err != nil {
				t.Errorf("read again = %d bytes, %v, want %d", len(got), err, len(text))
			}
			if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errReplaced) {
				t.Errorf("the first attempt then reads: %v, want %v", err, errReplaced)
			}
		})
	}
}

// A brittle connection breaks when a second request is about to be written to it, before a byte of it is.
type brittle struct {
	net.Conn
	used atomic.Bool
}

func (c *brittle) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.used.Store(c.used.Load() || n > 0)
	return n, err
}

func (c *brittle) Write(p []byte) (int, error) {
	if c.used.Load() {
		return 0, errors.Join(syscall.EPIPE, c.Close())
	}
	return c.Conn.Write(p)
}

// fixed is a place at an address, with no other one.
type fixed string

func (f fixed) address() string               { return string(f) }
func (f fixed) another(context.Context) error { return endpoint.ErrGone }
func (f fixed) editsRequest() bool            { return false }
func (f fixed) editRequest(http.Header)       {}
func (f fixed) editResponse(http.Header)      {}

func TestARequestIsSentOnceMoreIfItsConnectionBrokeBeforeAByteOfItWasWritten(t *testing.T) {
	var served, dialled atomic.Int64
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		io.Copy(w, r.Body)
	}))
	defer pod.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled.Add(1)
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return &brittle{Conn: c}, err
	}}
	defer transport.CloseIdleConnections()
	for i := range 5 {
		body := io.NopCloser(strings.NewReader("amount=1")) // as a server has it: net/http cannot rewind it
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, pod.URL+"/incr", body)
		if err != nil {
			t.Fatal(err)
		}
		one := &trip{place: fixed(pod.Listener.Addr().String())}
		resp, err := (&roundTripper{next: transport}).RoundTrip(r.WithContext(one.in(r.Context())))
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != "amount=1" || err != nil {
			t.Errorf("request %d = %q, %v, want its body", i, got, err)
		}
		resp.Body.Close()
	}
	if s, d := served.Load(), dialled.Load(); s != 5 || d != 5 {
		t.Errorf("the pod served %d requests over %d connections, want 5 over 5", s, d)
	}
}
