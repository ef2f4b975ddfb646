package clientip

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

var seed = flag.Uint64("seed", 0, "the seed of the clients' addresses; 0 is a new one")

// Numbers of clients of each way to a Service. The list of one endpoint remembers 100 clients in iptables mode, so those of both ways that
// are to be stuck have room in it.
const (
	stuckClients = 45
	freshClients = 1200
	asked        = 4 // of them, for which explain is asked alone
)

// A report is what limpet clientip explain -o json prints, as far as these tests look.
type report struct {
	Services []struct {
		Endpoints []struct {
			Address netip.AddrPort `json:"address"`
			Held    []struct {
				Client netip.Addr `json:"client"`
			} `json:"held"`
		} `json:"endpoints"`
		Next []next `json:"next"`
	} `json:"services"`
	Notes []string `json:"notes"`
}

type next struct {
	Client   netip.Addr     `json:"client"`
	Fronts   []string       `json:"fronts"`
	Endpoint netip.AddrPort `json:"endpoint"`
	Unknown  bool           `json:"unknown"`
	Odds     []struct {
		Endpoint    netip.AddrPort `json:"endpoint"`
		Probability float64        `json:"probability"`
	} `json:"odds"`
}

// report asks about a port.
func (w *world) report(p port, flags ...string) report {
	w.t.Helper()
	var r report
	text := w.command(append([]string{"clientip", "explain", p.String(), "--protocol", p.protocol, "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		w.t.Fatal(err)
	}
	if len(r.Services) != 1 || len(r.Notes) > 0 {
		w.t.Fatalf("explain %s = %s, want one service and no notes", p, text)
	}
	return r
}

// explain asks where a client goes next that asks a front of a port, as explain names it.
func (w *world) explain(p port, front string, client netip.Addr) next {
	w.t.Helper()
	r := w.report(p, "--client", client.String())
	i := slices.IndexFunc(r.Services[0].Next, func(n next) bool { return slices.Contains(n.Fronts, front) })
	if i < 0 {
		w.t.Fatalf("explain %s = %+v, want what happens at %s", p, r.Services[0].Next, front)
	}
	if n := r.Services[0].Next[i]; !n.Unknown && n.Client == client {
		return n
	}
	w.t.Fatalf("explain %s = %+v, want an answer about %s without doubt", p, r.Services[0].Next[i], client)
	return next{}
}

// A way is how a client reaches a port: the address, and how explain calls it.
type way struct {
	to    netip.AddrPort
	front string
}

// ways returns the ways from inside the cluster and, if there are any, from outside.
func (w *world) ways(p port) (inside, outside way) {
	inside = way{p.front(), p.front().String()}
	if !p.external {
		return inside, inside
	}
	nodePort := netip.AddrPortFrom(netip.MustParseAddr("10.5.0.1"), p.nodePort)
	return inside, way{nodePort, fmt.Sprintf("*:%d", p.nodePort)}
}

// draw returns so many different addresses of a network, none of them twice in a test.
func draw(r *rand.Rand, used map[netip.Addr]bool, network string, count int) []netip.Addr {
	prefix := netip.MustParsePrefix(network)
	var all []netip.Addr
	for len(all) < count {
		b := prefix.Addr().As4()
		b[2], b[3] = byte(r.UintN(256)), byte(1+r.UintN(254))
		if a := netip.AddrFrom4(b); !used[a] {
			used[a] = true
			all = append(all, a)
		}
	}
	return all
}

func TestTheExplanationIsWhatTheNextPacketDoes(t *testing.T) {
	number := *seed
	if number == 0 {
		number = rand.Uint64()
	}
	t.Logf("-seed=%d", number)
	everywhere(t, func(t *testing.T, w *world, all []port) {
		for _, p := range all {
			t.Run(p.service+" "+p.protocol, func(t *testing.T) {
				r, used := rand.New(rand.NewPCG(number, 0)), map[netip.Addr]bool{}
				inside, outside := w.ways(p)
				on := *w
				on.t = t
				on.checkStuck(p, inside, draw(r, used, podNet, stuckClients))
				on.checkStuck(p, outside, draw(r, used, outsideNet, stuckClients))
				on.checkOdds(p, inside, draw(r, used, podNet, freshClients))
				on.checkOdds(p, outside, draw(r, used, outsideNet, freshClients))
			})
		}
	})
}

// checkStuck connects clients once, asks where all of them go next, and connects them again.
func (w *world) checkStuck(p port, by way, clients []netip.Addr) {
	w.t.Helper()
	reached := w.reach(p, by, clients)
	held := w.held(p)
	for _, client := range clients[:asked] {
		n := w.explain(p, by.front, client)
		if p.timeout == 0 && p.endpoints > 1 {
			w.checkSum(p, n)
		} else if n.Endpoint.Addr() != reached[client] || len(n.Odds) > 0 {
			w.t.Errorf("explain %s for %s = %+v, want the endpoint that it reached, %s", p, client, n, reached[client])
		}
	}
	if p.timeout == 0 {
		if len(held) > 0 {
			w.t.Errorf("explain %s holds %v, want nobody without affinity", p, held)
		}
		return
	}
	again := w.reach(p, by, clients)
	for _, client := range clients {
		if want := held[client]; want != netip.AddrPortFrom(again[client], p.target()) || again[client] != reached[client] {
			w.t.Errorf("%s reached %s, then %s at %s of %s, want %s as explained", client, reached[client], again[client], by.to, p, want)
		}
	}
}

// held returns the endpoint on which explain says that a client is kept, of all clients.
func (w *world) held(p port) map[netip.Addr]netip.AddrPort {
	w.t.Helper()
	held := map[netip.Addr]netip.AddrPort{}
	for _, e := range w.report(p, "--clients").Services[0].Endpoints {
		for _, h := range e.Held {
			if _, twice := held[h.Client]; twice {
				w.t.Errorf("explain %s keeps %s on two endpoints, want one", p, h.Client)
			}
			held[h.Client] = e.Address
		}
	}
	return held
}

// checkSum checks that the odds of a client are those of something that happens.
func (w *world) checkSum(p port, n next) {
	w.t.Helper()
	sum := 0.0
	for _, o := range n.Odds {
		sum += o.Probability
	}
	if n.Endpoint.IsValid() || len(n.Odds) < 2 || math.Abs(sum-1) > 1e-6 {
		w.t.Errorf("explain %s for %s = %+v, want no endpoint and several odds with the sum 1", p, n.Client, n)
	}
}

// checkOdds connects clients that were never seen and compares where they arrive with the odds that the explanation has for each of some of
// them. The number of clients at an endpoint has a binomial distribution. It is further than six standard deviations from its mean once in 200
// million draws at most, and a run of all tests makes 130.
func (w *world) checkOdds(p port, by way, clients []netip.Addr) {
	w.t.Helper()
	if p.endpoints == 1 {
		return // there is no lot
	}
	first := w.explain(p, by.front, clients[0])
	w.checkSum(p, first)
	for _, client := range clients[1:asked] {
		if n := w.explain(p, by.front, client); !slices.Equal(n.Odds, first.Odds) {
			w.t.Errorf("explain %s for %s has odds %v, want those of any new client, %v", p, client, n.Odds, first.Odds)
		}
	}
	drawn := map[netip.Addr]int{}
	for _, e := range w.reach(p, by, clients) {
		drawn[e]++
	}
	count := float64(len(clients))
	for _, o := range first.Odds {
		mean, deviation := count*o.Probability, math.Sqrt(count*o.Probability*(1-o.Probability))
		if got := drawn[o.Endpoint.Addr()]; math.Abs(float64(got)-mean) > 6*deviation {
			w.t.Errorf("%s drawn %d times by %.0f new clients of %s, want %.0f ± %.0f", o.Endpoint, got, count, p, mean, 6*deviation)
		}
		delete(drawn, o.Endpoint.Addr())
	}
	if len(drawn) > 0 {
		w.t.Errorf("new clients of %s reached %v too, want only endpoints with odds", p, drawn)
	}
}

// reach connects clients, each once, and returns the endpoints that answered.
func (w *world) reach(p port, by way, clients []netip.Addr) map[netip.Addr]netip.Addr {
	w.t.Helper()
	reached := map[netip.Addr]netip.Addr{}
	err := w.clients.do(func() error {
		for _, client := range clients {
			e, err := connect(p.protocol, client, by.to)
			if err != nil {
				return err
			}
			reached[client] = e
		}
		return nil
	})
	if err != nil {
		w.t.Fatalf("reaching %s in mode %s: %v", p, w.mode, err)
	}
	return reached
}
