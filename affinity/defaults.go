package affinity

import (
	"slices"
	"strings"
	"time"
)

// The defaults of a policy. Those of single fields are documented there.
const (
	defaultSessionHeader = "K-Session"
	defaultFlowHeader    = "K-Revision"
	defaultIdle          = Duration(time.Hour)
	defaultLoadFactor    = 1.25
	defaultQueueTimeout  = Duration(10 * time.Second)
	defaultSettle        = Duration(2 * time.Second)
	defaultQuota         = 1_000_000
	defaultTokenCookie   = "limpet"
	defaultIPv4Prefix    = 32
	defaultIPv6Prefix    = 64 // what one site usually gets (RFC 6177)
)

// WithDefaults returns a copy of p that shares nothing with it, with everything filled in that was left out, and with header
// names in canonical form. Where neither session nor revision is given, both are, each by its default header; where only one is
// given, the other stays off. MaxIDBytes stays 0 if it was: its default depends on the source.
func (p Policy) WithDefaults() *Policy {
	if p.Session == nil && p.Revision == nil {
		p.Session, p.Revision = &SessionAffinity{}, &RevisionAffinity{}
	}
	if p.Session != nil {
		p.Session = p.Session.withDefaults()
	}
	if p.Revision != nil {
		p.Revision = p.Revision.withDefaults()
	}
	fill(&p.Settle, defaultSettle)
	fill(&p.Quota, defaultQuota)
	return &p
}

func (a SessionAffinity) withDefaults() *SessionAffinity {
	fill(&a.Mode, ModeBound)
	if len(a.From) == 0 && a.Mode != ModeToken {
		a.From = []Source{{Header: defaultSessionHeader}}
	}
	a.From = sourcesWithDefaults(a.From)
	fill(&a.Idle, defaultIdle)
	fill(&a.Place, PlaceBoundedLoad)
	fill(&a.LoadFactor, defaultLoadFactor)
	fill(&a.Overflow, OverflowWait)
	fill(&a.QueueTimeout, defaultQueueTimeout)
	switch {
	case a.Token != nil:
		a.Token = a.Token.withDefaults()
	case a.Mode == ModeToken:
		a.Token = TokenPolicy{}.withDefaults()
	}
	return &a
}

func (a RevisionAffinity) withDefaults() *RevisionAffinity {
	if len(a.From) == 0 {
		a.From = []Source{{Header: defaultFlowHeader}}
	}
	a.From = sourcesWithDefaults(a.From)
	fill(&a.Mode, ModePinned)
	fill(&a.Idle, defaultIdle)
	return &a
}

// withDefaults fills in the attributes of a cookie only where the token is in one.
func (t TokenPolicy) withDefaults() *TokenPolicy {
	t.Header = canonicalHeader(t.Header)
	if t.Header != "" && t.Cookie == "" {
		return &t
	}
	fill(&t.Cookie, defaultTokenCookie)
	fill(&t.Path, "/")
	fill(&t.SameSite, SameSiteLax)
	fill(&t.Secure, SecureAuto)
	return &t
}

func sourcesWithDefaults(from []Source) []Source {
	from = slices.Clone(from)
	for i := range from {
		from[i].Header = canonicalHeader(from[i].Header)
		if a := from[i].ClientAddress; a != nil {
			filled := *a
			fill(&filled.IPv4Prefix, defaultIPv4Prefix)
			fill(&filled.IPv6Prefix, defaultIPv6Prefix)
			from[i].ClientAddress = &filled
		}
	}
	return from
}

// fill sets what was left out.
func fill[T comparable](field *T, value T) {
	var left T
	if *field == left {
		*field = value
	}
}

// canonicalHeader returns the form of a header name in which messages are asked for it: that of http.CanonicalHeaderKey. A name
// that is not a token stays as it is; Validate refuses it.
func canonicalHeader(name string) string {
	if !isToken(name) {
		return name
	}
	canonical, upper := strings.Builder{}, true
	for i := range len(name) {
		b := name[i]
		switch {
		case upper && 'a' <= b && b <= 'z':
			b -= 'a' - 'A'
		case !upper && 'A' <= b && b <= 'Z':
			b += 'a' - 'A'
		}
		canonical.WriteByte(b)
		upper = b == '-'
	}
	return canonical.String()
}

// isToken reports whether s is a token: what names a header or a cookie (RFC 9110, 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		b := s[i]
		alphanumeric := '0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'z'
		if !alphanumeric && strings.IndexByte("!#$%&'*+-.^_`|~", b) < 0 {
			return false
		}
	}
	return s != ""
}
