package ingress

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// An Object is one Ingress and what its translation needs beside it. Nothing in it is changed.
type Object struct {
	// Ingress is the object as the API server has it: the hash that answers its probes is that of this spec.
	Ingress *v1alpha1.Ingress
	// Policy is what its annotations say; nil is no affinity.
	Policy *affinity.Policy
	// Tags has the tag by host, for hosts of the Route's tags; hosts that are not in it are default traffic. nil: no Route is known.
	Tags map[string]string
	// RootCAs, in PEM, vouch for backends that are spoken to by TLS; nil is the system's.
	RootCAs []byte
	// Relayed has all requests for each revision go by the activator as long as it is in the path of that, even where a pod could be
	// reached.
	Relayed bool
}

// A Program is what Ingress objects become: what the table lists, what the gateways serve by, and who answers probes. It is plain
// data, in an order that depends on the objects only.
type Program struct {
	// Object is whose program it is; the zero value for one that [Merge] returned.
	Object types.NamespacedName
	// Services has one service per split.
	Services []endpoint.Service
	// External has the routes of the rules that are visible outside the cluster, Local those of all rules.
	External, Local []proxy.Route
	// Backends has every backend that is used and its name in the table.
	Backends map[backend.Name]endpoint.RevisionName
	// Probes has what a probe of a host is answered.
	Probes Probes
	// Certificates has the secrets by which hosts are served with TLS.
	Certificates []Certificate
}

// A Certificate is a secret by which hosts are served with TLS. Hosts are canonical, and may be wildcards.
type Certificate struct {
	Namespace, Secret string
	Hosts             []string
}

// A NotReadyError says that an Ingress cannot be put in force yet, because of a backend that it names.
type NotReadyError struct {
	Backend backend.Name
	Known   bool // it has no endpoint that could take a request; otherwise nothing is known of it
}

// Error implements error.
func (e *NotReadyError) Error() string {
	if e.Known {
		return fmt.Sprintf("no endpoint of backend %s is ready yet", e.Backend)
	}
	return fmt.Sprintf("nothing is known yet of backend %s", e.Backend)
}

// A ConflictError says that an object lost to another what both of them claim. The rest of the object is served.
type ConflictError struct {
	Object, Owner types.NamespacedName
	Host          string
	// Path and Headers are the rest of the match that was lost; both are "" for a certificate and for a probe.
	Path, Headers string
	// Probe says that both objects serve the host, and that probes of it, which tell whether an object is ready, are the owner's.
	Probe bool
}

// Error implements error.
func (e *ConflictError) Error() string {
	claim := "the certificate of host " + e.Host
	if e.Probe {
		claim = "the probe of host " + e.Host
	}
	if e.Path != "" {
		claim = "host " + e.Host + " and path " + e.Path
	}
	if e.Headers != "" {
		claim += " with headers " + e.Headers
	}
	return fmt.Sprintf("ingress %s: %s belongs to ingress %s", e.Object, claim, e.Owner)
}
