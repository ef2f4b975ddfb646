package activator

import (
	"context"
	"crypto/x509"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	netapi "knative.dev/networking/pkg/apis/networking"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/knative/todo"
)

// PeersOptions are what Peers work with. All are needed.
type PeersOptions struct {
	Slices cache.SharedIndexInformer
	// Namespace and Service name the Service of the activators, PodName this one among them.
	Namespace, Service, PodName string
	// Digester has the secret that all activators share.
	Digester *affinity.Digester
	// Roots returns the authorities of which activators have their certificates; nil is no TLS between them.
	Roots func() *x509.CertPool
}

// Peers knows the activators, and which of them counts the requests at each pod with a limit: the one that rendezvous hashing gives it
// among those that are ready, once it has asked the others how many requests they have there. An activator that counts goes on to until
// it is asked, so that no limit is exceeded because activators come. It is safe for concurrent use. Make one with NewPeers and keep Run
// running. The nil Peers is an activator that is alone.
type Peers struct {
	o         PeersOptions
	bounds    bounds
	seal      *sealer
	transport *http.Transport
	list      atomic.Pointer[[]peer] // those that are ready
	known     atomic.Pointer[[]peer] // and those that are not: they may have requests
	ledger    ledger
	away      absence
	tasks     tasks
	synced    atomic.Bool
}

// A peer is an activator.
type peer struct {
	name string // of its pod
	url  string // where it is asked: scheme, address and port
}

// Accounts of pods that nobody has sent a request to for so long are forgotten, looked for so often.
const (
	forgetAfter = 10 * time.Minute
	forgetEvery = time.Minute
)

// NewPeers returns peers that know nobody yet.
func NewPeers(o PeersOptions) *Peers { return newPeers(o, usualBounds) }

func newPeers(o PeersOptions, b bounds) *Peers {
	p := &Peers{o: o, bounds: b, seal: newSealer(o.Digester)}
	p.transport = p.newTransport()
	p.list.Store(&[]peer{})
	p.known.Store(&[]peer{})
	return p
}

// Run follows the EndpointSlices of the activators until ctx ends. It returns an error if it cannot.
func (p *Peers) Run(ctx context.Context) error {
	registration, err := p.o.Slices.AddEventHandler(todo.FollowLatest(func(object metav1.Object) {
		if s, is := object.(*discoveryv1.EndpointSlice); is && p.concerns(s) {
			p.look()
		}
	}))
	if err != nil {
		return fmt.Errorf("following the activators: %w", err)
	}
	defer func() { _ = p.o.Slices.RemoveEventHandler(registration) }() // it fails for another informer's registration only
	p.synced.Store(cache.WaitForCacheSync(ctx.Done(), registration.HasSynced))
	defer p.transport.CloseIdleConnections()
	defer p.tasks.end()
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			p.ledger.forget(now.Add(-forgetAfter))
		}
	}
}

// Synced reports whether this activator has heard of the others, without which it counts for pods at which they have requests.
func (p *Peers) Synced() bool { return p.synced.Load() }

func (p *Peers) concerns(s *discoveryv1.EndpointSlice) bool {
	return s.Namespace == p.o.Namespace && s.Labels[discoveryv1.LabelServiceName] == p.o.Service
}

// look takes over who is listed and who is ready now. It is called by one goroutine at a time.
func (p *Peers) look() {
	var list, known []peer
	for _, object := range p.o.Slices.GetStore().List() {
		s, is := object.(*discoveryv1.EndpointSlice)
		if !is || !p.concerns(s) {
			continue
		}
		for i := range s.Endpoints {
			one, usable := p.peerOf(s, &s.Endpoints[i])
			if !usable {
				continue
			}
			known = append(known, one)
			if ready := s.Endpoints[i].Conditions.Ready; ready == nil || *ready {
				list = append(list, one)
			}
		}
	}
	list, known = eachOnce(list), eachOnce(known)
	p.known.Store(&known)
	p.list.Store(&list)
}

// eachOnce sorts peers by name. One that has an address of each family is listed twice.
func eachOnce(list []peer) []peer {
	slices.SortFunc(list, func(a, b peer) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(list, func(a, b peer) bool { return a.name == b.name })
}

// peerOf returns an endpoint as a peer, and whether it can be spoken to.
func (p *Peers) peerOf(s *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) (peer, bool) {
	if len(e.Addresses) == 0 || e.TargetRef == nil {
		return peer{}, false
	}
	one := peer{name: e.TargetRef.Name}
	for _, port := range s.Ports {
		if port.Name == nil || port.Port == nil {
			continue
		}
		address := net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*port.Port)))
		switch {
		case p.o.Roots == nil && *port.Name == netapi.ServicePortNameH2C:
			one.url = "http://" + address
		case p.o.Roots != nil && *port.Name == netapi.ServicePortNameHTTPS:
			one.url = "https://" + address
		}
	}
	return one, one.url != ""
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
