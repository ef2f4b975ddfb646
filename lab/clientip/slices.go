package clientip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"sigs.k8s.io/yaml"
)

// An EndpointState is what EndpointSlices say of an endpoint.
type EndpointState struct {
	Pod                         string // empty if it is no pod's
	Ready, Serving, Terminating bool
}

// String returns ready, terminating or not ready.
func (s EndpointState) String() string {
	switch {
	case s.Ready:
		return "ready"
	case s.Serving && s.Terminating:
		return "terminating, serving"
	case s.Terminating:
		return "terminating"
	}
	return "not ready"
}

// Slices are the EndpointSlices of a cluster, by ServicePort. They know more than rules do: whether a pod is ready, and its name.
type Slices map[ServicePort]map[netip.AddrPort]EndpointState

// An endpointSlice is a discovery.k8s.io/v1 EndpointSlice, or a List of them, as far as it matters.
type endpointSlice struct {
	Kind     string            `json:"kind"`
	Items    []json.RawMessage `json:"items"`
	Metadata struct {
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Ports []struct {
		Name     string `json:"name"`
		Protocol string `json:"protocol"`
		Port     uint16 `json:"port"`
	} `json:"ports"`
	Endpoints []struct {
		Addresses  []string `json:"addresses"`
		Conditions struct {
			Ready       *bool `json:"ready"`
			Serving     *bool `json:"serving"`
			Terminating bool  `json:"terminating"`
		} `json:"conditions"`
		TargetRef struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"targetRef"`
	} `json:"endpoints"`
}

// maxSlices bounds a file of EndpointSlices.
const maxSlices = 64 << 20

// ParseSlices adds what kubectl get endpointslices printed, as JSON or as YAML, one document or several.
func (s Slices) ParseSlices(source string, r io.Reader) error {
	text, err := io.ReadAll(&bounded{r, maxSlices})
	if err != nil {
		return fmt.Errorf("reading %s: %w", source, err)
	}
	found := false
	for _, document := range bytes.Split(text, []byte("\n---")) {
		raw, err := yaml.YAMLToJSON(document)
		if err != nil {
			return &SyntaxError{Source: source, Reason: clip(err.Error()) + "; expected EndpointSlices as JSON or YAML"}
		}
		if string(raw) == "null" {
			continue
		}
		if err := s.add(raw, true); err != nil {
			return &SyntaxError{Source: source, Reason: err.Error()}
		}
		found = true
	}
	if !found {
		return &SyntaxError{Source: source, Reason: "got nothing, expected EndpointSlices as JSON or YAML"}
	}
	return nil
}

// add reads one object; a list is read if it may be one.
func (s Slices) add(raw []byte, list bool) error {
	var o endpointSlice
	if err := json.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("%s; expected an EndpointSlice or a List of them", clip(err.Error()))
	}
	switch {
	case list && (o.Kind == "List" || o.Kind == "EndpointSliceList"):
		for i, item := range o.Items {
			if err := s.add(item, false); err != nil {
				return fmt.Errorf("item %d: %w", i+1, err)
			}
		}
		return nil
	case o.Kind != "EndpointSlice" && (list || o.Kind != ""): // the items of an EndpointSliceList have no kind
		return fmt.Errorf("got kind %q, expected EndpointSlice or List", clip(o.Kind))
	}
	return s.addSlice(o)
}

func (s Slices) addSlice(o endpointSlice) error {
	service := o.Metadata.Labels["kubernetes.io/service-name"]
	if service == "" {
		return nil // of no Service
	}
	if !isName(service) || !isName(o.Metadata.Namespace) {
		return fmt.Errorf("got Service %q in namespace %q, expected names", clip(service), clip(o.Metadata.Namespace))
	}
	for _, p := range o.Ports {
		port := ServicePort{o.Metadata.Namespace, service, p.Name, strings.ToLower(p.Protocol)}
		if port.Protocol == "" {
			port.Protocol = "tcp"
		}
		if s[port] == nil {
			s[port] = map[netip.AddrPort]EndpointState{}
		}
		for _, e := range o.Endpoints {
			state := EndpointState{Terminating: e.Conditions.Terminating}
			state.Ready = e.Conditions.Ready == nil || *e.Conditions.Ready // the API's default
			state.Serving = state.Ready
			if e.Conditions.Serving != nil {
				state.Serving = *e.Conditions.Serving
			}
			if e.TargetRef.Kind == "Pod" {
				state.Pod = clip(e.TargetRef.Name)
			}
			if err := s.addEndpoint(port, e.Addresses, p.Port, state); err != nil {
				return err
			}
		}
	}
	return nil
}

// addEndpoint adds an endpoint under its first address, the only one that kube-proxy uses.
func (s Slices) addEndpoint(port ServicePort, addresses []string, number uint16, state EndpointState) error {
	if len(addresses) == 0 {
		return fmt.Errorf("endpoint of %s: got no addresses, expected one", port)
	}
	a, err := netip.ParseAddr(addresses[0])
	if err != nil {
		return nil // a slice of names, which kube-proxy leaves out
	}
	at := netip.AddrPortFrom(a, number)
	if old, ok := s[port][at]; ok && old.Ready {
		return nil // while an endpoint moves between slices it is in both
	}
	s[port][at] = state
	return nil
}
