package redistest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A SentinelSet is one master, one replica and three sentinels that watch them.
type SentinelSet struct {
	Master, Replica *Server // as they began; a failover swaps their roles
	Sentinels       []*Server
}

// MasterName is the name by which the sentinels know the master.
const MasterName = "limpet"

// StartSentinel starts a master, a replica and three sentinels, and waits until all know each other. Options are for the servers.
// A master that does not answer for five seconds is failed over: sooner, a busy machine would do so by itself.
func StartSentinel(t testing.TB, opts ...Option) *SentinelSet {
	t.Helper()
	set := &SentinelSet{Master: Start(t, opts...)}
	set.Replica = Start(t, append(opts[:len(opts):len(opts)], Config(fmt.Sprintf("replicaof 127.0.0.1 %d", set.Master.port)))...)
	Eventually(t, "replication", func() bool {
		return strings.Contains(set.Replica.Do("INFO", "replication"), "master_link_status:up")
	})
	for range 3 {
		set.Sentinels = append(set.Sentinels, startSentinel(t, set.Master))
	}
	for _, s := range set.Sentinels {
		Eventually(t, "sentinels that know each other", func() bool {
			known := s.Do("SENTINEL", "MASTER", MasterName)
			return strings.Contains(known, "num-other-sentinels\n2") && strings.Contains(known, "num-slaves\n1")
		})
	}
	return set
}

// Addrs returns the addresses of the sentinels.
func (s *SentinelSet) Addrs() []string { return addrs(s.Sentinels) }

// Current returns the server that the sentinels call the master.
func (s *SentinelSet) Current() *Server {
	address := s.Sentinels[0].Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
	if strings.HasSuffix(address, fmt.Sprint(s.Master.port)) {
		return s.Master
	}
	return s.Replica
}

func startSentinel(t testing.TB, master *Server) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), port: freePort(t)}
	t.Cleanup(func() { s.process.kill() })
	conf := []string{
		"bind 127.0.0.1", "protected-mode no", "daemonize no", "dir " + s.dir,
		"logfile " + s.dir + "/redis.log", fmt.Sprintf("port %d", s.port),
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", MasterName, master.port),
		"sentinel down-after-milliseconds " + MasterName + " 5000",
		"sentinel failover-timeout " + MasterName + " 5000",
	}
	if p := master.options.password; p != "" {
		conf = append(conf, "sentinel auth-pass "+MasterName+" "+p)
	}
	file := s.dir + "/sentinel.conf"
	if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		t.Fatalf("writing sentinel.conf: %v", err)
	}
	var err error
	if s.process, err = startProcess(s.program("redis-server"), file, "--sentinel"); err == nil {
		err = s.await()
	}
	if err != nil {
		t.Fatalf("starting a sentinel: %v", err)
	}
	return s
}

func addrs(servers []*Server) []string {
	all := make([]string, len(servers))
	for i, s := range servers {
		all[i] = s.Addr()
	}
	return all
}
