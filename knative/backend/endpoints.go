package backend

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A readiness is what a slice says of an endpoint, least ready first.
type readiness uint8

const (
	notReady    readiness = iota
	terminating           // finishes what it has
	ready
)

// A statement is what slices say of one endpoint: who it is, where, and how it is.
type statement struct {
	name    string // UID of the pod; its address if it is none
	address string // host:port
	pod     *corev1.ObjectReference
	family  discoveryv1.AddressType
	state   readiness
}

// collect returns a statement for each endpoint that listens at a port of that name, sorted by the endpoints' names. An endpoint
// that is stated more than once, in two slices or in two address families, counts once.
func collect(list []*discoveryv1.EndpointSlice, port string, primary discoveryv1.AddressType) []statement {
	found := make(map[string]statement)
	for _, slice := range list {
		number, listens := slicePort(slice, port)
		if !listens || slice.AddressType == discoveryv1.AddressTypeFQDN { // a name could lead anywhere
			continue
		}
		for i := range slice.Endpoints {
			s, stated := statementOf(slice.AddressType, &slice.Endpoints[i], number)
			if !stated {
				continue
			}
			if known, twice := found[s.name]; !twice || s.before(known, primary) {
				found[s.name] = s
			}
		}
	}
	statements := make([]statement, 0, len(found))
	for _, s := range found {
		statements = append(statements, s)
	}
	slices.SortFunc(statements, func(a, b statement) int { return strings.Compare(a.name, b.name) })
	return statements
}

// slicePort returns the number of the port of that name in a slice. A port without number means any, so it is none to connect to.
func slicePort(slice *discoveryv1.EndpointSlice, name string) (string, bool) {
	for _, p := range slice.Ports {
		tcp := p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP
		if tcp && p.Port != nil && (p.Name == nil && name == "" || p.Name != nil && *p.Name == name) {
			return strconv.Itoa(int(*p.Port)), true
		}
	}
	return "", false
}

// statementOf returns what a slice states of one endpoint. Of several addresses the first counts: they are the same endpoint's.
func statementOf(family discoveryv1.AddressType, e *discoveryv1.Endpoint, port string) (statement, bool) {
	if len(e.Addresses) == 0 {
		return statement{}, false
	}
	s := statement{address: net.JoinHostPort(e.Addresses[0], port), family: family, state: stateOf(e.Conditions)}
	s.name = s.address
	if t := e.TargetRef; t != nil && t.Kind == "Pod" {
		s.pod = t
		if t.UID != "" {
			s.name = string(t.UID)
		}
	}
	return s, true
}

// stateOf returns how an endpoint is. It is ready unless the slice says otherwise. Serving is not asked for: it turns false while
// a pod that terminates goes on with its sessions.
func stateOf(c discoveryv1.EndpointConditions) readiness {
	switch {
	case c.Ready == nil || *c.Ready:
		return ready
	case c.Terminating != nil && *c.Terminating:
		return terminating
	}
	return notReady
}

// before reports whether of two statements on one endpoint s counts: the one of the preferred address family, then the readier one,
// because an endpoint that moves between slices is in the old one as it was, then the one whose address sorts first.
func (s statement) before(t statement, primary discoveryv1.AddressType) bool {
	return cmp.Or(
		cmp.Compare(familyRank(s.family, primary), familyRank(t.family, primary)),
		cmp.Compare(t.state, s.state),
		cmp.Compare(s.address, t.address),
	) < 0
}

// familyRank orders address families: that of the Service first.
func familyRank(family, primary discoveryv1.AddressType) int {
	switch family {
	case primary:
		return 0
	case discoveryv1.AddressTypeIPv4:
		return 1
	case discoveryv1.AddressTypeIPv6:
		return 2
	}
	return 3
}

// primaryFamily returns the address family that a Service prefers.
func primaryFamily(service *corev1.Service) discoveryv1.AddressType {
	if families := service.Spec.IPFamilies; len(families) > 0 && families[0] == corev1.IPv6Protocol {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}
