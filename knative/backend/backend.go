// Package backend tells what the cluster says of the backends of a split: where their endpoints are, which of them only stand by,
// and how they are spoken to.
//
// A [Source] watches Services, EndpointSlices and the autoscaler's settings, and publishes the endpoints of the backends in use to
// an endpoint.Table, whole sets that are compared before: what has not changed is not published again, and a change of one pod costs
// work for one backend. Pods of a Knative revision are reached directly, named by their UIDs; the activators that stand in for
// them are endpoints that stand by. It reads the cluster only through the informers that it is given, and it chooses nothing.
//
// Start with [New], [Source.Backend] and [Source.Use].
package backend

import (
	"slices"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

// A Name names a backend of a split: a port of a Service.
type Name struct {
	Namespace string
	Service   string
	Port      string // number or name, as in the Ingress
}

// String returns "namespace/service:port".
func (n Name) String() string { return n.key() + ":" + n.Port }

// key names the Service among all.
func (n Name) key() string { return n.Namespace + "/" + n.Service }

// A Backend is what is known of a backend at one moment. It is immutable.
type Backend struct {
	// Revision is its name in the table, without namespace: that of the Service if it is the public one of a Knative revision,
	// otherwise "service:port".
	Revision string
	Protocol proxy.Protocol
	// ServerNames are the names that the certificate of an endpoint may have, any of them; nil leaves it to the host that is asked.
	ServerNames []string
	// ExternalName is the host of a Service of that type, "" for others.
	ExternalName string
	// Relayed says that all requests go by the activator, because the revision wants it so (target-burst-capacity -1).
	Relayed bool
	// Ready says that some endpoint could take a new request now, be it one that stands by.
	Ready bool
	// Members are the endpoints, sorted by name; the slice is the caller's own.
	Members []endpoint.Member
}

// alike reports whether two backends differ in their members at most.
func (b Backend) alike(c Backend) bool {
	return b.Revision == c.Revision && b.Protocol == c.Protocol && slices.Equal(b.ServerNames, c.ServerNames) &&
		b.ExternalName == c.ExternalName && b.Relayed == c.Relayed && b.Ready == c.Ready
}

// clone returns a backend that shares nothing with b.
func (b Backend) clone() Backend {
	b.ServerNames, b.Members = slices.Clone(b.ServerNames), slices.Clone(b.Members)
	return b
}

// withMembers returns the backend with those members, and whether it is ready follows from them.
func (b Backend) withMembers(members []endpoint.Member) Backend {
	b.Members = members
	b.Ready = slices.ContainsFunc(members, func(m endpoint.Member) bool { return !m.NotReady && !m.Draining })
	return b
}

// An answer is what is said of a backend: what it is, or that it does not exist.
type answer struct {
	backend Backend
	exists  bool
}

// alike reports whether two answers differ in the members at most.
func (a answer) alike(b answer) bool { return a.exists == b.exists && a.backend.alike(b.backend) }
