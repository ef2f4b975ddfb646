package clientip

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"

	"github.com/limpet-project/limpet/test/cluster"
)

// The load of the measurement with CoreDNS: in each run so many clients that were never seen ask so often, each time from a new socket.
const (
	dnsServers = 3
	dnsClients = 20
	dnsQueries = 15
	dnsRuns    = 50
)

// TestClientsOfCoreDNSSpreadAsPredicted measures what limpet clientip lab does, with the cluster's own kube-proxy and CoreDNS.
func TestClientsOfCoreDNSSpreadAsPredicted(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	scaleDNS(t, e)
	keepFlows(t)
	outside := dnsClientsNetns(t, e)
	number := *seed
	if number == 0 {
		number = rand.Uint64()
	}
	t.Logf("-seed=%d", number)
	r, used := rand.New(rand.NewPCG(number, 1)), map[netip.Addr]bool{}
	fresh := func() []netip.Addr { return draw(r, used, outsideNet, dnsClients) }
	without, parted := measureDNS(t, outside, dnsService(t, e, "none"), fresh, predicted(t, e, "none"))
	if all := dnsRuns * dnsClients; parted < all*9/10 {
		t.Errorf("%d of %d clients met several servers without affinity, want nearly all", parted, all)
	}
	with, parted := measureDNS(t, outside, dnsService(t, e, "clientip"), fresh, predicted(t, e, "clientip"))
	if parted > 0 {
		t.Errorf("%d clients met several servers with affinity, want none", parted)
	}
	if with < 2*without {
		t.Errorf("coefficients of variation %.3f with affinity and %.3f without, want affinity to spread fresh sockets far worse", with, without)
	}
}

// measureDNS lets clients ask in many runs. It returns the mean of the coefficients of variation, which it holds against the predicted one, and
// how many clients met several servers.
func measureDNS(t *testing.T, from netns, to netip.AddrPort, fresh func() []netip.Addr, want float64) (mean float64, parted int) {
	t.Helper()
	var variations []float64
	for range dnsRuns {
		clients := fresh()
		ask(t, from, clients, to)
		spread, several := whoAnswered(t, clients, to)
		variations, parted = append(variations, variation(spread)), parted+several
	}
	mean, deviation := meanOf(variations)
	// The mean of 50 runs is further than six of its standard errors from the true one less than once in a million times, by Student's
	// distribution with 49 degrees of freedom.
	tolerance := 6*deviation/math.Sqrt(dnsRuns) + 0.002
	t.Logf("%s: coefficient of variation %.3f, predicted %.3f ± %.3f; %d of %d clients met several servers",
		to, mean, want, tolerance, parted, dnsRuns*dnsClients)
	if math.Abs(mean-want) > tolerance {
		t.Errorf("%s: coefficient of variation %.3f, want %.3f ± %.3f as predicted", to, mean, want, tolerance)
	}
	return mean, parted
}

// scaleDNS gives the cluster more servers for the time of the test.
func scaleDNS(t *testing.T, e *cluster.Env) {
	t.Helper()
	deployments := e.AppsV1().Deployments("kube-system")
	scale := func(ctx context.Context, replicas int32) (before int32, err error) {
		err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			s, err := deployments.GetScale(ctx, "coredns", metav1.GetOptions{})
			if err != nil {
				return err
			}
			before, s.Spec.Replicas = s.Spec.Replicas, replicas
			_, err = deployments.UpdateScale(ctx, "coredns", s, metav1.UpdateOptions{})
			return err
		})
		return before, err
	}
	before, err := scale(t.Context(), dnsServers)
	if err != nil {
		t.Fatalf("asking for more name servers: %v", err)
	}
	t.Cleanup(func() {
		if _, err := scale(context.WithoutCancel(t.Context()), before); err != nil {
			t.Errorf("asking for as many name servers as before: %v", err)
		}
	})
	e.WaitFor(3*time.Minute, "the name servers", func(ctx context.Context) error { return e.Available(ctx, "kube-system", "coredns") })
}

// keepFlows has the kernel know flows for longer than a run takes on a busy machine.
func keepFlows(t *testing.T) {
	t.Helper()
	const file = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout" // of the cluster's network namespace
	before, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte("180"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, before, 0); err != nil {
			t.Error(err)
		}
	})
}

// dnsService makes a Service of the name servers, with affinity or without, and returns its address when rules lead to all of them.
func dnsService(t *testing.T, e *cluster.Env, policy string) netip.AddrPort {
	t.Helper()
	services := e.CoreV1().Services("kube-system")
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "dns-" + policy}}
	s.Spec.Selector = map[string]string{"k8s-app": "kube-dns"}
	s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)}}
	if policy == "clientip" {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	made, err := services.Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := services.Delete(context.WithoutCancel(t.Context()), s.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	e.WaitFor(3*time.Minute, "rules of "+s.Name, func(ctx context.Context) error {
		slices, err := e.DiscoveryV1().EndpointSlices("kube-system").List(ctx, metav1.ListOptions{
			LabelSelector: discoveryv1.LabelServiceName + "=" + s.Name,
		})
		if err != nil {
			return err
		}
		rules, ready := run(t, "", "iptables-save", "-t", "nat"), 0
		for _, slice := range slices.Items {
			for _, one := range slice.Endpoints {
				if !*one.Conditions.Ready {
					continue // of an earlier test, it ends
				}
				if ready++; !strings.Contains(rules, fmt.Sprintf("%q", "kube-system/"+s.Name+":dns -> "+one.Addresses[0]+":53")) {
					return fmt.Errorf("no rule leads to %s", one.Addresses[0])
				}
			}
		}
		if ready != dnsServers {
			return fmt.Errorf("%d servers are ready", ready)
		}
		return nil
	})
	return netip.AddrPortFrom(netip.MustParseAddr(made.Spec.ClusterIP), 53)
}

// dnsClientsNetns makes a namespace beside the cluster's node that has all addresses of a network.
func dnsClientsNetns(t *testing.T, e *cluster.Env) netns {
	t.Helper()
	ns := newNetns(t, "dns-clients")
	ns.link(netns{}, "dnsclients", "10.6.0.2/30", "10.6.0.1/30")
	ns.run("ip", "route", "add", "default", "via", "10.6.0.1")
	ns.run("ip", "route", "add", "local", outsideNet, "dev", "lo")
	run(t, "", "ip", "route", "add", outsideNet, "via", "10.6.0.2")
	t.Cleanup(func() { run(t, "", "ip", "route", "del", outsideNet, "via", "10.6.0.2") })
	return ns
}

// ask has each client ask in turn, from a new socket each time.
func ask(t *testing.T, from netns, clients []netip.Addr, server netip.AddrPort) {
	t.Helper()
	err := from.do(func() error {
		for range dnsQueries {
			for _, client := range clients {
				if err := resolve(client, server); err != nil {
					return fmt.Errorf("%s asks %s: %w", client, server, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// resolve asks for the API server's address, again if there is no answer.
func resolve(client netip.Addr, server netip.AddrPort) error {
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(client, 0)), net.UDPAddrFromAddrPort(server))
	if err != nil {
		return err
	}
	defer conn.Close()
	id := uint16(rand.Uint32())
	query := binary.BigEndian.AppendUint16(nil, id)
	query = append(query, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion is desired; one question
	for _, label := range []string{"kubernetes", "default", "svc", "cluster", "local", ""} {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 1, 0, 1) // an address, of the Internet
	answer := make([]byte, 512)
	for range 15 {
		if _, err := conn.Write(query); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(4 * time.Second))
		n, err := conn.Read(answer)
		if isTimeout(err) {
			continue
		}
		if err != nil {
			return err
		}
		if n < 12 || binary.BigEndian.Uint16(answer) != id || answer[3]&15 != 0 || answer[7] == 0 {
			return fmt.Errorf("answer % x", answer[:n])
		}
		return nil
	}
	return errors.New("no answer")
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// whoAnswered counts the flows of clients by the server that connection tracking has sent them to, and the clients that met several.
func whoAnswered(t *testing.T, clients []netip.Addr, to netip.AddrPort) (spread map[netip.Addr]int, parted int) {
	t.Helper()
	servers := map[netip.Addr]map[netip.Addr]bool{}
	for _, c := range clients {
		servers[c] = map[netip.Addr]bool{}
	}
	spread = map[netip.Addr]int{}
	listing := run(t, "", "conntrack", "-L", "-p", "udp", "--orig-dst", to.Addr().String())
	for _, line := range strings.Split(listing, "\n") {
		var sources []netip.Addr // of the client's packets, then of the server's
		for _, field := range strings.Fields(line) {
			if text, is := strings.CutPrefix(field, "src="); is {
				sources = append(sources, netip.MustParseAddr(text))
			}
		}
		if len(sources) == 2 && servers[sources[0]] != nil {
			spread[sources[1]]++
			servers[sources[0]][sources[1]] = true
		}
	}
	flows := 0
	for _, n := range spread {
		flows += n
	}
	if want := len(clients) * dnsQueries; flows < want*99/100 || flows > want || len(spread) > dnsServers {
		t.Fatalf("%d flows to %d servers are tracked, want %d to %d at most", flows, len(spread), want, dnsServers)
	}
	for _, met := range servers {
		if len(met) > 1 {
			parted++
		}
	}
	return spread, parted
}

// variation returns the coefficient of variation of what the servers got.
func variation(spread map[netip.Addr]int) float64 {
	sum, squares := 0.0, 0.0
	for _, n := range spread {
		sum += float64(n)
		squares += float64(n) * float64(n)
	}
	mean := sum / dnsServers
	return math.Sqrt(max(0, squares/dnsServers-mean*mean)) / mean
}

// meanOf returns the mean of values and their standard deviation.
func meanOf(values []float64) (mean, deviation float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		deviation += (v - mean) * (v - mean) / float64(len(values)-1)
	}
	return mean, math.Sqrt(deviation)
}

// predicted asks limpet clientip predict for the coefficient of variation.
func predicted(t *testing.T, e *cluster.Env, policy string) float64 {
	t.Helper()
	text := run(t, "", e.Program(limpet), "clientip", "predict", "--clients", fmt.Sprint(dnsClients), "--endpoints", fmt.Sprint(dnsServers),
		"--policy", policy, "--qps", fmt.Sprint(dnsClients*dnsQueries), "--window", "1s", "--arrivals", "turns", "--runs", "4000", "--seed", "1", "-o", "json")
	var p struct {
		Policies []struct {
			Spread struct {
				Variation struct {
					Simulated struct{ Mean float64 } `json:"simulated"`
				} `json:"variation"`
			} `json:"spread"`
		} `json:"policies"`
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil || len(p.Policies) != 1 {
		t.Fatalf("predict = %s (%v), want one policy", text, err)
	}
	return p.Policies[0].Spread.Variation.Simulated.Mean
}
