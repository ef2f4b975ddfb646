package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// errDiffers says that the walk-through saw something that it did not expect.
var errDiffers = errors.New("the walk-through differs from what is expected")

// A step is one line of the walk-through: what is expected, and a function that tries it and says what it saw.
type step struct {
	name, expected string
	try            func(context.Context) (seen string, ok bool, err error)
}

// script runs every step and prints expected against seen.
func (w *world) script(ctx context.Context) error {
	fmt.Printf("Two revisions of three replicas each behind %d gateway(s), bindings in %s.\n\n", len(w.gateways), w.storeName())
	steps, failed := w.steps(), 0
	for i, s := range steps {
		seen, ok, err := s.try(ctx)
		if err != nil {
			seen, ok = "error: "+err.Error(), false
		}
		mark := "ok  "
		if !ok {
			mark = "FAIL"
			failed++
		}
		fmt.Printf("%s %2d. %s\n         expected: %s\n         seen:     %s\n", mark, i+1, s.name, s.expected, seen)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	fmt.Printf("\n%d of %d steps as expected.\n", len(steps)-failed, len(steps))
	if failed > 0 {
		return errDiffers
	}
	return nil
}

func (w *world) storeName() string {
	if w.redis != nil {
		return "Redis at " + w.redis.Host
	}
	return "memory"
}

// Sizes of the walk-through. With 30 requests over 6 replicas the chance that no affinity looks like affinity is below 1e-22.
const (
	scriptRequests = 30
	scriptFlows    = 40
	perFlow        = 5
)

func (w *world) steps() []step {
	session := func(r ask) step {
		return step{expected: fmt.Sprintf("one replica, counts 1 to %d", scriptRequests), try: func(ctx context.Context) (string, bool, error) {
			return w.oneReplica(ctx, r)
		}}
	}
	flows := func(r func(id string) ask) step {
		return step{expected: "each flow on one revision, both revisions used", try: func(ctx context.Context) (string, bool, error) {
			return w.oneRevision(ctx, r)
		}}
	}
	named := func(name string, s step) step { s.name = name; return s }
	return []step{
		{"no affinity", "several replicas, each with counts of its own", w.scattered},
		named("session by header K-Session", session(ask{service: "session", path: "/incr", header: "K-Session: abc-header"})),
		named("session by query parameter", session(ask{service: "session", path: "/incr?session=abc-query"})),
		named("session by path segment", session(ask{service: "session", path: "/s/abc-path/incr"})),
		named("session by cookie", session(ask{service: "session", path: "/incr", header: "Cookie: session=abc-cookie"})),
		{"session by sealed token", "one replica, the token is set once", w.byToken},
		named("revision by header K-Revision, 50/50", flows(func(id string) ask {
			return ask{service: "revision", path: "/incr", header: "K-Revision: " + id}
		})),
		named("revision by query parameter, 50/50", flows(func(id string) ask {
			return ask{service: "revision", path: "/incr?flow=" + id}
		})),
		named("revision by path segment, 50/50", flows(func(id string) ask {
			return ask{service: "revision", path: "/r/" + id + "/incr"}
		})),
		{"replica killed", "the session moves once, to another replica of its revision", w.replicaKilled},
		{"weights 50/50 to 95/5, pinned", fmt.Sprintf("0 of %d flows move", scriptFlows), w.pinnedFlows},
		{"weights 95/5 to 50/50, proportional", "flows move to demo-00002 only, about 45 in 100", w.proportionalFlows},
		{"revision removed", "its sessions and flows move to demo-00001, no request fails", w.revisionRemoved},
	}
}

// An ask is a request of the walk-through.
type ask struct{ service, path, header string }

// An answer is what a replica said of itself and of the session.
type answer struct {
	replica, revision string
	count             int
	tokens            []*http.Cookie
	body              string
}

// do sends one request; with two gateways it alternates between them.
func (w *world) do(ctx context.Context, a ask) (answer, error) {
	g, client := w.gateways[w.turn%len(w.gateways)], w.clients[w.turn%len(w.clients)]
	w.turn++
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.address+a.path, nil)
	if err != nil {
		return answer{}, err
	}
	req.Host = a.service + ".localhost"
	if name, value, ok := strings.Cut(a.header, ": "); ok {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return answer{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	out := answer{body: strings.TrimSpace(string(body)), tokens: resp.Cookies()}
	out.replica, out.revision = resp.Header.Get("Counter-Name"), resp.Header.Get("Counter-Revision")
	_, err = fmt.Sscan(resp.Header.Get("Counter-Count"), &out.count)
	return out, err
}

// scattered sends one session's requests to the service without affinity.
func (w *world) scattered(ctx context.Context) (string, bool, error) {
	replicas, highest := map[string]bool{}, 0
	for range scriptRequests {
		a, err := w.do(ctx, ask{service: "plain", path: "/incr?session=abc-plain"})
		if err != nil {
			return "", false, err
		}
		replicas[a.replica] = true
		highest = max(highest, a.count)
	}
	seen := fmt.Sprintf("%d replicas, the highest count is %d of %d", len(replicas), highest, scriptRequests)
	return seen, len(replicas) > 1 && highest < scriptRequests, nil
}

// oneReplica expects every request to reach the same replica, which counts on.
func (w *world) oneReplica(ctx context.Context, r ask) (string, bool, error) {
	var last answer
	ok := true
	for i := range scriptRequests {
		a, err := w.do(ctx, r)
		if err != nil {
			return "", false, err
		}
		ok = ok && a.count == i+1 && (i == 0 || a.replica == last.replica)
		last = a
	}
	return last.body, ok, nil
}

// byToken repeats the token that the gateway set, as a browser would.
func (w *world) byToken(ctx context.Context) (string, bool, error) {
	r, set := ask{service: "token", path: "/s/abc-token/incr"}, 0
	replicas := map[string]bool{}
	for range scriptRequests {
		a, err := w.do(ctx, r)
		if err != nil {
			return "", false, err
		}
		replicas[a.replica] = true
		for _, c := range a.tokens {
			r.header = "Cookie: " + c.Name + "=" + c.Value
			set++
		}
	}
	return fmt.Sprintf("%d replica(s), the token was set %d time(s)", len(replicas), set), len(replicas) == 1 && set == 1, nil
}

// oneRevision expects each flow to stay on one revision and all flows together to use both.
func (w *world) oneRevision(ctx context.Context, r func(id string) ask) (string, bool, error) {
	per, ok := map[string]int{}, true
	for i := range scriptFlows {
		first := ""
		for range perFlow {
			a, err := w.do(ctx, r(fmt.Sprintf("flow-%d", i)))
			if err != nil {
				return "", false, err
			}
			if first == "" {
				first = a.revision
				per[first]++
			}
			ok = ok && a.revision == first
		}
	}
	return fmt.Sprintf("%d flows on %s, %d on %s", per[demoRevisions[0]], demoRevisions[0], per[demoRevisions[1]], demoRevisions[1]),
		ok && len(per) == len(demoRevisions), nil
}

// replicaKilled kills the replica of a session and starts it again afterwards.
func (w *world) replicaKilled(ctx context.Context) (string, bool, error) {
	r := ask{service: "session", path: "/incr?session=abc-killed"}
	before, err := w.do(ctx, r)
	if err != nil {
		return "", false, err
	}
	victim := w.replica(before.replica)
	victim.kill()
	after, err := w.do(ctx, r)
	if err != nil {
		return "", false, err
	}
	ok := after.revision == before.revision && after.replica != before.replica
	for range scriptRequests {
		a, err := w.do(ctx, r)
		if err != nil {
			return "", false, err
		}
		ok = ok && a.replica == after.replica
	}
	if err := w.startReplica(ctx, victim); err != nil {
		return "", false, fmt.Errorf("starting %s again: %w", victim.name, err)
	}
	return fmt.Sprintf("%s was killed, then always %s", before.replica, after.replica), ok, nil
}

func (w *world) replica(name string) *demoReplica {
	for _, r := range w.replicas {
		if r.name == name {
			return r
		}
	}
	return nil
}

// where returns the revision of each of n flows.
func (w *world) where(ctx context.Context, service, prefix string, n int) ([]string, error) {
	at := make([]string, n)
	for i := range at {
		a, err := w.do(ctx, ask{service: service, path: "/incr", header: fmt.Sprintf("K-Revision: %s-%d", prefix, i)})
		if err != nil {
			return nil, err
		}
		at[i] = a.revision
	}
	return at, nil
}

// pinnedFlows changes the weights and expects no flow to move.
func (w *world) pinnedFlows(ctx context.Context) (string, bool, error) {
	before, err := w.where(ctx, "revision", "pinned", scriptFlows)
	if err != nil {
		return "", false, err
	}
	if err := w.split(ctx, 95, 5); err != nil {
		return "", false, err
	}
	after, err := w.where(ctx, "revision", "pinned", scriptFlows)
	if err != nil {
		return "", false, err
	}
	moved := 0
	for i := range before {
		if before[i] != after[i] {
			moved++
		}
	}
	return fmt.Sprintf("%d of %d flows moved", moved, scriptFlows), moved == 0, nil
}

// proportionalFlows changes the weights and expects the share that has to move to move, and nobody backwards. Of 200 flows 90
// are expected to move, with a standard deviation of 7; 55 to 125 is five of them.
func (w *world) proportionalFlows(ctx context.Context) (string, bool, error) {
	const n = 200
	before, err := w.where(ctx, "canary", "share", n)
	if err != nil {
		return "", false, err
	}
	if err := w.split(ctx, 50, 50); err != nil {
		return "", false, err
	}
	after, err := w.where(ctx, "canary", "share", n)
	if err != nil {
		return "", false, err
	}
	forth, back := 0, 0
	for i := range before {
		switch {
		case before[i] == after[i]:
		case after[i] == demoRevisions[1]:
			forth++
		default:
			back++
		}
	}
	return fmt.Sprintf("%d of %d flows moved to demo-00002, %d moved back", forth, n, back), back == 0 && forth >= 55 && forth <= 125, nil
}

// revisionRemoved takes demo-00002 out of the configuration.
func (w *world) revisionRemoved(ctx context.Context) (string, bool, error) {
	session, err := w.sessionOn(ctx, demoRevisions[1])
	if err != nil {
		return "", false, err
	}
	w.removed[demoRevisions[1]] = true
	if err := w.reconfigure(ctx); err != nil {
		return "", false, err
	}
	ok := true
	var last answer
	for range scriptRequests {
		a, err := w.do(ctx, session)
		if err != nil {
			return "", false, err
		}
		ok = ok && a.revision == demoRevisions[0] && (last.replica == "" || a.replica == last.replica)
		last = a
	}
	flows, err := w.where(ctx, "revision", "pinned", scriptFlows)
	if err != nil {
		return "", false, err
	}
	for _, at := range flows {
		ok = ok && at == demoRevisions[0]
	}
	return fmt.Sprintf("the session is on %s, %d flows on %s", last.replica, len(flows), demoRevisions[0]), ok, nil
}

// sessionOn finds a session that is bound to a replica of the revision.
func (w *world) sessionOn(ctx context.Context, revision string) (ask, error) {
	for i := range 100 {
		r := ask{service: "session", path: fmt.Sprintf("/incr?session=abc-removed-%d", i)}
		a, err := w.do(ctx, r)
		if err != nil || a.revision == revision {
			return r, err
		}
	}
	return ask{}, fmt.Errorf("none of 100 sessions came to %s", revision)
}

// split changes the weights in the configuration and waits until every gateway has read them.
func (w *world) split(ctx context.Context, first, second int) error {
	w.weights[demoRevisions[0]], w.weights[demoRevisions[1]] = first, second
	return w.reconfigure(ctx)
}

func (w *world) reconfigure(ctx context.Context) error {
	for _, g := range w.gateways {
		if err := w.configure(g); err != nil {
			return fmt.Errorf("changing the configuration: %w", err)
		}
	}
	for _, g := range w.gateways {
		if err := g.await(ctx, "/services", func(_ int, body []byte) bool { return w.inForce(body) }); err != nil {
			return err
		}
	}
	return nil
}

// inForce reports whether the gateway's answer shows the world's weights.
func (w *world) inForce(body []byte) bool {
	var services []struct {
		Revisions []struct {
			Name   string
			State  string
			Weight int
		}
	}
	if json.Unmarshal(body, &services) != nil || len(services) != len(demoServices) {
		return false
	}
	for _, s := range services {
		for _, r := range s.Revisions {
			if w.removed[r.Name] != (r.State == "removed") || !w.removed[r.Name] && r.Weight != w.weights[r.Name] {
				return false
			}
		}
	}
	return true
}
