package reliability

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"sync"
	"time"
)

// An event is something that was done, in the words of the soak test's checker (test/soak/checker.Event), which judges the run. It
// had no effect before From and was done at To.
type event struct {
	From, To time.Duration
	Kind     string
	Endpoint string        `json:",omitempty"`
	Revision string        `json:",omitempty"`
	Gateway  string        `json:",omitempty"`
	Weight   int           `json:",omitempty"`
	Until    time.Duration `json:",omitempty"`
	Emptied  bool          `json:",omitempty"`
}

// The checker's names of what is done here.
const (
	added          = "added"
	draining       = "draining"
	weighted       = "weighted"
	storeLost      = "store lost"
	storeRecovered = "store recovered"
	gatewayDown    = "gateway down"
	gatewayUp      = "gateway up"
)

// An observation is one request as its client saw it (checker.Observation).
type observation struct {
	Session, Flow      string
	Gateway            string // the ingress' pod
	Start, End         time.Duration
	Status             int
	Endpoint, Revision string
	Instance           string
	Count              int

	reason string // of a failure, for people
	port   int    // the client's, by which the gateway is found
}

// A record is all of a run. It is safe for concurrent use.
type record struct {
	began time.Time

	mu           sync.Mutex
	events       []event
	observations []*observation
	failed       []string // the first failures
	failures     int
}

// clock returns the time since the beginning.
func (r *record) clock() time.Duration { return time.Since(r.began) }

func (r *record) did(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// keptFailures is how many failures are described.
const keptFailures = 20

func (r *record) saw(o *observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observations = append(r.observations, o)
	if o.Status == 200 {
		return
	}
	if r.failures++; r.failures <= keptFailures {
		r.failed = append(r.failed, fmt.Sprintf("[%.3fs %.3fs] %s%s: status %d %s",
			o.Start.Seconds(), o.End.Seconds(), o.Session, o.Flow, o.Status, o.reason))
	}
}

// allowances are the checker's: how long after a deed some replica of the ingress may still act as before it. What a deed changes in
// Kubernetes is waited for by the test, and what remains is the way from the API server to the ingress.
type allowances struct{ Reload, Detect, Recover, Settle, Cache time.Duration }

// judge lets the checker judge the run and returns what it says.
func (r *record) judge(ctx context.Context, program string, allow allowances) (string, error) {
	r.mu.Lock()
	text, err := json.Marshal(map[string]any{"Events": r.events, "Observations": r.observations, "Allow": allow})
	r.mu.Unlock()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
