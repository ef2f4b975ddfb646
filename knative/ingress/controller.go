package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	networkingclient "knative.dev/networking/pkg/client/clientset/versioned"
	ingressreconciler "knative.dev/networking/pkg/client/injection/reconciler/networking/v1alpha1/ingress"
	"knative.dev/networking/pkg/status"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/leaderelection"
	"knative.dev/pkg/logging"
	"knative.dev/pkg/network"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// Component is the name under which the controller records events and is elected.
const Component = "limpet-knative-ingress"

// Options are what a Controller works with. Every member but Election, ActivatorAffinity and Plain is needed.
type Options struct {
	Kubernetes kubernetes.Interface
	Networking networkingclient.Interface
	Metadata   metadata.Interface
	// Namespace is the controller's own: that of its Services, of config-limpet and of its leases. KnativeNamespace has the ConfigMaps of
	// Knative Serving.
	Namespace, KnativeNamespace string
	// Service and LocalService are the Services of the external and of the local listeners.
	Service, LocalService string
	Ports                 Ports
	// Election says how the replicas elect who writes status; nil is no election, for a single replica. It needs the environment
	// variable SYSTEM_NAMESPACE.
	Election *leaderelection.ComponentConfig
	// ActivatorAffinity says that Limpet's activators run: they keep the sessions of revisions that they stay in the path of.
	ActivatorAffinity bool
	// Plain leaves affinity to the activators: no Ingress has a policy, and requests for a revision go by the activator as long as it is in
	// the path of that.
	Plain bool

	// The data plane of this replica.
	Table           *endpoint.Table
	External, Local *proxy.Gateway
	Proxy           proxy.Config // what the gateways serve by beside the routes
	Certificates    *proxy.CertificateSet
	Log             *slog.Logger
}

// A Controller programs the data plane of this replica with all Ingress objects of the class [Class], and writes their status while this
// replica is the leader. Make one with New and Run it once.
type Controller struct {
	o            Options
	watches      *watches
	settings     *settings
	certificates *certificates
	backends     *backend.Source
	programmer   *Programmer
	prober       *status.Prober
	targets      *targets
	notices      *notices
	kind         *kind
	replicas     replicas
	autoscaler   sync.Mutex // held from the look at config-autoscaler until it is taken over
	events       record.EventBroadcaster
	impl         *controller.Impl
}

// New returns a controller that does nothing until it is Run.
func New(o Options) *Controller {
	c := &Controller{o: o, watches: newWatches(o)}
	c.settings = &settings{
		knative: o.KnativeNamespace, maps: c.watches.knativeMapLister(), secrets: c.watches.knativeSecretLister(), log: o.Log,
	}
	c.certificates = &certificates{secrets: c.watches.secretLister(), set: o.Certificates, log: o.Log}
	c.backends = backend.New(backend.Options{
		Table: o.Table, Services: c.watches.services, Slices: c.watches.slices, DrainTimeout: c.settings.drainTimeout,
		SystemInternalTLS: c.settings.systemInternalTLS, Changed: c.backendChanged, Log: o.Log,
	})
	c.programmer = NewProgrammer(ProgrammerOptions{
		Table: o.Table, Backends: c.backends, External: o.External, Local: o.Local, Proxy: o.Proxy,
		Certificates: c.certificates.put, Changed: func(key types.NamespacedName) { c.impl.EnqueueKey(key) }, Log: o.Log,
	})
	c.targets = &targets{
		slices: c.watches.sliceLister(), ports: o.Ports,
		external: types.NamespacedName{Namespace: o.Namespace, Name: o.Service},
		local:    types.NamespacedName{Namespace: o.Namespace, Name: o.LocalService},
	}
	c.prober = status.NewProber(zapLogger(o.Log), c.targets, func(i *v1alpha1.Ingress) { c.impl.EnqueueKey(keyOf(i)) })
	c.makeImpl()
	return c
}

// makeImpl makes the work queue and the reconciler that it feeds.
func (c *Controller) makeImpl() {
	logger := zapLogger(c.o.Log)
	ctx := logging.WithLogger(context.Background(), logger)
	c.events = record.NewBroadcaster()
	recorder := c.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: Component})
	c.notices = &notices{
		recorder: recorder, owners: owners{c.o.Metadata, c.o.Log}, relayedWorks: c.o.ActivatorAffinity,
		known: make(map[types.NamespacedName]notice),
	}
	c.kind = &kind{
		programmer: c.programmer, settings: c.settings, certificates: c.certificates, prober: c.prober, notices: c.notices,
		plain:     c.o.Plain,
		balancers: balancers{public: c.balancer(c.o.Service), private: c.balancer(c.o.LocalService)},
	}
	lister := c.watches.ingressLister()
	made := ingressreconciler.NewReconciler(ctx, logger, c.o.Networking, lister, recorder, c.kind, Class)
	r := classed{made.(generated), lister, c.kind} // what the generator makes is always LeaderAware
	c.impl = controller.NewContext(ctx, r, controller.ControllerOptions{WorkQueueName: "ingress", Logger: logger})
}

// balancer returns how the status of an Ingress names a Service of this ingress.
func (c *Controller) balancer(service string) []v1alpha1.LoadBalancerIngressStatus {
	return []v1alpha1.LoadBalancerIngressStatus{{DomainInternal: network.GetServiceHostname(service, c.o.Namespace)}}
}

// Handler returns what serves a listener: the gateway of its visibility, behind what answers probes.
func (c *Controller) Handler(local bool) http.Handler {
	if local {
		return c.programmer.Handler(true, c.o.Local)
	}
	return c.programmer.Handler(false, c.o.External)
}

// Run programs the data plane and keeps it so until ctx ends. When everything that there is has been put in force once the table is told
// so. The informers end last.
func (c *Controller) Run(ctx context.Context) error {
	defer c.events.Shutdown()
	sink := c.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.o.Kubernetes.CoreV1().Events("")})
	defer sink.Stop()
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer c.watches.shutdown()
	defer stopFollowing()
	if err := c.follow(); err != nil {
		return err
	}
	c.watches.start(following)
	if !c.watches.wait(ctx) {
		return nil
	}
	c.begin()
	return c.work(ctx)
}

// begin programs what there is, all at once. The programmer tells the table when it is in force.
func (c *Controller) begin() {
	c.settings.setDefaults(c.watches.ownMap)
	c.settings.setNetwork(c.networkMap)
	c.settings.setAuthorities()
	c.takeAutoscaler()
	for _, i := range c.ingresses() {
		if err := c.kind.program(i); err != nil {
			c.o.Log.Warn("an Ingress cannot be served in full yet", "ingress", keyOf(i).String(), "error", err)
		}
	}
	c.programmer.Publish()
	c.o.Log.Info("programmed", "ingresses", len(c.ingresses()))
}

// work runs all parts until ctx ends or one of them fails.
func (c *Controller) work(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var parts sync.WaitGroup
	part := func(name string, run func() error) {
		parts.Go(func() {
			if err := run(); err != nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("backends", func() error { return c.backends.Run(ctx) })
	part("programmer", func() error { c.programmer.Run(ctx); return nil })
	part("prober", func() error { <-c.prober.Start(ctx.Done()); return nil })
	part("reconciler", func() error { return c.impl.RunContext(c.electing(ctx), c.impl.Concurrency) })
	parts.Wait()
	c.endProbes()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// endProbes lets nothing of the prober behind. It is called when nobody asks for probes any longer.
func (c *Controller) endProbes() {
	for _, i := range c.ingresses() {
		c.prober.CancelIngressProbing(i)
	}
}

// electing returns a context in which controllers elect a leader, if they are to.
func (c *Controller) electing(ctx context.Context) context.Context {
	ctx = logging.WithLogger(ctx, zapLogger(c.o.Log))
	if c.o.Election == nil {
		return ctx
	}
	return leaderelection.WithStandardLeaderElectorBuilder(ctx, c.o.Kubernetes, *c.o.Election)
}
