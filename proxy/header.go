package proxy

import (
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// hopByHop reports whether a header, by its canonical name, belongs to one connection (RFC 9110, 7.6.1).
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization", "Http2-Settings":
		return true
	}
	return false
}

// internal reports whether a header would be believed by Limpet or Knative and hence may not come from a client.
func internal(name string) bool {
	switch name {
	case "K-Proxy-Request", "Knative-Serving-Revision", "Knative-Serving-Namespace":
		return true
	}
	return strings.HasPrefix(name, "Limpet-")
}

// forwarding reports whether a header says who the client is.
func forwarding(name string) bool {
	return name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-")
}

// cleanTrailer takes out of a request's trailer what outgoing takes out of its header, what the route sets there, and what is no
// field. net/http checks neither the names that a client announces nor the values that follow.
func cleanTrailer(trailer http.Header, trusted bool, taken []string) {
	for name, values := range trailer {
		if hopByHop(name) || internal(name) || !trusted && forwarding(name) || slices.Contains(taken, name) ||
			!httpguts.ValidHeaderFieldName(name) ||
			slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			delete(trailer, name)
		}
	}
}

// emptyUserAgent keeps a transport from naming itself.
var emptyUserAgent = []string{""}

// outgoing returns the header for the endpoint. Values are shared with in: replace them, never change them in place.
func outgoing(in http.Header, trusted bool) http.Header {
	out := make(http.Header, len(in)+5)
	for name, values := range in {
		if hopByHop(name) || internal(name) || !trusted && forwarding(name) {
			continue
		}
		out[name] = values
	}
	dropNamed(out, in["Connection"])
	if hasToken(in["Te"], "trailers") {
		out["Te"] = []string{"trailers"}
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = emptyUserAgent
	}
	return out
}

// dropNamed removes the headers that a Connection header names.
func dropNamed(h http.Header, connection []string) {
	for _, line := range connection {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
}

// hasToken reports whether a comma-separated header contains a token, regardless of case; parameters are ignored.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			part, _, _ = strings.Cut(part, ";")
			if strings.EqualFold(textproto.TrimString(part), token) {
				return true
			}
		}
	}
	return false
}

// setForwarded says who the client is. What came from a trusted peer is continued; other peers' was removed by outgoing.
func setForwarded(h http.Header, r *http.Request, peer netip.Addr, rfc7239 bool) {
	from := "unknown"
	if peer.IsValid() {
		from = peer.String()
	}
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	h["X-Forwarded-For"] = continued(h["X-Forwarded-For"], from)
	if len(h["X-Forwarded-Proto"]) == 0 {
		h["X-Forwarded-Proto"] = []string{proto}
	}
	if len(h["X-Forwarded-Host"]) == 0 {
		h["X-Forwarded-Host"] = []string{r.Host}
	}
	if rfc7239 {
		h["Forwarded"] = continued(h["Forwarded"], forwardedElement(peer, r.Host, proto))
	}
}

// continued returns a list header of one line: what there was, and one element more.
func continued(prior []string, element string) []string {
	if len(prior) == 0 {
		return []string{element}
	}
	return []string{strings.Join(prior, ", ") + ", " + element}
}

// forwardedElement is what one proxy adds to Forwarded (RFC 7239, 4). Whatever is no plain name is quoted: a Host may
// contain the delimiters of the header, but no quote.
func forwardedElement(peer netip.Addr, host, proto string) string {
	from := "unknown"
	switch {
	case peer.Is4():
		from = peer.String()
	case peer.IsValid():
		from = `"[` + peer.String() + `]"`
	}
	if strings.ContainsFunc(host, func(r rune) bool { return !plain(r) }) {
		host = `"` + strings.ReplaceAll(host, `"`, "") + `"`
	}
	return "for=" + from + ";host=" + host + ";proto=" + proto
}

// plain reports whether r may stand in a name without quotes.
func plain(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-'
}

// secure reports whether the client's connection is TLS, or a trusted proxy says so.
func secure(r *http.Request, trusted bool) bool {
	if r.TLS != nil || !trusted {
		return r.TLS != nil
	}
	proto, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	return strings.EqualFold(textproto.TrimString(proto), "https")
}

// upgradeProtocol returns what a client asks to switch to, "" for nothing. The upgrade to HTTP/2 is not forwarded: requests inside
// it would pass the gateway unseen.
func upgradeProtocol(r *http.Request) string {
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 || !hasToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	protocol := r.Header.Get("Upgrade")
	if hasToken([]string{protocol}, "h2c") {
		return ""
	}
	return protocol
}

// headerSize is the size of a request's head as RFC 9113, 6.5.2, counts it.
func headerSize(r *http.Request) int {
	const perField = 32
	size := len(r.Method) + len(r.RequestURI) + len(r.Host) + 3*perField
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v) + perField
		}
	}
	return size
}

// copyHeader adds a response's header to the client's, except what belongs to the endpoint's connection. Values are shared.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		if !hopByHop(name) && !strings.HasPrefix(name, "Limpet-") {
			to[name] = values
		}
	}
	if connection := from["Connection"]; len(connection) > 0 {
		dropNamed(to, connection)
	}
}
