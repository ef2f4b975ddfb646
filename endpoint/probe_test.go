package endpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// probed returns demo with a probe.
func probed(rule Probe) Service {
	s := split(100)
	s.Probe = &rule
	return s
}

// eventually waits for a snapshot in which the condition holds.
func eventually(t *testing.T, table *Table, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		changed := table.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: not so in a minute", what)
		}
	}
}

func TestOneProbe(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			if r.Host != "demo.example.com" || r.URL.RawQuery != "full=1" {
				http.Error(w, r.Host, http.StatusBadRequest)
			}
		case "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "/slow":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	closed := closedAddress(t)
	tests := []struct {
		name    string
		address string
		rule    Probe
		want    string // part of the error, "" for good
	}{
		{name: "TCP", address: address},
		{name: "TCP to nobody", address: closed, want: "refused"},
		{name: "HTTP", address: address, rule: Probe{HTTPPath: "/healthz?full=1", HTTPHost: "demo.example.com"}},
		{name: "HTTP without the first slash", address: address, rule: Probe{HTTPPath: "healthz?full=1", HTTPHost: "demo.example.com"}},
		{name: "HTTP with the wrong host", address: address, rule: Probe{HTTPPath: "/healthz?full=1"}, want: "status 400"},
		{name: "HTTP to another port", address: closed, rule: Probe{HTTPPath: "/moved", Port: number}},
		{name: "a redirect is good and is not followed", address: address, rule: Probe{HTTPPath: "/moved"}},
		{name: "an endless body is cut", address: address, rule: Probe{HTTPPath: "/endless"}},
		{name: "HTTP 503", address: address, rule: Probe{HTTPPath: "/broken"}, want: "status 503"},
		{name: "too slow", address: address, rule: Probe{HTTPPath: "/slow", Timeout: time.Second}, want: "deadline exceeded"},
		{name: "no port", address: "10.0.1.1", rule: Probe{Port: 8080}, want: "missing port"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rule := test.rule
			if rule.Timeout == 0 {
				rule.Timeout = 30 * time.Second
			}
			err := newProber().probe(t.Context(), test.address, rule)
			if got := fmt.Sprint(err); (err == nil) != (test.want == "") || err != nil && !strings.Contains(got, test.want) {
				t.Errorf("probe(%s, %+v) = %v, want %q", test.address, rule, err, test.want)
			}
		})
	}
}

// closedAddress returns an address at which nobody listens, nor can as long as the test runs: a client's.
func closedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // and no sooner: that resets the client's, which would give up its port
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func TestProbesFollowARealServerDownAndUpAgain(t *testing.T) {
	var healthy atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !healthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	table := NewTable(Options{})
	table.SetServices([]Service{probed(Probe{HTTPPath: "/healthz", Interval: 20 * time.Millisecond, Timeout: 30 * time.Second, UnhealthyThreshold: 2})})
	table.SetMembers(demo1, []Member{
		{Name: pod(demo1, 1), Address: server.Listener.Addr().String()}, {Name: pod(demo1, 2), Address: closedAddress(t)},
	})
	table.SetSynced()
	run(t, table)
	state := func(n int) affinity.EndpointState { return endpointOf(table, demo1, n).State }
	eventually(t, table, "both down", func() bool { return state(1) == affinity.EndpointDown && state(2) == affinity.EndpointDown })
	status, _ := table.ServiceStatus(demo)
	if e := status.Revisions[0].Endpoints[1]; e.Cause != CauseProbe || !strings.Contains(e.ProbeError, "refused") || e.ProbedAt.IsZero() {
		t.Errorf("status = %+v, want the probe's error", e)
	}
	healthy.Store(true)
	eventually(t, table, "the first one up", func() bool { return state(1) == affinity.EndpointReady })
	healthy.Store(false)
	eventually(t, table, "the first one down", func() bool { return state(1) == affinity.EndpointDown })
}

// wire connects probes to endpoints in memory, where time is virtual.
type wire struct {
	mu     sync.Mutex
	bad    map[string]bool        // by address
	hang   map[string]bool        // does not answer
	dialed map[string]int         // so often
	at     map[string][]time.Time // when
	open   int                    // at the moment
	most   int                    // ever
}

func newWire() *wire {
	return &wire{bad: map[string]bool{}, hang: map[string]bool{}, dialed: map[string]int{}, at: map[string][]time.Time{}}
}

func (w *wire) setBad(address string, bad bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad[address] = bad
}

func (w *wire) times(address string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[address]
}

// begin counts a probe that begins.
func (w *wire) begin(address string) (bad, hang bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialed[address]++
	w.at[address] = append(w.at[address], time.Now())
	w.open++
	w.most = max(w.most, w.open)
	return w.bad[address], w.hang[address]
}

func (w *wire) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
}

// dial takes a moment, so that probes overlap.
func (w *wire) dial(ctx context.Context, _, address string) (net.Conn, error) {
	bad, hang := w.begin(address)
	defer w.end()
	delay := 10 * time.Millisecond
	if hang {
		delay = time.Hour
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(delay):
	}
	if bad {
		return nil, errors.New("connection refused")
	}
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		request, err := http.ReadRequest(bufio.NewReader(server))
		if err != nil {
			return // a probe by TCP only
		}
		_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		_ = request.Body.Close()
	}()
	return client, nil
}

// wired returns a started table whose probes go over a wire.
func wired(w *wire, o Options, s Service, n int) *Table {
	table := started(o, s, n)
	table.prober = proberOver(w.dial)
	return table
}

func TestAfterARestartHealthyEndpointsServeAtOnceAndDeadOnesAreOutAfterOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.setBad("10.0.1.2:8080", true)
		table := wired(w, Options{}, probed(Probe{HTTPPath: "/healthz", HealthyThreshold: 3, UnhealthyThreshold: 3}), 3)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
		if e := endpointOf(table, demo1, 1); !e.Since.IsZero() {
			t.Errorf("Since = %v before the first result, want always", e.Since)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- table.Run(ctx) }()
		after(20 * time.Millisecond)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
		wantState(t, table, demo1, 2, affinity.EndpointDown)
		wantState(t, table, demo1, 3, affinity.EndpointReady)
		cancel()
		<-ended
	})
}

func TestAnEndpointThatAppearsIsDownUntilItHasPassed(t *testing.T) {
	w := newWire()
	rule := Probe{HTTPPath: "/healthz", Interval: time.Second, HealthyThreshold: 2, UnhealthyThreshold: 2}
	bubble(t, func() *Table { return wired(w, Options{}, probed(rule), 1) }, func(t *testing.T, table *Table) {
		after(100 * time.Millisecond)
		table.SetMembers(demo1, pods(demo1, 2))
		wantState(t, table, demo1, 2, affinity.EndpointDown)
		after(100 * time.Millisecond)
		wantState(t, table, demo1, 2, affinity.EndpointDown) // once is not enough
		after(1100 * time.Millisecond)
		wantState(t, table, demo1, 2, affinity.EndpointReady)

		w.setBad("10.0.1.2:8080", true)
		bad := len(w.times("10.0.1.2:8080"))
		for len(w.times("10.0.1.2:8080")) < bad+1 {
			after(10 * time.Millisecond)
		}
		after(20 * time.Millisecond)
		wantState(t, table, demo1, 2, affinity.EndpointReady) // once is not enough either
		after(1200 * time.Millisecond)
		wantState(t, table, demo1, 2, affinity.EndpointDown)
		if e := endpointOf(table, demo1, 2); e.Since.IsZero() || time.Since(e.Since) > 1200*time.Millisecond {
			t.Errorf("Since = %v, want when it went down", e.Since)
		}
	})
}

func TestProbesKeepTheirIntervalGiveOrTakeATenth(t *testing.T) {
	w := newWire()
	bubble(t, func() *Table { return wired(w, Options{}, probed(Probe{Interval: 10 * time.Second}), 1) },
		func(t *testing.T, table *Table) {
			time.Sleep(5 * time.Minute)
			times := w.times("10.0.1.1:8080")
			if len(times) < 27 || len(times) > 35 { // 300 s in steps of 9 to 11 s after a first one of 5 to 10 s
				t.Errorf("probes in five minutes = %d, want about 30", len(times))
			}
			for i := 2; i < len(times); i++ {
				if gap := times[i].Sub(times[i-1]); gap < 9*time.Second || gap > 11*time.Second {
					t.Errorf("probe %d came after %v, want 9s to 11s", i, gap)
				}
			}
		})
}

func TestFirstProbesAreMadeSideBySideButBounded(t *testing.T) {
	w := newWire()
	for n := range 40 {
		w.hang[fmt.Sprintf("10.0.1.%d:8080", n+1)] = n%2 == 0
	}
	rule := Probe{Timeout: time.Second, Interval: time.Minute}
	bubble(t, func() *Table { return wired(w, Options{MaxProbes: 8}, probed(rule), 40) }, func(t *testing.T, table *Table) {
		after(6 * time.Second) // 20 hang for a second, at most 8 at a time
		if w.most != 8 {
			t.Errorf("probes at the same time = %d, want 8", w.most)
		}
		if n := revisionOf(table, "demo-00001").Pool.Ready(); n != 20 {
			t.Errorf("Ready() = %d, want 20", n)
		}
		for n := range 40 {
			if times := w.times(fmt.Sprintf("10.0.1.%d:8080", n+1)); len(times) != 1 {
				t.Errorf("probes of endpoint %d = %d, want 1", n+1, len(times))
			}
		}
	})
}

func TestARevisionOfSeveralServicesIsProbedOnce(t *testing.T) {
	w := newWire()
	bubble(t, func() *Table {
		table := wired(w, Options{}, probed(Probe{Interval: 10 * time.Second}), 1)
		other := probed(Probe{Interval: 10 * time.Second})
		other.Name.Name = "demo-preview"
		table.SetServices([]Service{probed(Probe{Interval: 10 * time.Second}), other})
		return table
	}, func(t *testing.T, table *Table) {
		time.Sleep(time.Minute)
		if n := len(w.times("10.0.1.1:8080")); n < 5 || n > 8 {
			t.Errorf("probes in a minute = %d, want about 6", n)
		}
	})
}

func TestProbesEndWithTheEndpointTheRuleAndTheService(t *testing.T) {
	tests := []struct {
		name string
		end  func(*Table)
	}{
		{name: "endpoint", end: func(t *Table) { t.SetMembers(demo1, nil) }},
		{name: "rule", end: func(t *Table) { t.SetServices([]Service{split(100)}) }},
		{name: "revision", end: func(t *Table) { t.SetServices([]Service{{Name: demo}}) }},
		{name: "service", end: func(t *Table) { t.SetServices(nil) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWire()
			bubble(t, func() *Table { return wired(w, Options{}, probed(Probe{}), 2) }, func(t *testing.T, table *Table) {
				after(time.Minute)
				test.end(table)
				before := len(w.times("10.0.1.1:8080"))
				after(time.Hour)
				if n := len(w.times("10.0.1.1:8080")); n != before {
					t.Errorf("probes after the end = %d, want 0", n-before)
				}
				if table.probes.first() != nil {
					t.Error("a probe is planned that nobody needs")
				}
			})
		})
	}
}

func TestARevisionThatComesBackIsProbedAgain(t *testing.T) {
	w := newWire()
	bubble(t, func() *Table { return wired(w, Options{}, probed(Probe{}), 1) }, func(t *testing.T, table *Table) {
		table.SetServices([]Service{{Name: demo, Probe: &Probe{}}})
		after(time.Minute)
		before := len(w.times("10.0.1.1:8080"))
		table.SetServices([]Service{probed(Probe{})})
		after(time.Minute)
		if n := len(w.times("10.0.1.1:8080")); n < before+5 {
			t.Errorf("probes in a minute after it came back = %d, want about 12", n-before)
		}
	})
}

func TestAnEndpointIsProbedAtItsNewAddressAtOnce(t *testing.T) {
	w := newWire()
	bubble(t, func() *Table { return wired(w, Options{}, probed(Probe{Interval: time.Hour}), 1) }, func(t *testing.T, table *Table) {
		after(time.Second)
		table.SetMembers(demo1, []Member{{Name: pod(demo1, 1), Address: "10.0.9.9:8080"}})
		after(100 * time.Millisecond)
		if n := len(w.times("10.0.9.9:8080")); n != 1 {
			t.Errorf("probes of the new address = %d, want 1", n)
		}
	})
}

func TestAProbeOfAnOldAddressSaysNothing(t *testing.T) {
	w := newWire()
	w.hang["10.0.1.1:8080"] = true
	rule := Probe{Interval: time.Hour, Timeout: time.Second, UnhealthyThreshold: 1}
	bubble(t, func() *Table { return wired(w, Options{}, probed(rule), 1) }, func(t *testing.T, table *Table) {
		table.SetMembers(demo1, []Member{{Name: pod(demo1, 1), Address: "10.0.9.9:8080"}})
		after(5 * time.Second)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

func TestAGoodProbeDoesNotShortenAnEjectionAndABadOneKeepsTheEndpointDown(t *testing.T) {
	w := newWire()
	service := probed(Probe{Interval: time.Second, UnhealthyThreshold: 1})
	service.Ejection = &Ejection{Consecutive: 1, Base: 10 * time.Second}
	bubble(t, func() *Table { return wired(w, Options{}, service, 3) }, func(t *testing.T, table *Table) {
		after(time.Second)
		fail(t, table, endpointOf(table, demo1, 1), 1)
		after(9 * time.Second)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		w.setBad("10.0.1.1:8080", true)
		after(5 * time.Second)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		w.setBad("10.0.1.1:8080", false)
		after(2 * time.Second)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

func TestADrainingEndpointThatFailsItsProbeIsDown(t *testing.T) {
	w := newWire()
	bubble(t, func() *Table { return wired(w, Options{}, probed(Probe{Interval: time.Second}), 2) },
		func(t *testing.T, table *Table) {
			if err := table.Drain(t.Context(), drainOf(1, time.Time{})); err != nil {
				t.Fatalf("Drain() = %v, want nil", err)
			}
			after(5 * time.Second)
			wantState(t, table, demo1, 1, affinity.EndpointDraining)
			w.setBad("10.0.1.1:8080", true)
			after(5 * time.Second)
			wantState(t, table, demo1, 1, affinity.EndpointDown)
		})
}

func TestAProbeThatIsAddedLaterTakesNoServingEndpointDown(t *testing.T) {
	w := newWire()
	bubble(t, func() *Table { return wired(w, Options{}, split(100), 2) }, func(t *testing.T, table *Table) {
		table.SetMembers(demo1, pods(demo1, 3))
		w.setBad("10.0.1.3:8080", true)
		table.SetServices([]Service{probed(Probe{Interval: time.Second, UnhealthyThreshold: 3})})
		wantState(t, table, demo1, 3, affinity.EndpointReady)
		after(500 * time.Millisecond)
		wantState(t, table, demo1, 3, affinity.EndpointReady)
		after(3 * time.Second)
		wantState(t, table, demo1, 3, affinity.EndpointDown)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

// Defect 50: a dead replica is left out without waiting for its source to notice.
func TestADeadEndpointIsLeftOutBeforeItsSourceNotices(t *testing.T) {
	table := started(Options{}, ejecting(Ejection{Consecutive: 3}), 2)
	e := endpointOf(table, demo1, 1)
	dead := closedAddress(t)
	for range 3 {
		mustAcquire(t, table, e)
		if _, err := net.Dial("tcp", dead); err != nil {
			table.Release(e, OutcomeFailed)
		}
	}
	if pool := revisionOf(table, "demo-00001").Pool; pool.Ready() != 1 || pool.Endpoint(pod(demo1, 2)).State != affinity.EndpointReady {
		t.Fatalf("Pool = %+v, want the dead endpoint left out", pool.Endpoints)
	}
}

// Defect 32: a session that is lost is no secret: the snapshot says since when, and the observer is told.
func TestTheLossOfAnEndpointIsTold(t *testing.T) {
	o := &observer{}
	bubble(t, func() *Table { return started(Options{Observer: o}, split(100), 2) }, func(t *testing.T, table *Table) {
		changed := table.Changed()
		table.SetMembers(demo1, pods(demo1, 1))
		synctest.Wait()
		<-changed
		if len(o.events) != 1 || o.events[0].To != affinity.EndpointGone || !o.events[0].At.Equal(endpointOf(table, demo1, 2).Since) {
			t.Errorf("events = %+v, want that %s is gone, since when the snapshot says", o.events, pod(demo1, 2))
		}
	})
}
