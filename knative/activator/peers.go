package activator

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
	netapi "knative.dev/networking/pkg/apis/networking"

	"github.com/limpet-project/limpet/affinity"
)

// PeersOptions are what Peers work with. All are needed.
type PeersOptions struct {
	Slices cache.SharedIndexInformer
	// Namespace and Service name the Service of the activators, PodName this one among them.
	Namespace, Service, PodName string
	// Digester has the secret that all activators share.
	Digester *affinity.Digester
}

// Peers knows the activators and which of them counts the requests at each pod: the one that rendezvous hashing gives it among those that
// are ready. It is safe for concurrent use. Make one with NewPeers and keep Run running. The nil Peers is an activator that is alone.
type Peers struct {
	o    PeersOptions
	seal *sealer
	list atomic.Pointer[[]peer]
}

// A peer is an activator that is ready.
type peer struct {
	name       string // of its pod
	http1, h2c string // where it is spoken to by HTTP/1 and by HTTP/2
}

// NewPeers returns peers that know nobody yet.
func NewPeers(o PeersOptions) *Peers {
	p := &Peers{o: o, seal: newSealer(o.Digester)}
	p.list.Store(&[]peer{})
	return p
}

// Run follows the EndpointSlices of the activators until ctx ends. It returns an error if it cannot.
func (p *Peers) Run(ctx context.Context) error {
	registration, err := p.o.Slices.AddEventHandler(follow(func(object any, _ bool) {
		if s, is := object.(*discoveryv1.EndpointSlice); is && p.concerns(s) {
			p.look()
		}
	}))
	if err != nil {
		return fmt.Errorf("following the activators: %w", err)
	}
	defer func() { _ = p.o.Slices.RemoveEventHandler(registration) }() // it fails for another informer's registration only
	<-ctx.Done()
	return nil
}

func (p *Peers) concerns(s *discoveryv1.EndpointSlice) bool {
	return s.Namespace == p.o.Namespace && s.Labels[discoveryv1.LabelServiceName] == p.o.Service
}

// look takes over who is ready now. It is called by one goroutine at a time.
func (p *Peers) look() {
	var list []peer
	for _, object := range p.o.Slices.GetStore().List() {
		s, is := object.(*discoveryv1.EndpointSlice)
		if !is || !p.concerns(s) {
			continue
		}
		for i := range s.Endpoints {
			if one, ready := peerOf(s, &s.Endpoints[i]); ready {
				list = append(list, one)
			}
		}
	}
	slices.SortFunc(list, func(a, b peer) int { return strings.Compare(a.name, b.name) })
	list = slices.CompactFunc(list, func(a, b peer) bool { return a.name == b.name }) // an address family each
	p.list.Store(&list)
}

// peerOf returns an endpoint as a peer, and whether it can take requests.
func peerOf(s *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) (peer, bool) {
	if len(e.Addresses) == 0 || e.TargetRef == nil || e.Conditions.Ready != nil && !*e.Conditions.Ready {
		return peer{}, false
	}
	one := peer{name: e.TargetRef.Name}
	for _, port := range s.Ports {
		if port.Name == nil || port.Port == nil {
			continue
		}
		address := net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*port.Port)))
		switch *port.Name {
		case netapi.ServicePortNameHTTP1:
			one.http1 = address
		case netapi.ServicePortNameH2C:
			one.h2c = address
		}
	}
	return one, one.http1 != "" && one.h2c != ""
}

// owner returns the activator that counts the requests at a pod, passing over those that could not be reached. It is false if that is this
// one, or nobody.
func (p *Peers) owner(pod string, not []string) (peer, bool) {
	if p == nil {
		return peer{}, false
	}
	var best peer
	var most uint64
	for _, one := range *p.list.Load() {
		if slices.Contains(not, one.name) {
			continue
		}
		if s := score(one.name, pod); best.name == "" || s > most {
			best, most = one, s
		}
	}
	return best, best.name != "" && best.name != p.o.PodName
}

// all returns the activators that are ready; it changes when they do.
func (p *Peers) all() *[]peer {
	if p == nil {
		return nil
	}
	return p.list.Load()
}

// counts reports whether this activator counts the requests at a pod.
func (p *Peers) counts(pod string) bool {
	_, other := p.owner(pod, nil)
	return !other
}

// score is the weight of a pod and an activator in rendezvous hashing.
func score(activator, pod string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(activator)) // a hash.Hash never returns an error
	h.Write([]byte{0})
	h.Write([]byte(pod))
	return mix(h.Sum64())
}

// mix spreads what differs in the last bytes over all bits (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
