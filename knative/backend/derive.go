package backend

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	netapi "knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/certificates"
	"knative.dev/serving/pkg/networking"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

// objects are what the cluster says that concerns one backend.
type objects struct {
	service *corev1.Service              // nil if it does not exist
	slices  []*discoveryv1.EndpointSlice // of the Service
	private []*discoveryv1.EndpointSlice // of the private Service of the revision, if the Service is its public one
}

// rules are the settings that hold for all backends.
type rules struct {
	autoscaler  autoscaler
	internalTLS bool
	drain       func() (time.Duration, bool) // false: without deadline
}

// A memory is what is remembered of a backend between two looks at the cluster, because the cluster does not say it.
type memory struct {
	drains map[string]time.Time // when the drain of an endpoint ends that was seen to terminate, by name
	own    map[string]bool      // hosts of the revision's own pods, and such that were so and are still listed for it
}

// derive returns what follows from the objects: the backend, or that it does not exist. It brings the memory up to date.
func derive(n Name, o objects, r rules, m *memory) answer {
	if o.service == nil {
		*m = memory{}
		return answer{}
	}
	if o.service.Spec.Type == corev1.ServiceTypeExternalName {
		if !outside(o.service) {
			return answer{}
		}
		return external(n, o.service)
	}
	port, exists := findPort(o.service, n.Port)
	if !exists {
		return answer{}
	}
	if o.service.Labels[networking.ServiceTypeKey] == string(networking.ServiceTypePublic) {
		return revision(n, o, port, r, m)
	}
	members := m.members(collect(o.slices, port.Name, primaryFamily(o.service)), r)
	b := Backend{Revision: n.Service + ":" + n.Port, Protocol: portProtocol(port)}
	return answer{b.withMembers(members), true}
}

// outside reports whether an ExternalName Service may lead where it says. One that Serving keeps for a revision does not: its users may
// have changed it, and Serving takes only some of that back. An address, or this process' own host, is no name outside.
func outside(service *corev1.Service) bool {
	host := strings.ToLower(strings.TrimSuffix(service.Spec.ExternalName, "."))
	_, err := netip.ParseAddr(host)
	local := host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost")
	return service.Labels[networking.ServiceTypeKey] == "" && err != nil && !local
}

// external returns the backend of a Service that stands for a name outside: one endpoint that is always there.
func external(n Name, service *corev1.Service) answer {
	port, listed := findPort(service, n.Port)
	if !listed {
		number, err := strconv.ParseUint(n.Port, 10, 16)
		if err != nil {
			return answer{}
		}
		port.Port = int32(number)
	}
	host := service.Spec.ExternalName
	b := Backend{Revision: n.Service + ":" + n.Port, Protocol: portProtocol(port), ExternalName: host}
	if b.Protocol == proxy.ProtocolTLS {
		b.ServerNames = []string{host}
	}
	address := net.JoinHostPort(host, strconv.Itoa(int(port.Port)))
	return answer{b.withMembers([]endpoint.Member{{Name: address, Address: address}}), true}
}

// revision returns the backend of a revision's public Service: its pods, and the activators that stand in for them. With TLS inside the
// system the port that was asked for does not matter: there is one that speaks it.
func revision(n Name, o objects, port corev1.ServicePort, r rules, m *memory) answer {
	if r.internalTLS {
		encrypted, exists := findPort(o.service, netapi.ServicePortNameHTTPS)
		if !exists {
			return answer{}
		}
		port = encrypted
	}
	b := Backend{Revision: n.Service, Protocol: portProtocol(port), Relayed: r.autoscaler.relays(o.service.Annotations)}
	if b.Protocol == proxy.ProtocolTLS {
		b.ServerNames = []string{certificates.DataPlaneUserSAN(n.Namespace), certificates.DataPlaneRoutingSAN}
	}
	family := primaryFamily(o.service)
	pods := collect(o.private, port.Name, family)
	m.learn(o.private, o.slices)
	members := m.members(append(pods, m.standby(n, pods, collect(o.slices, port.Name, family))...), r)
	for i := len(pods); i < len(members); i++ {
		members[i].Standby = true
	}
	slices.SortFunc(members, func(a, b endpoint.Member) int { return strings.Compare(a.Name, b.Name) })
	return answer{b.withMembers(members), true}
}

// members returns the endpoints that the statements speak of, in their order. An endpoint that terminates keeps its deadline as long
// as it is listed, whatever is said of it meanwhile.
func (m *memory) members(statements []statement, r rules) []endpoint.Member {
	drains := make(map[string]time.Time)
	members := make([]endpoint.Member, 0, len(statements))
	for _, s := range statements {
		until, seen := m.drains[s.name]
		if s.state == terminating && !seen {
			until, seen = r.deadline(), true
		}
		if seen {
			drains[s.name] = until
		}
		e := endpoint.Member{Name: s.name, Address: s.address, NotReady: s.state == notReady}
		if s.state == terminating {
			e.Draining, e.DrainUntil = true, until
		}
		members = append(members, e)
	}
	m.drains = drains
	return members
}

// deadline returns when a drain ends that begins now; zero is never.
func (r rules) deadline() time.Time {
	if timeout, limited := r.drain(); limited {
		return time.Now().Add(timeout)
	}
	return time.Time{}
}

// learn brings up to date which hosts are the revision's own pods. Endpoints of the public Service are copied late: one that left
// may be listed there for a while, and is a pod's host until it is not listed any longer.
func (m *memory) learn(private, public []*discoveryv1.EndpointSlice) {
	own := hosts(private)
	for host := range hosts(public) {
		if m.own[host] {
			own[host] = true
		}
	}
	m.own = own
}

// hosts returns all addresses in the slices.
func hosts(list []*discoveryv1.EndpointSlice) map[string]bool {
	found := make(map[string]bool)
	for _, slice := range list {
		for i := range slice.Endpoints {
			for _, address := range slice.Endpoints[i].Addresses {
				found[address] = true
			}
		}
	}
	return found
}

// standby returns those of the public Service's endpoints that are activators.
func (m *memory) standby(n Name, pods, public []statement) []statement {
	uids := make(map[string]bool, len(pods))
	for _, s := range pods {
		uids[s.name] = true
	}
	var activators []statement
	for _, s := range public {
		host, _, _ := net.SplitHostPort(s.address)
		if uids[s.name] || m.own[host] || s.revisionPod(n.Namespace) {
			continue
		}
		if s.pod == nil || s.pod.UID == "" {
			s.name = "standby/" + s.address
		}
		activators = append(activators, s)
	}
	return activators
}

// revisionPod reports whether an endpoint of a revision's public Service is a pod of the revision even if its private Service says
// nothing of it, or not yet. Activators are in the system's namespace, and have a name of their own if the revision is there too.
func (s statement) revisionPod(namespace string) bool {
	return s.pod != nil && s.pod.Namespace == namespace && !strings.HasPrefix(s.pod.Name, "activator-")
}
