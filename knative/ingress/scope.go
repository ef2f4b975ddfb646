package ingress

import "github.com/limpet-project/limpet/affinity"

// ServiceName returns the name of the service of a Route's default traffic, or of that of a tag. It is the scope of the sessions there, so
// whoever else serves a Route shares its sessions with the ingress by it.
func ServiceName(namespace, route, tag string) affinity.ServiceName {
	return affinity.ServiceName{Namespace: namespace, Name: claim{path: "/"}.serviceName(route, tag)}
}
