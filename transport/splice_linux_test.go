package transport

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
)

func TestNoDescriptorIsLeft(t *testing.T) {
	before := descriptors(t)
	w := newWorld(t, nil)
	s := w.serve("postgres-00001-a", func(_ *server, c *net.TCPConn) {
		_, _ = io.Copy(struct{ io.Writer }{c}, c) // io.Copy of two connections would keep pipes of its own
	})
	g := w.listen()
	var working sync.WaitGroup
	for i := range 20 {
		working.Go(func() {
			c, err := g.reach(t, fmt.Sprintf("127.0.0.%d", 2+i))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			var sending sync.WaitGroup
			sending.Go(func() { _, _ = c.Write(make([]byte, 4<<20)) }) // half of them are broken off
			_, _ = io.CopyN(io.Discard, c, int64(i%2)*4<<20)
			if i%2 == 0 {
				reset(c.TCPConn)
			}
			sending.Wait()
		})
	}
	working.Wait()
	g.stop()
	s.stop()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, want %d as before", after, before)
	}
}

// descriptors returns how many file descriptors this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	n := 0
	for _, f := range open {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && (strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "pipe:")) {
			n++
		}
	}
	return n
}

func TestPipesAreGivenBackByConnectionsThatRest(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("postgres-00001-a", echo)
	g := w.listen()
	c := g.dial(t, "127.0.0.2")
	c.line()
	const size = 8 << 20
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = c.Write(make([]byte, size)) })
	if _, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Fatal(err)
	}
	sending.Wait()
	eventually(t, "no pump holds a pipe", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for c := range g.conns {
			if c.in.holds.Load() || c.out.holds.Load() {
				return false
			}
		}
		return true
	})
	c.say("still here")
	if got := c.line(); got != "still here" {
		t.Errorf("the client heard %q after its rest, want its words", got)
	}
}
