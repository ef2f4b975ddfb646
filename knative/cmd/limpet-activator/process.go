package main

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
	netconfig "knative.dev/networking/pkg/config"
	kubeclient "knative.dev/pkg/client/injection/kube/client"
	"knative.dev/pkg/client/injection/kube/informers/core/v1/service"
	"knative.dev/pkg/client/injection/kube/informers/discovery/v1/endpointslice"
	configmapinformer "knative.dev/pkg/configmap/informer"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/injection/clients/namespacedkube/informers/core/v1/configmap"
	"knative.dev/pkg/injection/clients/namespacedkube/informers/core/v1/secret"
	"knative.dev/pkg/logging"
	"knative.dev/pkg/logging/logkey"
	"knative.dev/pkg/network"
	"knative.dev/pkg/observability/metrics"
	k8sruntime "knative.dev/pkg/observability/runtime/k8s"
	"knative.dev/pkg/observability/tracing"
	"knative.dev/pkg/system"
	"knative.dev/serving/pkg/activator/certificate"
	activatorconfig "knative.dev/serving/pkg/activator/config"
	activatornet "knative.dev/serving/pkg/activator/net"
	apiconfig "knative.dev/serving/pkg/apis/config"
	"knative.dev/serving/pkg/client/injection/informers/serving/v1/revision"
	"knative.dev/serving/pkg/client/injection/informers/serving/v1/route"
	"knative.dev/serving/pkg/observability/otel"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/activator"
	"github.com/limpet-project/limpet/node"
)

// component is the name by which Serving knows the activator, in logs, metrics and its settings.
const component = "activator"

// A process is one activator.
type process struct {
	command
	config *config.Config

	log     *zap.SugaredLogger
	level   zap.AtomicLevel
	profile *k8sruntime.ProfilingServer
	metrics *metrics.MeterProvider
	traces  *tracing.TracerProvider

	network      *netconfig.Config
	certificates *certificate.CertCache // nil without TLS inside the system
	transport    http.RoundTripper
	stock        *activatornet.Throttler
	maps         *configmapinformer.InformedWatcher
	settings     *activatorconfig.Store
	node         *node.Node
	source       *activator.Source // nil if affinity is not possible here
	peers        *activator.Peers  // nil if this activator counts for itself
	upkeep       *upkeep
	parts        sync.WaitGroup
}

// observe makes logs, metrics and traces as Serving's activator has them.
func (p *process) observe(ctx context.Context) (context.Context, error) {
	settings, err := loadLogging(ctx)
	if err != nil {
		return nil, err
	}
	log, level := logging.NewLoggerFromConfig(settings, component)
	p.log, p.level = log.With(zap.String(logkey.ControllerType, component), zap.String(logkey.Pod, p.PodName)), level
	ctx = logging.WithLogger(ctx, p.log)
	p.profile = k8sruntime.NewProfilingServer(p.log.Named("pprof"))
	p.metrics, p.traces = otel.SetupObservabilityOrDie(ctx, component, p.log, p.profile)
	return ctx, nil
}

// flush sends what is observed and not sent yet.
func (p *process) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.metrics.Shutdown(ctx); err != nil {
		p.log.Errorw("sending metrics", zap.Error(err))
	}
	if err := p.traces.Shutdown(ctx); err != nil {
		p.log.Errorw("sending traces", zap.Error(err))
	}
	_ = p.log.Sync() // there is nobody left to tell
}

// start makes all parts but the servers, and runs those that follow the cluster.
func (p *process) start(ctx context.Context, informers []controller.Informer) (err error) {
	if err := startInformers(ctx, informers); err != nil {
		return err
	}
	if p.network, err = loadNetwork(ctx); err != nil {
		return err
	}
	p.transport = network.NewProxyAutoTransport(p.MaxIdleProxyConns, p.MaxIdleProxyConnsPerHost)
	if p.network.SystemInternalTLSEnabled() {
		if p.certificates, err = certificate.NewCertCache(ctx); err != nil {
			return err
		}
		p.transport = network.NewProxyAutoTLSTransport(p.MaxIdleProxyConns, p.MaxIdleProxyConnsPerHost, activator.Dial(p.certificates.TLSContext()))
	}
	activatornet.SetProbeSettings(p.ProbeTimeout, p.ProbeFrequency)
	p.stock = activatornet.NewThrottler(ctx, p.PodIP)
	go p.stock.Run(ctx, p.transport, p.network.EnableMeshPodAddressability, p.network.MeshCompatibilityMode) // it ends with the process
	p.maps = configmapinformer.NewInformedWatcher(kubeclient.Get(ctx), system.Namespace())
	p.settings = activatorconfig.NewStore(p.log)
	p.settings.WatchConfigs(p.maps)
	p.maps.Watch(logging.ConfigMapName(), logging.UpdateLevelFromConfigMap(p.log, p.level, component))
	return p.startAffinity(ctx)
}

// startAffinity makes what decides for requests with affinity.
func (p *process) startAffinity(ctx context.Context) (err error) {
	log := newLogger()
	var source *activator.Source
	p.node, err = node.New(ctx, forNode(p.config), node.Options{State: p.State, Log: log, Source: endpoint.SourceFunc(
		func(ctx context.Context, _ *endpoint.Table) error { return source.Run(ctx) },
	)})
	if err != nil {
		return err
	}
	options := activator.SourceOptions{
		Table: p.node.Table(), Routes: route.Get(ctx).Informer(), Revisions: revision.Get(ctx).Informer(),
		Services: service.Get(ctx).Informer(), Slices: endpointslice.Get(ctx).Informer(),
		SystemInternalTLS: p.certificates != nil, Log: log,
		Probing: activator.Probing{
			Transport: p.transport, UsePassthroughLb: p.network.EnableMeshPodAddressability, Timeout: p.ProbeTimeout, Frequency: p.ProbeFrequency,
		},
	}
	source = activator.NewSource(options)
	if p.network.MeshCompatibilityMode == netconfig.MeshCompatibilityModeEnabled && !p.network.EnableMeshPodAddressability {
		log.Error("affinity is off: the mesh does not let pods be addressed; expected enable-mesh-pod-addressability in config-network")
	} else {
		p.source, p.peers = source, p.newPeers(ctx, log)
	}
	p.maps.Watch(netconfig.ConfigMapName, source.HandleNetwork)
	p.maps.Watch(apiconfig.FeaturesConfigName, source.HandleFeatures)
	p.upkeep = p.newUpkeep(ctx, options, log)
	return p.followDefaults(ctx, source.HandleDefaults, p.upkeep.diagnosis.HandleDefaults)
}

// newPeers returns the activators that share a secret with this one, nil if there is none to share.
func (p *process) newPeers(ctx context.Context, log *slog.Logger) *activator.Peers {
	if p.config.Secrets.DigestFile == "" {
		log.Warn("limits of pods are counted by each activator for itself: secrets.digestFile is missing, by which activators know each other")
		return nil
	}
	o := activator.PeersOptions{
		Slices: endpointslice.Get(ctx).Informer(), Namespace: system.Namespace(), Service: p.ActivatorService, PodName: p.PodName,
		Digester: p.node.Digester(),
	}
	if p.certificates != nil {
		o.Roots = activator.Roots(secret.Get(ctx).Lister().Secrets(system.Namespace()), configmap.Get(ctx).Lister().ConfigMaps(system.Namespace()))
	}
	return activator.NewPeers(o)
}
