package node_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/socket"
)

// keepAlive sends requests over one connection until its end is seen before one, or an answer says that it ends. It returns an error
// for a request that was not answered.
func keepAlive(address string, pause time.Duration, served *atomic.Int64) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for sock := socket.Of(c); !sock.HungUp(); {
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: demo.example.com\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d, body: %w", resp.StatusCode, err)
		}
		resp.Body.Close()
		if served.Add(1); resp.Close {
			return nil
		}
		<-time.After(pause)
	}
	return nil
}

func TestNoRequestOnAKeptAliveConnectionIsLostWhenANodeIsStopped(t *testing.T) {
	g := nodetest.Start(t, strings.Replace(twoSides, "admin:", "shutdown: {delay: 3s}\nadmin:", 1),
		node.Options{Source: cluster{upstreams: nodetest.StartUpstreams(t)}})
	if err := g.Gateway().Swap(routes("demo.example.com")); err != nil {
		t.Fatal(err)
	}
	const clients = 50
	var served, told atomic.Int64
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() {
			if err := keepAlive(g.Address("web"), time.Duration(10+i%20)*time.Millisecond, &served); err != nil {
				t.Errorf("client %d lost a request: %v", i, err)
			}
			told.Add(1)
		})
	}
	nodetest.Eventually(t, "all clients are at work", func() bool { return served.Load() >= 3*clients })
	if n := told.Load(); n != 0 {
		t.Errorf("%d clients were asked to leave before the node was stopped", n)
	}
	g.Stop()
	running.Wait()
}
