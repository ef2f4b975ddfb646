package clientip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
)

const (
	limpet     = "./cmd/limpet"
	nodeName   = "node-00001"  // which the API server has
	podNet     = "10.1.0.0/16" // clients that kube-proxy takes for pods
	outsideNet = "10.4.0.0/16" // clients that it does not
	udpPort    = 5353          // of every endpoint
	tcpPort    = 8080
	replicas   = 7 // endpoints that there are
	localOnes  = 2 // of them, that are said to run on the node of the tests
)

func TestMain(m *testing.M) {
	if err := nftablesMissing(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Node, Programs: []string{limpet}}))
}

// nftablesMissing says what this suite needs beyond a cluster, where there may be one.
func nftablesMissing() error {
	if cluster.Missing() != nil {
		return nil // which is told with all that a cluster needs
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return errors.New("kube-proxy's nftables mode needs the command nft; on Debian: apt-get install -y nftables")
	}
	return nil
}

// A world is a node of the cluster that runs only a kube-proxy, in one mode, with clients and endpoints around it.
type world struct {
	t       *testing.T
	e       *cluster.Env
	mode    string // iptables or nftables
	node    netns
	clients netns
	limpet  string
	log     string // of kube-proxy
}

// modes are the modes of kube-proxy, and the number of each in addresses.
var modes = map[string]int{"iptables": 0, "nftables": 1}

// endpoint returns the address of the nth endpoint, from 1. It is the same in all modes, whose namespaces have nothing to do with each other.
func endpoint(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 2, byte(n), 1}) }

// newWorld makes the namespaces, starts the endpoints and then kube-proxy. What it does is undone at the end of the test.
func newWorld(t *testing.T, e *cluster.Env, mode string) *world {
	t.Helper()
	w := &world{t: t, e: e, mode: mode, limpet: e.Program(limpet)}
	w.node = newNetns(t, mode+"-node")
	w.node.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	w.join()
	w.makeClients()
	for i := range replicas {
		w.makeEndpoint(i + 1)
	}
	w.startProxy()
	return w
}

// join gives the node a way to the API server.
func (w *world) join() {
	here, there := fmt.Sprintf("10.3.%d.1", modes[w.mode]), fmt.Sprintf("10.3.%d.2", modes[w.mode])
	w.node.link(netns{}, "up-"+w.mode[:3], there+"/30", here+"/30")
	w.node.run("ip", "route", "add", w.e.Node()+"/32", "via", here)
}

// makeClients makes a namespace that has all addresses of two networks.
func (w *world) makeClients() {
	w.clients = newNetns(w.t, w.mode+"-clients")
	w.node.link(w.clients, "clients", "10.5.0.1/30", "10.5.0.2/30")
	w.clients.run("ip", "route", "add", "default", "via", "10.5.0.1")
	for _, network := range []string{podNet, outsideNet} {
		w.clients.run("ip", "route", "add", "local", network, "dev", "lo")
		w.node.run("ip", "route", "add", network, "via", "10.5.0.2")
	}
}

// makeEndpoint makes a namespace that answers over UDP and TCP with its address.
func (w *world) makeEndpoint(n int) {
	ns := newNetns(w.t, fmt.Sprintf("%s-endpoint-%d", w.mode, n))
	gateway := netip.AddrFrom4([4]byte{10, 2, byte(n), 2}).String()
	w.node.link(ns, fmt.Sprintf("endpoint%d", n), gateway+"/24", endpoint(n).String()+"/24")
	ns.run("ip", "route", "add", "default", "via", gateway)
	if err := ns.do(func() error { return answer(w.t, endpoint(n)) }); err != nil {
		w.t.Fatal(err)
	}
}

// answer listens for UDP and TCP until the test ends.
func answer(t *testing.T, own netip.Addr) error {
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, udpPort)))
	if err != nil {
		return err
	}
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, tcpPort)))
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	done := make(chan struct{}, 2)
	go func() { answerPackets(packets, own.String()); done <- struct{}{} }()
	go func() { answerConnections(listener, own.String()); done <- struct{}{} }()
	t.Cleanup(func() {
		packets.Close()
		listener.Close()
		<-done
		<-done
	})
	return nil
}

func answerPackets(conn *net.UDPConn, text string) {
	for buf := make([]byte, 16); ; {
		_, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		conn.WriteToUDPAddrPort([]byte(text), from) // a client that left is no matter
	}
}

func answerConnections(l *net.TCPListener, text string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Write([]byte(text)) // a client that left is no matter
		conn.Close()
	}
}

// startProxy starts kube-proxy on the node.
func (w *world) startProxy() {
	dir := w.t.TempDir()
	config := filepath.Join(dir, "proxy.yaml")
	w.log = filepath.Join(dir, "kube-proxy.log")
	if err := os.WriteFile(config, []byte(w.proxyConfig()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	log, err := os.Create(w.log)
	if err != nil {
		w.t.Fatal(err)
	}
	argv := w.node.enter("kube-proxy", "--config="+config, "--v=1")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Kill() // fails only if it has ended
		cmd.Wait()         // it was killed
		log.Close()
		if text, err := os.ReadFile(w.log); err == nil && w.t.Failed() {
			w.t.Logf("kube-proxy said:\n%s", text)
		}
	})
}

// proxyConfig is kube-proxy's own default but for names, addresses and the machine's limits. Node ports are on all addresses in both modes.
func (w *world) proxyConfig() string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
bindAddress: 10.3.%d.2
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
hostnameOverride: %s
clusterCIDR: %s
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 0s, syncPeriod: 30s}
nftables: {minSyncPeriod: 0s, syncPeriod: 30s}
nodePortAddresses: ["0.0.0.0/0"]
`, w.mode, modes[w.mode], nodeName, podNet, w.e.Kubeconfig())
}

// command runs limpet on the node and returns what it printed.
func (w *world) command(args ...string) string {
	w.t.Helper()
	return w.node.run(append([]string{w.limpet}, args...)...)
}

// connect opens a connection from a new port of a client and returns the endpoint that answered. It runs on a thread of the clients' namespace.
func connect(protocol string, client netip.Addr, to netip.AddrPort) (netip.Addr, error) {
	from := netip.AddrPortFrom(client, 0)
	var conn net.Conn
	var err error
	if protocol == "udp" {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
	} else {
		conn, err = net.DialTCP("tcp", net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to))
	}
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute)) // of a test that fails
	if protocol == "udp" {
		if _, err := conn.Write([]byte("who")); err != nil {
			return netip.Addr{}, err
		}
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s asks %s: %w", client, to, err)
	}
	return netip.ParseAddr(strings.TrimSpace(string(buf[:n])))
}
