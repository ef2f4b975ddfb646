package router

import (
	"cmp"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/token"
)

// DefaultTokenCookie is the cookie of a token whose policy names neither a cookie nor a header.
const DefaultTokenCookie = "limpet"

// tokenState is what a pick knows of the request's token.
type tokenState struct {
	sent  bool        // the client sent something in the token's place
	claim token.Claim // of the session; sealed into the response if seal is set
	seal  bool
	other bool // what the client sent is the token of the default traffic, which a tag's must not replace
}

// openToken reads the client's token. One that is missing, forged, foreign, expired or of another session is as no token.
func (p *Pick) openToken() {
	value, sent := p.tokenValue()
	p.token = &tokenState{sent: sent}
	claim, err := token.Claim{}, token.ErrInvalid
	scope := affinity.Scope{Service: p.req.Service, Tag: p.req.Tag, Kind: affinity.KindSession}
	if p.token.sent && p.r.o.Tokens != nil {
		claim, err = p.r.o.Tokens.Open(value, scope, p.decide.Now)
	}
	expired := errors.Is(err, token.ErrExpired)
	named := !p.decide.Session.IsZero()
	if err != nil && !expired || named && claim.Session != p.decide.Session.Digest {
		claim, expired = token.Claim{Session: p.decide.Session.Digest}, false
		if !named {
			rand.Read(claim.Session[:]) // never fails
		}
		p.token.other = p.opensAsDefault(value)
	}
	claim.Scope = scope
	p.decide.Session = affinity.Key{Scope: scope, Digest: claim.Session}
	p.token.claim = claim
	if claim.Target.IsZero() {
		return
	}
	p.decide.SessionMemory = affinity.Memory{Target: claim.Target, Made: claim.Made, Expired: expired}
	p.token.seal = p.decide.Now.Sub(claim.Issued) >= p.session.idle/4
	if expired {
		p.token.claim.Until = time.Time{}
	}
}

// opensAsDefault reports whether a request that addresses a tag carries the token of the default traffic. A client has one place
// for both.
func (p *Pick) opensAsDefault(value string) bool {
	if p.req.Tag == "" || p.r.o.Tokens == nil {
		return false
	}
	scope := affinity.Scope{Service: p.req.Service, Kind: affinity.KindSession}
	_, err := p.r.o.Tokens.Open(value, scope, p.decide.Now)
	return err == nil
}

// tokenValue returns what the request carries in the token's place, and whether it carries anything: the first of several counts.
func (p *Pick) tokenValue() (value string, sent bool) {
	cookie, header := p.tokenPlace()
	if header != "" {
		if v := p.req.Message.Header(header); len(v) > 0 {
			return v[0], true
		}
		return "", false
	}
	for _, line := range p.req.Message.Header("Cookie") {
		for part := range strings.SplitSeq(line, ";") {
			if name, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok && name == cookie {
				return value, true
			}
		}
	}
	return "", false
}

// tokenPlace returns the name of the cookie or of the header that carries the token; one of them is "".
func (p *Pick) tokenPlace() (cookie, header string) {
	t := p.req.Policy.Session.Token
	switch {
	case t == nil || t.Cookie == "" && t.Header == "":
		return DefaultTokenCookie, ""
	case t.Header != "":
		return "", t.Header
	}
	return t.Cookie, ""
}

// sealNew notes that d has to be sealed into the response.
func (p *Pick) sealNew(d *affinity.Decision) {
	c := &p.token.claim
	c.Target, c.Made = d.Target, p.decide.Now
	if absolute := time.Duration(p.req.Policy.Session.Absolute); absolute > 0 && c.Until.IsZero() {
		c.Until = p.decide.Now.Add(absolute)
	}
	p.token.seal = !p.token.other
}

// EditsRequest reports whether EditRequest may change something. A data plane that has to copy headers for it need not if not.
func (p *Pick) EditsRequest() bool {
	if p.token == nil || !p.token.sent {
		return false
	}
	t := p.req.Policy.Session.Token
	return t == nil || !t.Forward
}

// EditRequest changes the headers that go to the endpoint: a token is stripped unless the policy forwards it.
func (p *Pick) EditRequest(h Header) {
	if !p.EditsRequest() {
		return
	}
	cookie, header := p.tokenPlace()
	if header != "" {
		h.Del(header)
		return
	}
	lines := h.Values("Cookie")
	kept := make([]string, 0, len(lines))
	for _, line := range lines {
		if line = withoutCookie(line, cookie); line != "" {
			kept = append(kept, line)
		}
	}
	h.Del("Cookie")
	for _, line := range kept {
		h.Add("Cookie", line)
	}
}

// withoutCookie returns a Cookie header's value without the pairs called name.
func withoutCookie(line, name string) string {
	var kept []string
	for part := range strings.SplitSeq(line, ";") {
		part = strings.TrimSpace(part)
		if n, _, _ := strings.Cut(part, "="); n != name && part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "; ")
}

// EditResponse changes the headers that go to the client: a token that is missing, wrong or old is sent anew.
func (p *Pick) EditResponse(h Header) {
	if p.token == nil || !p.token.seal || p.r.o.Tokens == nil {
		return
	}
	now, c := time.Now(), p.token.claim
	c.Issued, c.Expires = now, now.Add(p.session.idle+p.session.idle/4)
	value, err := p.r.o.Tokens.Seal(c, now)
	if err != nil {
		return // no key to seal with: the session is placed by its hash again, and readiness says so
	}
	p.r.sealed.add(p.req.Service, c.Target, now.Add(p.session.idle/4), p.r.o.Endpoints.Count)
	if _, header := p.tokenPlace(); header != "" {
		h.Set(header, value)
	} else {
		h.Add("Set-Cookie", p.cookie(value, c, now))
	}
	keepPrivate(h)
}

// cookie writes the Set-Cookie value (RFC 6265, 4.1).
func (p *Pick) cookie(value string, c token.Claim, now time.Time) string {
	t := p.req.Policy.Session.Token
	if t == nil {
		t = &affinity.TokenPolicy{}
	}
	name, _ := p.tokenPlace()
	var b strings.Builder
	b.WriteString(name + "=" + value + "; Path=" + cmp.Or(t.Path, "/"))
	if t.Domain != "" {
		b.WriteString("; Domain=" + t.Domain)
	}
	if !c.Until.IsZero() {
		b.WriteString("; Max-Age=" + strconv.FormatInt(int64(c.Until.Sub(now)/time.Second), 10))
	}
	b.WriteString("; HttpOnly; SameSite=" + cmp.Or(t.SameSite, "Lax"))
	if t.Secure == "always" || t.Secure != "never" && p.req.Secure || t.SameSite == "None" {
		b.WriteString("; Secure")
	}
	return b.String()
}

// keepPrivate keeps shared caches from storing a response that carries a token (RFC 9111, 5.2.2.7).
func keepPrivate(h Header) {
	var kept []string
	for _, line := range h.Values("Cache-Control") {
		for part := range strings.SplitSeq(line, ",") {
			part = strings.TrimSpace(part)
			name, _, _ := strings.Cut(strings.ToLower(part), "=")
			switch name {
			case "no-store":
				return
			case "", "public", "private", "s-maxage":
			default:
				kept = append(kept, part)
			}
		}
	}
	h.Set("Cache-Control", strings.Join(append([]string{"private"}, kept...), ", "))
}

// sealed counts the tokens sealed lately for each target: about the number of live sessions, since a live one is sealed anew every
// quarter of idle. Counts leave in steps of a sixteenth of that, so that the list stays short.
type sealed struct {
	mu      sync.Mutex
	buckets map[sealedBucket]int
}

type sealedBucket struct {
	service affinity.ServiceName
	target  affinity.Target
	end     int64 // seconds since 1970
}

// add counts one token of target until end.
func (s *sealed) add(service affinity.ServiceName, t affinity.Target, end time.Time, count func(affinity.ServiceName, affinity.Target, int)) {
	step := max(1, int64(time.Until(end)/time.Second)/16)
	b := sealedBucket{service, t, (end.Unix()/step + 1) * step}
	s.mu.Lock()
	if s.buckets == nil {
		s.buckets = make(map[sealedBucket]int)
	}
	s.buckets[b]++
	s.mu.Unlock()
	count(service, t, 1)
}

// expire takes the tokens whose time is over out of the counts.
func (s *sealed) expire(now time.Time, count func(affinity.ServiceName, affinity.Target, int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b, n := range s.buckets {
		if b.end <= now.Unix() {
			delete(s.buckets, b)
			count(b.service, b.target, -n)
		}
	}
}
