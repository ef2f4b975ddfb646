package affinity

import "fmt"

// A Keyer finds the ids in a request and makes keys of them. It is safe for concurrent use. The Digester must be set; Trust may
// be nil.
type Keyer struct {
	Digester *Digester
	Trust    Trust
}

// Keys returns the keys of the session and the flow that the message belongs to by the policy, each zero if the policy or the
// message has none. Tag is the tag that the client addressed, "" for the default traffic. A nil policy has no keys. An error is an
// *[IDError]: the message has an id that cannot be used; it is never passed over. The keys hold on to svc and
// tag and to nothing of the message.
func (k Keyer) Keys(p *Policy, svc ServiceName, tag string, m Message) (session, flow Key, err error) {
	return k.keys(p, svc, tag, m, nil)
}

// An Attempt is one source that was tried. It does not have the id.
type Attempt struct {
	Kind   Kind
	Source Source
	Found  bool     // it yielded an id that can be used, so no later source of its kind was tried
	Err    *IDError // the id that it yielded cannot be used; nothing was tried after it
}

// String returns, for example, "session from header K-Session: none".
func (a Attempt) String() string {
	outcome := "none"
	switch {
	case a.Err != nil:
		outcome = a.Err.Reason
	case a.Found:
		outcome = "found"
	}
	return fmt.Sprintf("%s from %s: %s", a.Kind, a.Source, outcome)
}

// An Explanation says how the keys of a request came about.
type Explanation struct {
	Session, Flow Key
	Attempts      []Attempt // in the order in which they were made: the session's, then the flow's
	Err           error     // what Keys returns
}

// Explain does what Keys does and tells which sources were tried.
func (k Keyer) Explain(p *Policy, svc ServiceName, tag string, m Message) Explanation {
	var e Explanation
	e.Session, e.Flow, e.Err = k.keys(p, svc, tag, m, &e.Attempts)
	return e
}

func (k Keyer) keys(p *Policy, svc ServiceName, tag string, m Message, tried *[]Attempt) (session, flow Key, err error) {
	if p == nil {
		return Key{}, Key{}, nil
	}
	scope := Scope{Service: svc, Tag: tag}
	if p.Session != nil {
		scope.Kind = KindSession
		if session, err = k.key(p, scope, p.Session.From, m, tried); err != nil {
			return Key{}, Key{}, err
		}
	}
	if p.Revision != nil {
		scope.Kind = KindFlow
		if flow, err = k.key(p, scope, p.Revision.From, m, tried); err != nil {
			return Key{}, Key{}, err
		}
	}
	return session, flow, nil
}

// key makes a key of the first id that the sources yield.
func (k Keyer) key(p *Policy, scope Scope, from []Source, m Message, tried *[]Attempt) (Key, error) {
	for i := range from {
		key, err := k.try(p, scope, &from[i], m)
		if tried != nil {
			*tried = append(*tried, Attempt{Kind: scope.Kind, Source: from[i], Found: !key.IsZero(), Err: err})
		}
		if err != nil {
			return Key{}, err
		}
		if !key.IsZero() {
			return key, nil
		}
	}
	return Key{}, nil
}

// try makes a key of the id that one source yields, the zero Key if it yields none.
func (k Keyer) try(p *Policy, scope Scope, s *Source, m Message) (Key, *IDError) {
	if s.ClientAddress != nil {
		var room [64]byte
		return digestKey(k.Digester, scope, s.ClientAddress.appendID(room[:0], k.Trust.Client(m))), nil
	}
	id, err := s.id(m)
	if err != nil {
		return Key{}, err
	}
	if limit := s.limit(p); len(id) > limit {
		return Key{}, &IDError{Source: *s, Reason: fmt.Sprintf("longer than %d bytes", limit)}
	}
	return k.Digester.Key(scope, id), nil
}
