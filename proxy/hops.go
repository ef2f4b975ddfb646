package proxy

import (
	"net/http"
	"strconv"
)

// maxHops is how many gateways a request may pass. Gateways in front of gateways, and hosts that stand for others, make chains of two
// or three; a loop holds one connection for each pass.
const maxHops = 8

// hopValues are what a request is forwarded with that came with so many hops. They are shared by all requests: nobody changes them.
//
// Via (RFC 9110, 7.6.3) could say the same. But every proxy adds to it, so that its length says nothing of a loop; to find oneself in it
// needs a name that all replicas share and others do not; and proxies may remove it or join its parts. This header is nobody else's, is
// read at once, and costs no memory.
var hopValues = func() (values [maxHops][]string) {
	for n := range values {
		values[n] = []string{strconv.Itoa(n + 1)}
	}
	return values
}()

// hops returns how many gateways a request has passed, maxHops for any higher number. A client that makes one up ends its own request at
// most; what is no number counts as none. Of several lines the highest counts.
func hops(h http.Header) int {
	most := 0
	for _, v := range h[headerHops] {
		n, _ := strconv.ParseUint(v, 10, 8) // 0 for what is no number, the highest for what is too high
		most = max(most, int(n))
	}
	return min(most, maxHops)
}
