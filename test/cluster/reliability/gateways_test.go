package reliability

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// gateways finds out which replica of the ingress Kubernetes gave each connection of a client to. The client sees the Service's
// address only; the kernel's table of connections knows the pod's.
type gateways struct {
	service string // address

	mu      sync.Mutex
	waiting []*observation
}

var _ way = (*gateways)(nil)

// enter implements way: all requests go to the Service.
func (g *gateways) enter(*observation, http.Header) string { return net.JoinHostPort(g.service, "80") }

// again implements way: the Service is to be there always.
func (g *gateways) again(*observation) bool { return false }

// left names the gateway of an observation, by its port, when the table has been read.
func (g *gateways) left(o *observation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, o)
}

// watch reads the table until ctx ends, often enough that no connection is forgotten before: the kernel keeps closed ones for ten
// seconds or more. It returns when all that was added before has been looked for.
func (g *gateways) watch(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := g.read(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return g.read()
		case <-tick.C:
		}
	}
}

// read reads the table and names the gateways of what was added before it began.
func (g *gateways) read() error {
	g.mu.Lock()
	waiting := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	var stderr bytes.Buffer
	cmd := exec.Command("conntrack", "-L", "-p", "tcp", "--orig-dst", g.service)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("reading the table of connections: %w: %s", err, stderr.Bytes())
	}
	pods := map[int]string{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		if port, pod, ok := connection(lines.Text()); ok {
			pods[port] = pod
		}
	}
	for _, o := range waiting {
		o.Gateway = pods[o.port]
	}
	return lines.Err()
}

// connection returns the client's port and the pod's address of a line of conntrack:
//
//	tcp 6 117 TIME_WAIT src=10.210.0.1 dst=10.210.200.5 sport=42312 dport=80 src=10.210.16.9 dst=10.210.0.1 sport=8080 dport=42312 …
func connection(line string) (port int, pod string, ok bool) {
	sources := 0
	for _, f := range strings.Fields(line) {
		switch name, value, _ := strings.Cut(f, "="); name {
		case "src":
			if sources++; sources == 2 {
				pod = value
			}
		case "sport":
			if sources == 1 {
				port, _ = strconv.Atoi(value)
			}
		}
	}
	return port, pod, port != 0 && pod != ""
}
