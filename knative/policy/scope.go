package policy

import (
	"net/url"

	"github.com/limpet-project/limpet/affinity"
)

// ServiceName returns the name of the service of a Route's default traffic, or of that of a tag. It is the scope of the sessions there:
// ingress and activator, which may serve one Route, share its sessions by it.
func ServiceName(namespace, route, tag string) affinity.ServiceName {
	name := affinity.ServiceName{Namespace: namespace, Name: route}
	if tag != "" {
		name.Name += "/" + url.PathEscape(tag)
	}
	return name
}
