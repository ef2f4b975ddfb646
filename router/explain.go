package router

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// An Explanation says, step by step, what would happen to a request now. Nothing in it identifies a client: ids appear as keys.
type Explanation struct {
	Service  string   `json:"service"`
	Tag      string   `json:"tag,omitempty"`
	Session  *KeyFact `json:"session,omitempty"`
	Flow     *KeyFact `json:"flow,omitempty"`
	Steps    []string `json:"steps"`
	Revision string   `json:"revision,omitempty"`
	Endpoint string   `json:"endpoint,omitempty"`
	Address  string   `json:"address,omitempty"`
	State    string   `json:"state,omitempty"` // the endpoint's
	Reason   string   `json:"reason,omitempty"`
	// Next are endpoints of the revision, at most nine: where the request would go if Endpoint were gone, then if that were gone too,
	// loads being as they are. It is empty where no key decides.
	Next  []Place `json:"next,omitempty"`
	Error string  `json:"error,omitempty"`
}

// A Place is an endpoint and how to reach it.
type Place struct {
	Endpoint string `json:"endpoint"`
	Address  string `json:"address"`
	State    string `json:"state"`
}

// A KeyFact is what is known of one key.
type KeyFact struct {
	Key    string `json:"key"`    // as logs have it: the first half of Digest
	Digest string `json:"digest"` // the whole key, in hex
	Source string `json:"source,omitempty"`
	// Prefix is how many bits of the client's address count, 0 where the source is another one.
	Prefix      int       `json:"prefix,omitempty"`
	Mode        string    `json:"mode"`
	BoundTo     string    `json:"boundTo,omitempty"`
	Made        time.Time `json:"made,omitzero"`
	Ends        time.Time `json:"ends,omitzero"`
	Provisional bool      `json:"provisional,omitempty"`
}

// KeyText writes a key as logs do: the first half of its digest, in hex. The zero Key is "".
func KeyText(k affinity.Key) string {
	if k.IsZero() {
		return ""
	}
	return hex.EncodeToString(k.Digest[:8])
}

// Explain says what Pick would do with the request. It reads the store but binds nothing, takes no place and does not wait for an
// unknown target.
func (r *Router) Explain(ctx context.Context, req *Request) Explanation {
	e := Explanation{Service: req.Service.String(), Tag: req.Tag, Steps: []string{}}
	p := &Pick{r: r, req: *req}
	if p.req.Policy == nil {
		p.req.Policy = &noAffinity
		e.step("the route has no affinity policy: every request is placed by the split alone")
	}
	p.decide = affinity.Request{Now: time.Now(), Loads: r.o.Endpoints, Tag: req.Tag, Random: rand.Uint64()}
	attempts := r.o.Keys.Explain(p.req.Policy, req.Service, req.Tag, req.Message).Attempts
	for _, a := range attempts {
		e.step(a.String())
	}
	if err := p.identify(); err != nil {
		e.Error = err.Error()
		return e
	}
	p.recall(ctx)
	e.Session = p.fact(p.decide.Session, &p.session, p.decide.SessionMemory)
	e.Flow = p.fact(p.decide.Flow, &p.flow, p.decide.FlowMemory)
	e.Session.origin(p, affinity.KindSession, attempts)
	e.Flow.origin(p, affinity.KindFlow, attempts)
	e.memory("session", e.Session)
	e.memory("flow", e.Flow)
	if p.decide.Session.IsZero() {
		e.step("it has no session that would hold it at one endpoint: this is one of those where it may go")
	}
	if p.decide.Degraded {
		e.step("the store is away: what is not known here is placed by plain rendezvous hashing")
	}
	e.decide(r, p)
	return e
}

func (e *Explanation) step(text string) { e.Steps = append(e.Steps, text) }

func (p *Pick) fact(k affinity.Key, h *held, m affinity.Memory) *KeyFact {
	if k.IsZero() {
		return nil
	}
	return &KeyFact{
		Key: KeyText(k), Digest: hex.EncodeToString(k.Digest[:]),
		BoundTo: m.Target.String(), Made: m.Made, Ends: h.ends, Provisional: m.Provisional,
	}
}

// origin says what a key was made of, and how it sticks. A nil fact stays none.
func (f *KeyFact) origin(p *Pick, kind affinity.Kind, attempts []affinity.Attempt) {
	if f == nil {
		return
	}
	if kind == affinity.KindSession {
		f.Mode = string(p.req.Policy.Session.Mode)
	} else {
		f.Mode = string(p.req.Policy.Revision.Mode)
	}
	for _, a := range attempts {
		if a.Kind != kind || !a.Found {
			continue
		}
		f.Source = a.Source.String()
		if prefix := a.Source.ClientAddress; prefix != nil && p.r.o.Keys.Trust.Client(p.req.Message).Is4() {
			f.Prefix = prefix.IPv4Prefix
		} else if prefix != nil {
			f.Prefix = prefix.IPv6Prefix
		}
	}
}

func (e *Explanation) memory(kind string, f *KeyFact) {
	switch {
	case f == nil:
	case f.BoundTo == "":
		e.step(kind + " " + f.Key + " is not bound")
	default:
		e.step(kind + " " + f.Key + " is bound to " + f.BoundTo + " since " + f.Made.UTC().Format(time.RFC3339Nano))
	}
}

// decide goes through the rounds of a decision without remembering anything.
func (e *Explanation) decide(r *Router, p *Pick) {
	snap := r.o.Endpoints.Snapshot(p.req.Service)
	if snap == nil {
		e.Error = ErrUnknownService.Error()
		return
	}
	e.validity(snap, "session", p.decide.SessionMemory.Target)
	e.validity(snap, "flow", p.decide.FlowMemory.Target)
	first, asked := true, affinity.ReasonNone
	for {
		d, err := affinity.Decide(p.req.Policy, snap, p.decide)
		if err != nil {
			e.Error = err.Error()
			return
		}
		switch {
		case !d.WaitUntil.IsZero():
			e.step("the bound target is unknown here: a request would wait for it until " + d.WaitUntil.UTC().Format(time.RFC3339Nano))
			p.decide.Settled = true
			continue
		}
		if first {
			first, asked = false, d.Reason
		}
		switch {
		case d.Bind == affinity.BindFlow:
			e.step("would bind the flow to revision " + d.Target.Revision + ": " + d.Reason.String())
			p.decide.FlowMemory = affinity.Memory{Target: affinity.Target{Revision: d.Target.Revision}, Made: p.decide.Now}
			continue
		case d.Bind == affinity.BindSession:
			e.step("would bind the session to " + d.Target.String())
		}
		if d.Endpoint != nil {
			d.Target.Endpoint = d.Endpoint.Name
		}
		d.Reason = asked
		e.outcome(e.room(snap, p, d))
		e.next(snap, p)
		return
	}
}

// validity says how the remembered target stands in the snapshot.
func (e *Explanation) validity(snap *affinity.Snapshot, kind string, t affinity.Target) {
	if t.IsZero() {
		return
	}
	rev := snap.Revision(t.Revision)
	switch {
	case rev == nil:
		e.step("the " + kind + "'s revision " + t.Revision + " is not known here")
		return
	case rev.State != affinity.RevisionActive || rev.Weight == 0:
		e.step("the " + kind + "'s revision " + t.Revision + " is " + rev.State.String() + " with weight 0 or out of traffic")
	default:
		e.step("the " + kind + "'s revision " + t.Revision + " is valid")
	}
	if t.Endpoint == "" || rev.Pool == nil {
		return
	}
	if ep := rev.Pool.Endpoint(t.Endpoint); ep != nil {
		e.step("endpoint " + ep.Name + " at " + ep.Address + " is " + ep.State.String())
	} else {
		e.step("endpoint " + t.Endpoint + " is not known here")
	}
}

func (e *Explanation) outcome(d affinity.Decision) {
	e.Revision, e.Endpoint, e.Reason = d.Target.Revision, d.Target.Endpoint, d.Reason.String()
	switch {
	case e.Error != "":
		return
	case d.Endpoint == nil:
		e.Error = affinity.ErrNoEndpoint.Error()
		return
	}
	e.Address, e.State = d.Endpoint.Address, d.Endpoint.State.String()
	e.step("goes to " + d.Target.String() + ": " + e.Reason)
}

// room says what becomes of the decision if its endpoint is at its limit, as enter does.
func (e *Explanation) room(snap *affinity.Snapshot, p *Pick, d affinity.Decision) affinity.Decision {
	if d.Endpoint == nil || p.hasRoom(d.Endpoint) {
		return d
	}
	full := "endpoint " + d.Endpoint.Name + " is at its limit of " + strconv.Itoa(d.Endpoint.Limit) + ": "
	overflow, wait := p.overflow()
	switch overflow {
	case affinity.OverflowReject:
		e.step(full + "it would be refused")
		e.Error = endpoint.ErrBusy.Error()
		d.Endpoint = nil
	case affinity.OverflowSpill:
		e.step(full + "it would go elsewhere this once")
		return e.spill(snap, p, d)
	default:
		e.step(full + "it would wait up to " + wait.String() + " for a place there")
	}
	return d
}

// hasRoom reports whether the endpoint is below its limit.
func (p *Pick) hasRoom(e *affinity.Endpoint) bool {
	return e.Limit == 0 || p.r.o.Endpoints.Load(e).InFlight < int64(e.Limit)
}

// spill decides where a request goes whose own endpoint is full.
func (e *Explanation) spill(snap *affinity.Snapshot, p *Pick, d affinity.Decision) affinity.Decision {
	once := p.elsewhere(d)
	for {
		once.Avoid = append(once.Avoid, d.Target.Endpoint)
		other, err := affinity.Decide(p.req.Policy, snap, once)
		if err != nil || other.Endpoint == nil {
			e.Error = endpoint.ErrBusy.Error()
			d.Endpoint = nil
			return d
		}
		d = other
		d.Bind, d.Reason = affinity.BindNothing, affinity.ReasonOverflow
		if p.hasRoom(d.Endpoint) {
			return d
		}
	}
}

// maxNext bounds Next.
const maxNext = 9

// next decides again and again, each time without the endpoint that was decided before.
func (e *Explanation) next(snap *affinity.Snapshot, p *Pick) {
	if p.decide.Session.IsZero() || e.Error != "" || e.Reason == affinity.ReasonOverflow.String() {
		return
	}
	again := p.decide
	again.Settled = true
	again.SessionMemory = affinity.Memory{Target: affinity.Target{Revision: e.Revision, Endpoint: e.Endpoint}, Made: again.Now}
	for gone := e.Endpoint; gone != "" && len(e.Next) < maxNext; {
		snap = without(snap, affinity.Target{Revision: e.Revision, Endpoint: gone}, again.Now)
		d, err := affinity.Decide(p.req.Policy, snap, again)
		if err != nil || d.Endpoint == nil {
			return
		}
		e.Next = append(e.Next, Place{Endpoint: d.Endpoint.Name, Address: d.Endpoint.Address, State: d.Endpoint.State.String()})
		gone = d.Endpoint.Name
	}
}

// without returns the snapshot as it were if an endpoint were gone.
func without(s *affinity.Snapshot, t affinity.Target, now time.Time) *affinity.Snapshot {
	revisions := slices.Clone(s.Revisions)
	for i := range revisions {
		if revisions[i].Name != t.Revision || revisions[i].Pool == nil {
			continue
		}
		endpoints := slices.Clone(revisions[i].Pool.Endpoints)
		for j := range endpoints {
			if endpoints[j].Name == t.Endpoint {
				endpoints[j].State, endpoints[j].Since = affinity.EndpointGone, now
			}
		}
		revisions[i].Pool = affinity.NewPool(endpoints)
	}
	return affinity.NewSnapshot(s.Service, revisions, s.Synced)
}
