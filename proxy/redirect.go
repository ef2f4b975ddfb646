package proxy

import "strings"

// redirect sends the client to what it asked for at https. The error says so, or why it cannot be.
func (x *exchange) redirect() error {
	host := canonicalHost(x.r.Host)
	// Nothing that a client calls its host may become another part of a URL.
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return !plain(r) && r != ':' && r != '_' }) {
		return errBadHost
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	location := "https://" + host + x.message.path
	if x.message.query != "" {
		location += "?" + x.message.query
	}
	x.w.Header().Set("Location", location)
	return errInsecure
}
