package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	kubeclient "knative.dev/pkg/client/injection/kube/client"
	"knative.dev/pkg/network"
	knativetls "knative.dev/pkg/network/tls"
	"knative.dev/pkg/system"
	"knative.dev/pkg/websocket"
	serving "knative.dev/serving/pkg/activator"
	activatorhandler "knative.dev/serving/pkg/activator/handler"
	servingapi "knative.dev/serving/pkg/apis/serving"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"
	pkghttp "knative.dev/serving/pkg/http"
	"knative.dev/serving/pkg/logging"
	"knative.dev/serving/pkg/networking"
	o11yconfigmap "knative.dev/serving/pkg/observability/configmap"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/knative/activator"
	"github.com/limpet-project/limpet/knative/policy"
)

// autoscalerPort is where the autoscaler takes statistics.
const autoscalerPort = ":8080"

// followDefaults tells handlers of config-limpet, which need not exist: nil is none.
func (p *process) followDefaults(ctx context.Context, handlers ...func(*corev1.ConfigMap)) error {
	factory := informers.NewSharedInformerFactoryWithOptions(kubeclient.Get(ctx), 0, informers.WithNamespace(p.LimpetNamespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", policy.ConfigMap).String()
		}))
	informer := factory.Core().V1().ConfigMaps().Informer()
	take := func(object any) {
		cm, _ := object.(*corev1.ConfigMap)
		for _, handle := range handlers {
			handle(cm)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: take, UpdateFunc: func(_, after any) { take(after) }, DeleteFunc: func(any) { take(nil) },
	}); err != nil {
		return fmt.Errorf("following the ConfigMap %s: %w", policy.ConfigMap, err)
	}
	factory.Start(ctx.Done())
	return nil
}

// serve takes requests until sig ends or something fails, then drains.
func (p *process) serve(ctx, sig context.Context) error {
	stats := make(chan []asmetrics.StatMessage)
	sink := websocket.NewDurableSendingConnection("ws://"+network.GetServiceHostname("autoscaler", system.Namespace())+autoscalerPort, p.log,
		serving.AutoscalerConnectionOptions(p.log, p.metrics)...)
	defer sink.Shutdown()
	go serving.ReportStats(p.log, sink, stats) // it ends with the process, as does who writes to it
	reporter := activatorhandler.NewConcurrencyReporter(ctx, p.PodName, stats, p.metrics)
	go reporter.Run(ctx.Done())
	h, err := p.handler(ctx, reporter, p.health(sig, sink.Status))
	if err != nil {
		return err
	}
	if err := p.maps.Start(ctx.Done()); err != nil {
		return fmt.Errorf("following ConfigMaps: %w", err)
	}
	failed := make(chan error, 8)
	inner, stop := context.WithCancel(ctx)
	defer p.parts.Wait()
	defer stop()
	p.part(failed, "affinity", func() error { return p.node.Run(inner, nil) })
	if p.peers != nil {
		p.part(failed, "activators", func() error { return p.peers.Run(inner) })
	}
	p.part(failed, "upkeep", func() error { return p.upkeep.run(inner, sig, stats) })
	servers, err := p.listen(p.upkeep.handler(h), failed)
	if err != nil {
		return err
	}
	return p.drain(sig, servers, failed)
}

// part runs a part until it ends; that it fails ends the process.
func (p *process) part(failed chan<- error, name string, run func() error) {
	p.parts.Go(func() {
		if err := run(); err != nil {
			failed <- fmt.Errorf("%s: %w", name, err)
		}
	})
}

// handler returns what serves requests.
func (p *process) handler(ctx context.Context, reporter *activatorhandler.ConcurrencyReporter, health func() error) (http.Handler, error) {
	return activator.New(ctx, activator.Options{
		Source: p.source, Table: p.node.Table(), Router: p.node.Router(), Trust: affinity.Trust(p.config.TrustedProxies), Peers: p.peers,
		Observer: p.node.Metrics(),
		Stock:    p.stock, Transport: p.transport, Config: p.settings, Reporter: reporter, RequestLog: p.requestLog, Health: health,
		PodName: p.PodName, UsePassthroughLb: p.network.EnableMeshPodAddressability, TLS: p.certificates != nil,
		Log: p.log, Traces: p.traces, Metrics: p.metrics,
	})
}

// requestLog wraps a handler in the log that config-observability asks for.
func (p *process) requestLog(next http.Handler) (http.Handler, error) {
	log, err := pkghttp.NewRequestLogHandler(next, logging.NewSyncFileWriter(os.Stdout), "", logged, false)
	if err != nil {
		return nil, fmt.Errorf("making the log of requests: %w", err)
	}
	p.maps.Watch(o11yconfigmap.Name(), p.profile.UpdateFromConfigMap, func(cm *corev1.ConfigMap) {
		settings, err := o11yconfigmap.Parse(cm)
		if err != nil {
			p.log.Errorw("the ConfigMap "+cm.Name+" is wrong; what it was stays", zap.Error(err))
			return
		}
		template := ""
		if settings.EnableRequestLog {
			template = settings.RequestLogTemplate
		}
		if err := log.SetTemplate(template); err != nil {
			p.log.Errorw("the template of the log of requests is wrong; what it was stays", zap.Error(err))
		}
	})
	return log, nil
}

// logged returns what a template may say of a request.
func logged(r *http.Request, resp *pkghttp.RequestLogResponse) *pkghttp.RequestLogTemplateInput {
	rev := activatorhandler.RevisionFrom(r.Context())
	return &pkghttp.RequestLogTemplateInput{Request: r, Response: resp, Revision: &pkghttp.RequestLogRevision{
		Namespace: rev.Namespace, Name: rev.Name,
		Configuration: rev.Labels[servingapi.ConfigurationLabelKey], Service: rev.Labels[servingapi.ServiceLabelKey],
	}}
}

// errDraining is why an activator that ends is not ready.
var errDraining = errors.New("draining")

// errAlone is why an activator that has just begun is not ready.
var errAlone = errors.New("the other activators are not known yet")

// health returns why the activator should get no requests.
func (p *process) health(sig context.Context, autoscaler func() error) func() error {
	return func() error {
		switch {
		case sig.Err() != nil:
			return errDraining
		case p.peers != nil && !p.peers.Synced():
			return errAlone
		}
		return autoscaler()
	}
}

// listen starts the servers: those for requests, and the one for profiles.
func (p *process) listen(h http.Handler, failed chan<- error) ([]*http.Server, error) {
	at := func(port int) *http.Server { return network.NewServer(":"+strconv.Itoa(port), h) }
	servers := []*http.Server{at(networking.BackendHTTPPort), at(networking.BackendHTTP2Port), p.profile.Server}
	if p.certificates != nil {
		settings, err := knativetls.DefaultConfigFromEnv("ACTIVATOR_")
		if err != nil {
			return nil, fmt.Errorf("reading the settings of TLS from the environment: %w", err)
		}
		settings.GetCertificate = p.certificates.GetCertificate
		encrypted := at(networking.BackendHTTPSPort)
		encrypted.TLSConfig = settings
		servers = append(servers, encrypted)
	}
	for _, s := range servers {
		p.part(failed, "listening at "+s.Addr, func() error {
			if s.TLSConfig != nil {
				return unlessClosed(s.ListenAndServeTLS("", ""))
			}
			return unlessClosed(s.ListenAndServe())
		})
	}
	return servers, nil
}

func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain waits for the end, lets readiness fail until nobody sends new requests, and then ends the servers, which serve what is under way.
func (p *process) drain(sig context.Context, servers []*http.Server, failed <-chan error) (err error) {
	select {
	case <-sig.Done():
		p.log.Info("draining")
	case err = <-failed:
		p.log.Errorw("a part of the activator failed", zap.Error(err))
	}
	if err == nil {
		time.Sleep(network.DefaultDrainTimeout)
	}
	var ends sync.WaitGroup
	for _, s := range servers {
		ends.Go(func() { _ = s.Shutdown(context.Background()) }) // the pod's grace period bounds it
	}
	ends.Wait()
	return err
}
