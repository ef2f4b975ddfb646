package clientip

import (
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"strconv"
	"strings"
)

// Prefixes of the chains that kube-proxy makes for a ServicePort; what follows is a hash.
const (
	prefixCluster  = "KUBE-SVC-" // chooses among all endpoints
	prefixLocal    = "KUBE-SVL-" // chooses among endpoints of this node
	prefixExternal = "KUBE-EXT-" // traffic from outside, on its way to one of the two
	prefixFirewall = "KUBE-FW-"  // traffic to a load balancer's address, checked for its source
	prefixEndpoint = "KUBE-SEP-" // remembers the client and translates the address
)

// Prefixes of the same in nftables, where the ServicePort follows in clear.
const (
	nftCluster  = "service-"
	nftLocal    = "local-"
	nftExternal = "external-"
	nftEndpoint = "endpoint-"
	nftAffinity = "affinity-" // a set, not a chain
)

// nftMaxName is what nftables allows for a name, less the 16 bytes that kube-proxy keeps for a prefix.
const nftMaxName = 256 - 16

// hashName returns the first letters of the SHA-256 of s in base32.
func hashName(s string, letters int) string {
	sum := sha256.Sum256([]byte(s))
	return base32.StdEncoding.EncodeToString(sum[:])[:letters]
}

// chainHash is the part that the iptables chains of a ServicePort have in common.
func (p ServicePort) chainHash() string { return hashName(p.String()+p.Protocol, 16) }

// endpointChain is the iptables chain of an endpoint, and the name of its list of clients.
func (p ServicePort) endpointChain(e netip.AddrPort) string {
	return prefixEndpoint + hashName(p.String()+p.Protocol+e.String(), 16)
}

// nftBase is the part that the nftables chains of a ServicePort have in common.
func (p ServicePort) nftBase() string {
	return nftHashed(p.Namespace + "/" + p.Name + "/" + p.Protocol + "/" + p.Port)
}

// nftEndpointBase is the part that the chain and the set of an endpoint have in common.
func (p ServicePort) nftEndpointBase(e netip.AddrPort) string {
	address := strings.ReplaceAll(e.Addr().String(), ":", ".") // a name has no colons
	port := strconv.Itoa(int(e.Port()))
	return nftHashed(p.Namespace + "/" + p.Name + "/" + p.Protocol + "/" + p.Port + "__" + address + "/" + port)
}

// nftHashed puts a hash before a name, which stays unique when it has to be cut.
func nftHashed(name string) string {
	name = hashName(name, 8) + "-" + name
	if len(name) > nftMaxName {
		name = name[:nftMaxName-3] + "..."
	}
	return name
}

// parseNFTName reads the ServicePort out of the name of a chain: HASH-namespace/name/protocol/port, and __endpoint if there is one.
func parseNFTName(base string) (ServicePort, bool) {
	_, name, ok := strings.Cut(base, "-")
	name, _, _ = strings.Cut(name, "__")
	part := strings.Split(name, "/")
	if !ok || len(part) != 4 || !isName(part[0]) || !isName(part[1]) || part[3] != "" && !isName(part[3]) || !isProtocol(part[2]) {
		return ServicePort{}, false
	}
	return ServicePort{Namespace: part[0], Name: part[1], Protocol: part[2], Port: part[3]}, true
}

func isProtocol(s string) bool { return s == "tcp" || s == "udp" || s == "sctp" }
