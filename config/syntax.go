package config

import (
	"encoding/hex"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A syntax is what a check tag names.
type syntax struct {
	ok    func(string) bool
	words string
}

// syntaxes are looked up only; nothing is added after the package is made.
var syntaxes = map[string]syntax{
	"name":        {isName, "a name of letters, digits, - . _ that begins and ends with a letter or digit, at most 253 long"},
	"address":     {isAddress, "an address such as 10.0.0.7:8080 or app.example.com:8080"},
	"listen":      {isListen, "an address such as :8080 or 127.0.0.1:8080"},
	"listenOrOff": {func(s string) bool { return s == "off" || isListen(s) }, "an address such as 127.0.0.1:9901, or off"},
	"host":        {isHost, "the name of a host such as app.example.com"},
	"hostPattern": {isHostPattern, "the name of a host such as app.example.com, *.example.com or *"},
	"path":        {isPath, "a path that begins with / and has no ?, #, %, .., // or space"},
	"requestPath": {isRequestPath, "a path that begins with / and has no # or space"},
	"header":      {isHeader, "the name of a header such as X-Tag"},
	"prefix":      {isPrefix, "at most 64 printable characters without space, { or }"},
	"hexBytes":    {isHexBytes, "1 to 1024 bytes in hexadecimal digits, with or without spaces, such as 0001 0100"},
	"url":         {isURL, "a URL such as http://localhost:4318/v1/traces"},
}

func isName(s string) bool {
	if s == "" || len(s) > 253 || !isAlphanumeric(s[0]) || !isAlphanumeric(s[len(s)-1]) {
		return false
	}
	return all(s, func(c byte) bool { return isAlphanumeric(c) || c == '-' || c == '.' || c == '_' })
}

// decodeHex returns the bytes that s has in hexadecimal digits, between which there may be spaces.
func decodeHex(s string) ([]byte, error) { return hex.DecodeString(strings.ReplaceAll(s, " ", "")) }

func isHexBytes(s string) bool {
	b, err := decodeHex(s)
	return err == nil && 0 < len(b) && len(b) <= 1024
}

func isAlphanumeric(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' }

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && isHost(host) && isPort(port, 1)
}

func isListen(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && (host == "" || isHost(host)) && isPort(port, 0)
}

func isPort(s string, least uint64) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n >= least
}

// isHost accepts IP addresses and names of labels; underscores occur in the names of containers.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isName(label) || len(label) > 63 {
			return false
		}
	}
	return true
}

func isHostPattern(s string) bool {
	return s == "*" || isHost(strings.TrimPrefix(s, "*."))
}

func isPath(s string) bool {
	if !isRequestPath(s) || strings.ContainsAny(s, "?%") || strings.Contains(s, "//") {
		return false
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

func isRequestPath(s string) bool {
	return strings.HasPrefix(s, "/") && all(s, func(c byte) bool { return c > ' ' && c < 0x7f && c != '#' })
}

// isHeader accepts the tokens of RFC 9110, 5.6.2.
func isHeader(s string) bool {
	return s != "" && len(s) <= 256 && all(s, func(c byte) bool {
		return isAlphanumeric(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
	})
}

// isPrefix leaves out braces, which would choose a hash slot of their own in a cluster.
func isPrefix(s string) bool {
	return len(s) <= 64 && all(s, func(c byte) bool { return c > ' ' && c < 0x7f && c != '{' && c != '}' })
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
