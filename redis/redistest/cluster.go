package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A Cluster is three masters, each with one replica.
type Cluster struct {
	Nodes []*Server // the first three began as masters
	ids   []string
}

// StartCluster starts six servers and joins them to a cluster. Node i+3 is the replica of node i, and is not promoted but by Promote: an
// election may find no majority for minutes where servers have no processor. Options are for all of them.
func StartCluster(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c := &Cluster{}
	for i := range 6 {
		// Nodes that stand still for less than the timeout are not taken for gone.
		n := Start(t, append(opts[:len(opts):len(opts)], Config("cluster-enabled yes"), Config("cluster-node-timeout 30000"),
			Config(fmt.Sprintf("cluster-port %d", freePort(t))), Config("cluster-require-full-coverage no"),
			Config("cluster-replica-no-failover yes"))...)
		c.Nodes = append(c.Nodes, n)
		c.ids = append(c.ids, n.Do("CLUSTER", "MYID"))
		// Of nodes that begin with one epoch, some may keep the same: who takes over from such a one is not believed.
		n.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	const slots = 16384
	for i, n := range c.Nodes[:3] {
		n.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/3), strconv.Itoa((i+1)*slots/3-1))
	}
	c.join(t)
	for i, n := range c.Nodes[3:] {
		n.Do("CLUSTER", "REPLICATE", c.ids[i])
	}
	for _, n := range c.Nodes {
		Eventually(t, "a whole cluster", func() bool {
			state := n.Do("CLUSTER", "INFO")
			return strings.Contains(state, "cluster_state:ok") && strings.Contains(state, fmt.Sprint("cluster_slots_ok:", slots)) &&
				strings.Count(n.Do("CLUSTER", "NODES"), "slave") == 3
		})
	}
	for _, n := range c.Nodes[3:] {
		Eventually(t, "replication", func() bool { return strings.Contains(n.Do("INFO", "replication"), "master_link_status:up") })
	}
	return c
}

// join makes every node know every other. Nodes that meet forget each other if that takes longer than their timeout, and meet again then.
func (c *Cluster) join(t testing.TB) {
	t.Helper()
	first := c.Nodes[0]
	for i, n := range c.Nodes[1:] {
		bus := strings.TrimPrefix(lineWith(n.options.config, "cluster-port "), "cluster-port ")
		Eventually(t, "nodes that meet", func() bool {
			if strings.Contains(first.Do("CLUSTER", "NODES"), c.ids[i+1]) && strings.Contains(n.Do("CLUSTER", "NODES"), c.ids[0]) {
				return true
			}
			first.Do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(n.port), bus)
			return false
		})
	}
	for _, n := range c.Nodes {
		Eventually(t, "nodes that know each other", func() bool {
			nodes := n.Do("CLUSTER", "NODES")
			return strings.Count(nodes, " connected") == len(c.Nodes) && !strings.Contains(nodes, "handshake")
		})
	}
}

func lineWith(lines []string, prefix string) string {
	for _, l := range lines {
		if strings.HasPrefix(l, prefix) {
			return l
		}
	}
	return ""
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string { return addrs(c.Nodes) }

// Holder returns which node serves a key as a master now, as node asked sees it.
func (c *Cluster) Holder(asked *Server, key string) *Server {
	slot, _ := strconv.Atoi(asked.Do("CLUSTER", "KEYSLOT", key))
	for line := range strings.Lines(asked.Do("CLUSTER", "NODES")) {
		fields := strings.Fields(line)
		if !strings.Contains(fields[2], "master") || !holds(fields[8:], slot) {
			continue
		}
		for i, id := range c.ids {
			if id == fields[0] {
				return c.Nodes[i]
			}
		}
	}
	return nil
}

// Promote makes the replica of a node that began as a master, and is gone, the master in its place.
func (c *Cluster) Promote(t testing.TB, gone *Server) {
	t.Helper()
	i := slices.Index(c.Nodes[:3], gone)
	if i < 0 {
		t.Fatalf("%s did not begin as a master", gone.Addr())
	}
	c.Nodes[i+3].Do("CLUSTER", "FAILOVER", "TAKEOVER")
}

// holds reports whether one of the ranges "first-last" includes slot.
func holds(ranges []string, slot int) bool {
	for _, r := range ranges {
		first, last, ok := strings.Cut(r, "-")
		if !ok {
			last = first
		}
		low, err1 := strconv.Atoi(first)
		high, err2 := strconv.Atoi(last)
		if err1 == nil && err2 == nil && low <= slot && slot <= high {
			return true
		}
	}
	return false
}
