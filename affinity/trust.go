package affinity

import (
	"net/netip"
	"strings"
)

// Trust lists the proxies whose word on the client's address is taken: those in one of the prefixes. The nil Trust trusts none:
// the client is whoever connects. Prefixes of IPv4 are written as such, not as IPv4-mapped IPv6.
//
// If the connection comes from a trusted proxy, the forwarded addresses are read from right to left, and the first that is not a
// trusted proxy's is the client's. One that is missing, malformed, "unknown" or obfuscated (RFC 7239, 6.2 and 6.3) ends the
// search at the last address that a trusted proxy vouched for. So what a client writes into these headers never counts.
//
// X-Forwarded-For counts where a request has it, else Forwarded. Proxies that write Forwarded only must remove the
// X-Forwarded-For of their clients; those that write X-Forwarded-For need not care about Forwarded.
type Trust []netip.Prefix

// Client returns the client's address, unmapped and without a zone, the zero Addr if it is not known. It does not allocate unless
// an address is malformed.
func (t Trust) Client(m Message) netip.Addr {
	client := plainAddress(m.Peer())
	lines, last, address := m.Header("X-Forwarded-For"), lastListed, listedAddress
	if len(lines) == 0 {
		lines, last, address = m.Header("Forwarded"), lastForwarded, forwardedAddress
	}
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, element := lines[i], ""; rest != ""; {
			if rest, element = last(rest); element == "" {
				continue // an empty element is none (RFC 9110, 5.6.1.2)
			}
			if !t.trusts(client) {
				return client
			}
			next := address(element)
			if !next.IsValid() {
				return client
			}
			client = plainAddress(next)
		}
	}
	return client
}

func (t Trust) trusts(a netip.Addr) bool {
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func plainAddress(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// lastListed cuts the last element off a list that has no quoted strings.
func lastListed(list string) (rest, element string) {
	at := strings.LastIndexByte(list, ',')
	return list[:max(at, 0)], strings.Trim(list[at+1:], " \t")
}

// lastForwarded cuts the last element off a list that may have quoted strings with commas in them. It reads from the right, so
// that quotes that a client left open cannot swallow what a proxy appended.
func lastForwarded(list string) (rest, element string) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == '"' && !(quoted && escaped(list, i)):
			quoted = !quoted
		case list[i] == ',' && !quoted:
			return list[:i], strings.Trim(list[i+1:], " \t")
		}
	}
	return "", strings.Trim(list, " \t")
}

// escaped reports whether an odd number of backslashes precedes s[i].
func escaped(s string, i int) bool {
	odd := false
	for i--; i >= 0 && s[i] == '\\'; i-- {
		odd = !odd
	}
	return odd
}

// listedAddress parses an element of X-Forwarded-For: an address with or without a port.
func listedAddress(element string) netip.Addr { return parseNode(element, true) }

// forwardedAddress returns the address of an element's "for" (RFC 7239, 4), the zero Addr if there is none or more than one, or if
// the element cannot be parsed.
func forwardedAddress(element string) (node netip.Addr) {
	seen := 0
	for s := element; ; {
		name, value, after, ok := forwardedPair(s)
		if !ok {
			return netip.Addr{}
		}
		if strings.EqualFold(name, "for") {
			node = parseNode(value, false)
			seen++
		}
		s = strings.TrimLeft(after, " \t")
		switch {
		case s == "" && seen == 1:
			return node
		case s == "" || s[0] != ';':
			return netip.Addr{}
		}
		s = strings.TrimLeft(s[1:], " \t")
	}
}

// forwardedPair parses name=value, where the value is a token or a quoted string, and returns what follows it. A pair that is left
// out, as before a needless ";", has no name. The value of a quoted string is as written: no address has a backslash in it.
func forwardedPair(s string) (name, value, after string, ok bool) {
	if s == "" || s[0] == ';' {
		return "", "", s, true
	}
	name, s, ok = strings.Cut(s, "=")
	if !ok || !isToken(name) {
		return "", "", "", false
	}
	if s != "" && s[0] == '"' {
		end := closingQuote(s)
		if end < 0 {
			return "", "", "", false
		}
		return name, s[1:end], s[end+1:], true
	}
	end := strings.IndexAny(s, "\",; \t")
	if end < 0 {
		end = len(s)
	}
	return name, s[:end], s[end:], end > 0
}

// closingQuote returns where the quoted string at the beginning of s ends, -1 if it does not.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// parseNode parses an address with or without a port, the zero Addr if it is none. IPv6 is in brackets; X-Forwarded-For has it
// bare too.
func parseNode(s string, bare bool) netip.Addr {
	host, bracketed := s, false
	if inside, opened := strings.CutPrefix(s, "["); opened {
		var port string
		if host, port, bracketed = strings.Cut(inside, "]"); !bracketed || port != "" && !isPort(port) {
			return netip.Addr{}
		}
	} else if at := strings.IndexByte(s, ':'); at >= 0 && isPort(s[at:]) {
		host = s[:at]
	}
	a, err := netip.ParseAddr(host)
	if err != nil || bracketed != a.Is6() && !(bare && a.Is6()) {
		return netip.Addr{}
	}
	return a
}

// isPort reports whether s is a colon and a port, or an obfuscated one (RFC 7239, 6).
func isPort(s string) bool {
	port, ok := strings.CutPrefix(s, ":")
	if !ok || port == "" {
		return false
	}
	digits := port[0] != '_'
	for i := range len(port) {
		b := port[i]
		switch {
		case '0' <= b && b <= '9':
		case digits || !isToken(port[i:i+1]):
			return false
		}
	}
	return !digits || len(port) <= 5
}
