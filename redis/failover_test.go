package redis_test

import (
	"os"
	"testing"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/binding/bindingtest"
	"github.com/limpet-project/limpet/redis"
	"github.com/limpet-project/limpet/redis/redistest"
)

// long skips a test that starts many servers and waits for them to agree.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("LIMPET_LONG") == "" {
		t.Skip("part of the longer suite: LIMPET_LONG=1, or make test-long")
	}
}

func sentinelOptions(set *redistest.SentinelSet) func(*redis.Options) {
	return func(o *redis.Options) {
		o.Mode, o.Addresses, o.MasterName = redis.ModeSentinel, set.Addrs(), redistest.MasterName
	}
}

func clusterOptions(c *redistest.Cluster) func(*redis.Options) {
	return func(o *redis.Options) { o.Mode, o.Addresses = redis.ModeCluster, c.Addrs() }
}

func TestSentinelsPassTheConformanceSuite(t *testing.T) {
	long(t)
	set := redistest.StartSentinel(t)
	conforms(t, set.Master, sentinelOptions(set))
}

func TestClustersPassTheConformanceSuite(t *testing.T) {
	long(t)
	cluster := redistest.StartCluster(t)
	conforms(t, cluster.Nodes[0], clusterOptions(cluster))
}

func conforms(t *testing.T, server *redistest.Server, edit func(*redis.Options)) {
	bindingtest.RunWith(t, bindingtest.Options{
		New:  func(t *testing.T) binding.Store { return open(t, server, edit) },
		Pair: func(t *testing.T) (a, b binding.Store) { return open(t, server, edit), open(t, server, edit) },
	})
}

// held is what a gateway last knew, as binding.Degraded keeps it.
type held map[affinity.Key]binding.Binding

func bindMany(t *testing.T, s *redis.Store, n int) held {
	t.Helper()
	known := held{}
	for i := range n {
		known[session(i)] = bind(t, s, session(i), pod1)
	}
	return known
}

// restore offers again what was known and checks that everything is in force as it was.
func (h held) restore(t *testing.T, s *redis.Store) {
	t.Helper()
	var entries []binding.Entry
	for k, b := range h {
		entries = append(entries, binding.Entry{Key: k, Binding: b, Life: hour})
	}
	var got []binding.Binding
	eventually(t, "restoring", func() bool {
		var err error
		got, err = s.Restore(t.Context(), entries)
		return err == nil
	})
	for i, e := range entries {
		if got[i] != e.Binding {
			t.Errorf("binding in force of %v after the failover = %+v, want %+v", e.Key, got[i], e.Binding)
		}
		wants(t, s, e.Key, e.Binding)
	}
}

func TestSessionsSurviveAFailoverBySentinels(t *testing.T) {
	long(t)
	set := redistest.StartSentinel(t)
	s, other := open(t, set.Master, sentinelOptions(set)), open(t, set.Master, sentinelOptions(set))
	w := watched(t, s)
	known := bindMany(t, s, 100)
	before := w.lost()
	set.Master.Freeze()
	t.Cleanup(set.Master.Thaw)
	eventually(t, "promotion of the replica", func() bool { return set.Current() == set.Replica })
	set.Replica.Do("FLUSHALL") // the worst case: the new master knows nothing
	eventually(t, "connection to the new master", func() bool { return s.Ping(t.Context()) == nil && other.Ping(t.Context()) == nil })
	eventually(t, "Lost over the failover", func() bool { return w.lost() > before }) // the connection that watches is another one
	eventually(t, "Live at the new master", w.isLive)
	known.restore(t, s)
	// Reports come from the new master.
	b, err := other.Swap(t.Context(), session(1), known[session(1)].Version, pod2, hour)
	if err != nil {
		t.Fatalf("Swap after the failover = %v, want no error", err)
	}
	eventually(t, "report from the new master", func() bool { return w.told(session(1)) > 0 })
	wants(t, s, session(1), b)
}

func TestSessionsSurviveAFailoverInACluster(t *testing.T) {
	long(t)
	cluster := redistest.StartCluster(t)
	s := open(t, cluster.Nodes[0], clusterOptions(cluster))
	w := watched(t, s)
	known := bindMany(t, s, 100)
	before := w.lost()
	asked, key := cluster.Nodes[1], "limpet-a-key"
	var killed *redistest.Server
	eventually(t, "a key of another node", func() bool {
		key += "x"
		killed = cluster.Holder(asked, key)
		return killed != nil && killed != asked
	})
	killed.Kill()
	eventually(t, "Lost", func() bool { return w.lost() > before })
	cluster.Promote(t, killed)
	eventually(t, "promotion of its replica", func() bool {
		holder := cluster.Holder(asked, key)
		return holder != nil && holder != killed
	})
	eventually(t, "writes to every part", func() bool { return s.Ping(t.Context()) == nil })
	eventually(t, "Live with the new master", w.isLive)
	known.restore(t, s)
}
