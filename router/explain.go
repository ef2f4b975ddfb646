package router

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/limpet-project/limpet/affinity"
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
	Reason   string   `json:"reason,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// A KeyFact is what is known of one key.
type KeyFact struct {
	Key         string    `json:"key"`
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
	p.decide = affinity.Request{Now: time.Now(), Loads: r.o.Endpoints, Tag: req.Tag}
	for _, a := range r.o.Keys.Explain(p.req.Policy, req.Service, req.Tag, req.Message).Attempts {
		e.step(a.String())
	}
	if err := p.identify(); err != nil {
		e.Error = err.Error()
		return e
	}
	p.recall(ctx)
	e.Session = p.fact(p.decide.Session, &p.session, p.decide.SessionMemory)
	e.Flow = p.fact(p.decide.Flow, &p.flow, p.decide.FlowMemory)
	e.memory("session", e.Session)
	e.memory("flow", e.Flow)
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
	return &KeyFact{Key: KeyText(k), BoundTo: m.Target.String(), Made: m.Made, Ends: h.ends, Provisional: m.Provisional}
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
		e.outcome(d)
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
	if d.Endpoint == nil {
		e.Error = affinity.ErrNoEndpoint.Error()
		return
	}
	e.Address = d.Endpoint.Address
	e.step("goes to " + d.Target.String() + ": " + e.Reason)
}
