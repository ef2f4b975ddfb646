package affinity

import (
	"net/netip"
	"net/url"
	"strings"
)

// The longest ids that are taken where a policy does not say otherwise.
const (
	defaultMaxIDBytes     = 1024
	defaultMaxCookieBytes = 4096
)

// id returns the id that the source finds in the message, "" if there is none. The first of several occurrences counts, even if
// it is empty. A client's address is no string: see AddressPrefix.appendID.
func (s *Source) id(m Message) (string, *IDError) {
	switch {
	case s.Header != "":
		return headerID(m, s.Header), nil
	case s.QueryParameter != "":
		raw := queryParameter(m.Query(), s.QueryParameter)
		return s.decode(raw, strings.ContainsAny(raw, "%+"), url.QueryUnescape)
	case s.PathSegment != 0:
		raw := pathSegment(m.Path(), s.PathSegment)
		return s.decode(raw, strings.IndexByte(raw, '%') >= 0, url.PathUnescape)
	case s.Cookie != "":
		return cookie(m.Header("Cookie"), s.Cookie), nil
	}
	return "", nil
}

func (s *Source) decode(raw string, encoded bool, unescape func(string) (string, error)) (string, *IDError) {
	if !encoded {
		return raw, nil
	}
	id, err := unescape(raw)
	if err != nil {
		return "", &IDError{Source: *s, Reason: "expected percent-encoding of two hexadecimal digits"}
	}
	return id, nil
}

// limit returns how long an id of this source may be.
func (s *Source) limit(p *Policy) int {
	switch {
	case p.MaxIDBytes > 0:
		return p.MaxIDBytes
	case s.Cookie != "":
		return defaultMaxCookieBytes
	}
	return defaultMaxIDBytes
}

// headerID returns the first value of the header. Host is a header for whoever writes a policy but not for a Message.
func headerID(m Message, name string) string {
	if name == "Host" {
		return m.Host()
	}
	if values := m.Header(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// queryParameter returns the first value of the parameter as it is encoded. Only "&" separates parameters (WHATWG URL, 5.1).
func queryParameter(query, name string) string {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if key == name && strings.IndexByte(key, '+') < 0 && strings.IndexByte(key, '%') < 0 || decodesTo(key, name) {
			return value
		}
	}
	return ""
}

// decodesTo reports whether an encoded query key means that name. A key that does not decode means nothing.
func decodesTo(key, name string) bool {
	if len(key) < len(name) || !strings.ContainsAny(key, "%+") {
		return false
	}
	decoded, err := url.QueryUnescape(key)
	return err == nil && decoded == name
}

// pathSegment returns the n-th segment of the path as it is encoded, counted from 1: of "//b" the first is "" and the second "b".
// A target without a path, such as "*", has none.
func pathSegment(path string, n int) string {
	rest, rooted := strings.CutPrefix(path, "/")
	for ; rooted && n > 0; n-- {
		var segment string
		if segment, rest, rooted = strings.Cut(rest, "/"); n == 1 {
			return segment
		}
	}
	return ""
}

// cookie returns the value of the first cookie of that name, without the quotes that may enclose it, as net/http reads it. Beyond
// that every byte is taken as it is: an id only has to be the same each time.
func cookie(lines []string, name string) string {
	for _, line := range lines {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			key, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if strings.Trim(key, " \t") == name {
				return unquote(value)
			}
		}
	}
	return ""
}

func unquote(s string) string {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// appendID appends the prefix of the address as text, nothing for no address.
func (a *AddressPrefix) appendID(text []byte, client netip.Addr) []byte {
	bits := a.IPv6Prefix
	switch {
	case client.Is4() && a.IPv4Prefix == 0:
		bits = defaultIPv4Prefix
	case client.Is4():
		bits = a.IPv4Prefix
	case bits == 0:
		bits = defaultIPv6Prefix
	}
	prefix, err := client.Prefix(bits)
	if err != nil || !prefix.IsValid() {
		return text // no address: the connection has none, as that of a Unix socket
	}
	return prefix.AppendTo(text)
}
