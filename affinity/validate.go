package affinity

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A FieldError says which field of a policy is wrong and what was expected there.
type FieldError struct {
	Field  string // as YAML names it: "session.from[1].pathSegment"
	Reason string // begins with "expected"
}

// Error returns "field: reason".
func (e FieldError) Error() string { return e.Field + ": " + e.Reason }

// Validate returns everything that is wrong with the policy, in the order of its fields, nil if nothing is. A field that is zero
// was left out and is not wrong, so that a policy can be validated before or after [Policy.WithDefaults].
func (p *Policy) Validate() []FieldError {
	var v validation
	if p.Session != nil {
		v.session("session", p.Session)
	}
	if p.Revision != nil {
		v.revision("revision", p.Revision)
	}
	v.duration("retain", p.Retain, 0)
	v.duration("settle", p.Settle, 0)
	v.require(p.MaxIDBytes >= 0, "maxIDBytes", "expected a number above 0, got %d", p.MaxIDBytes)
	v.require(p.Quota >= 0, "quota", "expected a number above 0, got %d", p.Quota)
	return v
}

// A validation collects what is wrong.
type validation []FieldError

func (v *validation) require(ok bool, field, format string, args ...any) {
	if !ok {
		*v = append(*v, FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
}

func (v *validation) session(field string, a *SessionAffinity) {
	v.sources(field+".from", a.From)
	oneOf(v, field+".mode", a.Mode, ModeBound, ModeHash, ModeToken)
	v.duration(field+".idle", a.Idle, time.Second)
	v.duration(field+".absolute", a.Absolute, time.Second)
	oneOf(v, field+".place", a.Place, PlaceBoundedLoad, PlaceLeastLoaded)
	finite := a.LoadFactor >= 1 && !math.IsInf(a.LoadFactor, 1)
	v.require(a.LoadFactor == 0 || finite, field+".loadFactor", "expected a number of at least 1, got %v", a.LoadFactor)
	oneOf(v, field+".overflow", a.Overflow, OverflowWait, OverflowSpill, OverflowReject)
	v.duration(field+".queueTimeout", a.QueueTimeout, 0)
	if a.Token != nil {
		v.require(a.Mode == ModeToken, field+".token", "expected only with mode token")
		v.token(field+".token", a.Token)
	}
}

func (v *validation) revision(field string, a *RevisionAffinity) {
	v.sources(field+".from", a.From)
	oneOf(v, field+".mode", a.Mode, ModePinned, ModeProportional)
	v.duration(field+".idle", a.Idle, time.Second)
	v.duration(field+".absolute", a.Absolute, time.Second)
}

// duration requires zero, or at least that much.
func (v *validation) duration(field string, d Duration, least time.Duration) {
	switch {
	case d < 0:
		v.require(false, field, "expected a duration that is not negative, got %s", d)
	case d != 0:
		v.require(time.Duration(d) >= least, field, "expected at least %s, got %s", Duration(least), d)
	}
}

func oneOf[T ~string](v *validation, field string, value T, allowed ...T) {
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	last := len(names) - 1
	list := strings.Join(names[:last], ", ") + " or " + names[last]
	v.require(value == "" || slices.Contains(allowed, value), field, "expected %s, got %q", list, value)
}

func (v *validation) sources(field string, from []Source) {
	for i, s := range from {
		v.source(fmt.Sprintf("%s[%d]", field, i), s)
	}
}

func (v *validation) source(field string, s Source) {
	members := 0
	for _, given := range []bool{s.Header != "", s.QueryParameter != "", s.PathSegment != 0, s.Cookie != "", s.ClientAddress != nil} {
		if given {
			members++
		}
	}
	v.require(members == 1, field,
		"expected exactly one of header, queryParameter, pathSegment (counted from 1), cookie and clientAddress, got %d", members)
	v.name(field+".header", s.Header)
	v.name(field+".cookie", s.Cookie)
	v.require(s.PathSegment >= 0, field+".pathSegment", "expected a number of at least 1, got %d", s.PathSegment)
	if a := s.ClientAddress; a != nil {
		v.prefix(field+".clientAddress.ipv4Prefix", a.IPv4Prefix, 32)
		v.prefix(field+".clientAddress.ipv6Prefix", a.IPv6Prefix, 128)
	}
}

func (v *validation) name(field, name string) {
	v.require(name == "" || isToken(name), field, "expected a name of letters, digits and !#$%%&'*+-.^_`|~, got %q", name)
}

func (v *validation) prefix(field string, length, most int) {
	v.require(length >= 0 && length <= most, field, "expected a length in bits from 1 to %d, got %d", most, length)
}

func (v *validation) token(field string, t *TokenPolicy) {
	v.name(field+".cookie", t.Cookie)
	v.name(field+".header", t.Header)
	if t.Header != "" {
		v.require(t.Cookie == "", field, "expected either cookie or header")
		attribute := t.Path != "" || t.Domain != "" || t.SameSite != "" || t.Secure != ""
		v.require(!attribute || t.Cookie != "", field, "expected path, domain, sameSite and secure only with a cookie")
	}
	path := t.Path == "" || strings.HasPrefix(t.Path, "/") && isCookieText(t.Path)
	v.require(path, field+".path", "expected a path that begins with / and has no ; and no control character, got %q", t.Path)
	v.require(isDomain(t.Domain), field+".domain", "expected a domain name, got %q", t.Domain)
	oneOf(v, field+".sameSite", t.SameSite, SameSiteLax, SameSiteStrict, SameSiteNone)
	oneOf(v, field+".secure", t.Secure, SecureAuto, SecureAlways, SecureNever)
	insecure := t.Secure == SecureNever
	v.require(!insecure || t.SameSite != SameSiteNone, field+".secure", "expected auto or always with sameSite None")
	v.cookiePrefix(field, t)
}

// cookiePrefix checks what browsers demand of cookies with the prefixes __Secure- and __Host-, in any case (RFC 6265bis, 4.1.3).
func (v *validation) cookiePrefix(field string, t *TokenPolicy) {
	name := strings.ToLower(t.Cookie)
	host := strings.HasPrefix(name, "__host-")
	if host || strings.HasPrefix(name, "__secure-") {
		v.require(t.Secure != SecureNever, field+".secure", "expected auto or always with the cookie %s", t.Cookie)
	}
	if host {
		v.require(t.Path == "" || t.Path == "/", field+".path", "expected / with the cookie %s, got %q", t.Cookie, t.Path)
		v.require(t.Domain == "", field+".domain", "expected none with the cookie %s, got %q", t.Cookie, t.Domain)
	}
}

// isCookieText reports whether s can be the value of a cookie's attribute: printable ASCII without ";" (RFC 6265, 4.1.1).
func isCookieText(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e || s[i] == ';' {
			return false
		}
	}
	return true
}

// isDomain reports whether s is "" or a host name, with or without a leading dot (RFC 6265, 5.2.3, ignores it).
func isDomain(s string) bool {
	if s == "" {
		return true
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			b := label[i]
			if b != '-' && !('0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'z') {
				return false
			}
		}
	}
	return len(s) <= 253
}
