package policy

import (
	"fmt"
	"slices"
	"strings"
)

// reserved are headers, in lower case, of which no id comes: those of one connection (RFC 9110, 7.6.1), which a proxy between may
// drop, and those that a gateway removes or answers itself. The admission policy in deploy/ lists them too.
var reserved = []string{
	"connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
	"transfer-encoding", "upgrade",
	"k-network-hash", "k-network-probe", "k-proxy-request", "knative-serving-namespace", "knative-serving-revision",
}

// headerFault returns what was expected instead of the name of a header, "" if it is good.
func headerFault(name string) string {
	lower := strings.ToLower(name)
	switch {
	case !isToken(name) || len(name) > maxNameLength:
		return fmt.Sprintf("the name of a header, 1 to %d letters, digits and !#$%%&'*+-.^_`|~", maxNameLength)
	case slices.Contains(reserved, lower), strings.HasPrefix(lower, "limpet-"):
		return "a header that comes from clients: not one of the connection, nor one that Limpet or Knative keeps for itself"
	}
	return ""
}

// isToken reports whether s is a token of RFC 9110, 5.6.2.
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
