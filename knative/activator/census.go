package activator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/scaledown"
)

// An activator asks another for its sessions at this path, with a sealed claim in this header. Both are needed: neither alone is taken
// from what is served there.
const (
	censusPath   = "/limpet/census"
	headerCensus = prefix + "Census"
	askCensus    = "census"
)

// Bounds of a census.
const (
	askTime     = 5 * time.Second // of one question at most
	askAtOnce   = 16              // activators that are asked at the same time
	maxReported = 20_000          // pods in an answer
	maxReport   = 8 << 20         // bytes of an answer; one pod takes 200 at most, in names of usual length
)

// CensusOptions are what a Census works with. Source and Table are needed; nil Peers are an activator that is alone.
type CensusOptions struct {
	Source *Source
	Table  *endpoint.Table
	Peers  *Peers
}

// A Census counts the live sessions of each pod over all activators: bound ones, as the activators see them. A session that came by two of
// them counts twice, and one that came by an activator that has restarted counts when it comes again. It is safe for concurrent use.
type Census struct{ o CensusOptions }

// NewCensus returns a census. Whoever counts keeps the peers running.
func NewCensus(o CensusOptions) *Census { return &Census{o} }

// A report is what one activator answers. JSON is its form on the wire.
type report struct {
	Pods []reported `json:"pods"`
	Cut  bool       `json:"cut,omitempty"` // there were too many pods
}

// A reported pod has sessions. Those that are not reported have none.
type reported struct {
	podKey
	Sessions int64 `json:"sessions"`
}

// A podKey names a pod among all.
type podKey struct {
	Namespace string `json:"namespace"`
	Revision  string `json:"revision"`
	Pod       string `json:"pod"` // its UID
}

// Handler returns a handler that answers what other activators ask, and leaves the rest to next. Who cannot seal the question learns nothing.
func (c *Census) Handler(next http.Handler) http.Handler {
	if c.o.Peers == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sealed := r.Header.Get(headerCensus)
		if sealed == "" || r.URL.Path != censusPath {
			next.ServeHTTP(w, r)
			return
		}
		c.answer(w, sealed)
	})
}

// answer answers a question with this activator's own sessions.
func (c *Census) answer(w http.ResponseWriter, sealed string) {
	h := w.Header()
	h.Set("Server", "limpet")
	h.Set("Cache-Control", "no-store")
	asked, err := c.o.Peers.seal.open(sealed, time.Now())
	switch {
	case err != nil, asked.Ask != askCensus, asked.To != c.o.Peers.o.PodName:
		h.Set(headerReason, "bad-seal")
		http.Error(w, errSeal.Error(), http.StatusForbidden)
		return
	case !c.o.Table.Synced():
		h.Set(headerReason, "not-synchronised")
		http.Error(w, errNotSynced.Error(), http.StatusServiceUnavailable)
		return
	}
	h.Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c.own().report()) // who asked and went away asks again
}

// sessions are numbers of sessions by pod.
type sessions map[podKey]int64

// own returns the sessions that this activator sees.
func (c *Census) own() sessions {
	all := make(sessions)
	for key := range c.o.Source.bound() {
		for pod, n := range c.o.Table.Sessions(endpoint.RevisionName{Namespace: key.Namespace, Name: key.Name}) {
			all[podKey{key.Namespace, key.Name, pod}] = n
		}
	}
	return all
}

// report returns the sessions as an answer.
func (s sessions) report() report {
	list := report{Pods: make([]reported, 0, min(len(s), maxReported))}
	for pod, n := range s {
		if len(list.Pods) == maxReported {
			list.Cut = true
			break
		}
		list.Pods = append(list.Pods, reported{pod, n})
	}
	return list
}

// add adds what another activator reports.
func (s sessions) add(r report) {
	for _, p := range r.Pods {
		s[p.podKey] += min(max(p.Sessions, 0), math.MaxInt32) // so that no sum overflows
	}
}

// errNotSynced means that an activator has just begun.
var errNotSynced = errors.New("the activator does not know all Routes yet")

// Count returns the pods of all revisions with bound sessions. If an activator does not answer, or not in full, no pod's sessions are
// known: each may have some there. The error is that this activator does not know enough itself yet.
func (c *Census) Count(ctx context.Context) ([]scaledown.Pod, error) {
	others, listed := c.others()
	if !listed || !c.o.Table.Synced() {
		return nil, errNotSynced
	}
	total := c.own()
	complete := true
	for _, answer := range c.ask(ctx, others) {
		if answer.err != nil {
			complete = false
			c.o.Source.o.Log.Debug("asking an activator for its sessions", "activator", answer.of, "error", answer.err)
			continue
		}
		total.add(answer.report)
		complete = complete && !answer.Cut
	}
	pods := c.o.Source.listed()
	for i := range pods {
		p := &pods[i]
		p.Sessions = total[podKey{p.Namespace, p.Revision, string(p.UID)}]
		p.Unknown = !complete
	}
	return pods, nil
}

// others returns the other activators, and whether this one knows them: it is listed itself.
func (c *Census) others() (others []peer, listed bool) {
	if c.o.Peers == nil {
		return nil, true
	}
	for _, p := range *c.o.Peers.all() {
		if p.name == c.o.Peers.o.PodName {
			listed = true
		} else {
			others = append(others, p)
		}
	}
	return others, listed
}

// An answered question has what an activator answered, or why it did not.
type answered struct {
	of string
	report
	err error
}

// ask asks activators, some at the same time, and returns when all have answered or ctx has ended.
func (c *Census) ask(ctx context.Context, others []peer) []answered {
	answers := make([]answered, len(others))
	places := make(chan struct{}, askAtOnce)
	var questions sync.WaitGroup
	for i, p := range others {
		places <- struct{}{}
		questions.Go(func() {
			defer func() { <-places }()
			r, err := c.o.Peers.askCensus(ctx, p)
			answers[i] = answered{p.name, r, err}
		})
	}
	questions.Wait()
	return answers
}

// askCensus asks one activator for its sessions.
func (p *Peers) askCensus(ctx context.Context, to peer) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.url+censusPath, nil)
	if err != nil {
		return report{}, fmt.Errorf("asking %s: %w", to.name, err)
	}
	r.Header.Set(headerCensus, p.seal.seal(claim{Ask: askCensus, From: p.o.PodName, To: to.name}, time.Now()))
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		return report{}, fmt.Errorf("asking %s: %w", to.name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return report{}, fmt.Errorf("asking %s: got status %d, expected 200", to.name, resp.StatusCode)
	}
	return readReport(resp.Body)
}

// readReport reads an answer.
func readReport(body io.Reader) (report, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxReport+1))
	switch {
	case err != nil:
		return report{}, fmt.Errorf("reading sessions: %w", err)
	case len(text) > maxReport:
		return report{}, fmt.Errorf("reading sessions: expected at most %d bytes", maxReport)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return report{}, fmt.Errorf("reading sessions: %w", err)
	}
	if len(r.Pods) > maxReported {
		return report{}, fmt.Errorf("reading sessions: got %d pods, expected at most %d", len(r.Pods), maxReported)
	}
	return r, nil
}
