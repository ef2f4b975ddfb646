package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	netconfig "knative.dev/networking/pkg/config"
	kubeclient "knative.dev/pkg/client/injection/kube/client"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/environment"
	"knative.dev/pkg/injection"
	"knative.dev/pkg/injection/sharedmain"
	"knative.dev/pkg/logging"
	"knative.dev/pkg/system"
	"knative.dev/pkg/version"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/node"
)

// command is the command line; every field is a flag. Those with a variable of the environment are Serving's.
type command struct {
	Config           string `help:"The configuration file: store, secrets and admin listener." placeholder:"FILE" type:"path" required:""`
	State            string `help:"Folder for secrets that this activator makes itself." placeholder:"DIR" type:"path" default:""`
	LimpetNamespace  string `help:"Where config-limpet is." default:"limpet-system"`
	ActivatorService string `help:"The Service of the activators." default:"activator-service"`

	CostsPerSecond float64 `help:"On how many pods the activator that leads writes what their end costs, in a second at most." default:"5"`

	PodName string `help:"The name of this pod." env:"POD_NAME" required:""`
	PodIP   string `name:"pod-ip" help:"The address of this pod." env:"POD_IP" required:""`

	MaxIdleProxyConns        int           `help:"Idle connections to pods." env:"MAX_IDLE_PROXY_CONNS" default:"1000"`
	MaxIdleProxyConnsPerHost int           `help:"Idle connections to one pod." env:"MAX_IDLE_PROXY_CONNS_PER_HOST" default:"100"`
	ProbeTimeout             time.Duration `help:"How long a pod may take to answer a probe." env:"PROBE_TIMEOUT" default:"300ms"`
	ProbeFrequency           time.Duration `help:"How often a pod that is not ready is probed." env:"PROBE_FREQUENCY" default:"200ms"`

	Kubeconfig   string  `help:"How to reach the API server. Default: as the service account of the pod." env:"KUBECONFIG" placeholder:"FILE"`
	Cluster      string  `help:"The context of the kubeconfig. Default: its current one."`
	Server       string  `help:"The address of the API server."`
	KubeAPIBurst int     `name:"kube-api-burst" help:"Requests to the API server at once; 0 is the client's default." env:"KUBE_API_BURST"`
	KubeAPIQPS   float64 `name:"kube-api-qps" help:"Requests to the API server per second; 0 is the client's default." env:"KUBE_API_QPS"`
}

// Bounds of what is waited for at the start.
const (
	apiTimeout  = 60 * time.Second
	syncTimeout = 2 * time.Minute
)

// run serves until sig ends, then drains.
func (c command) run(sig context.Context) error {
	loaded, err := node.Options{}.Load(c.Config)
	if err != nil {
		return err
	}
	api, err := c.restConfig()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctx, informers := injection.Default.SetupInformers(ctx, api)
	if err := awaitAPI(ctx, kubeclient.Get(ctx)); err != nil {
		return err
	}
	p := &process{command: c, config: loaded}
	if ctx, err = p.observe(ctx); err != nil {
		return err
	}
	defer p.flush()
	if err := p.start(ctx, informers); err != nil {
		return err
	}
	return p.serve(ctx, sig)
}

// restConfig says how the API server is reached.
func (c command) restConfig() (*rest.Config, error) {
	client := environment.ClientConfig{
		Cluster: c.Cluster, ServerURL: c.Server, Kubeconfig: c.Kubeconfig, Burst: c.KubeAPIBurst, QPS: c.KubeAPIQPS,
	}
	api, err := client.GetRESTConfig()
	if err != nil {
		return nil, node.UsageError{Err: fmt.Errorf("--kubeconfig: %w", err)}
	}
	return api, nil
}

// awaitAPI waits until the API server answers: a pod may start before its network does.
func awaitAPI(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := version.CheckMinimumVersion(client.Discovery())
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("asking the API server for its version: %w", err)
		}
	}
}

// errNotSynced means that an informer hears nothing.
var errNotSynced = errors.New("the informers have not synchronised in " + syncTimeout.String() +
	"; expected a role that may list and watch routes.serving.knative.dev and endpointslices.discovery.k8s.io beside what Serving's activator may")

// startInformers starts the informers and waits until they have synchronised. Without the right to list they would never.
func startInformers(ctx context.Context, informers []controller.Informer) error {
	started := make(chan error, 1)
	go func() { started <- controller.StartInformers(ctx.Done(), informers...) }() // it ends with ctx, and so with the process
	timer := time.NewTimer(syncTimeout)
	defer timer.Stop()
	select {
	case err := <-started:
		return err
	case <-timer.C:
		return errNotSynced
	}
}

// loadNetwork reads config-network, which has settings that hold for the life of the process.
func loadNetwork(ctx context.Context) (*netconfig.Config, error) {
	maps := kubeclient.Get(ctx).CoreV1().ConfigMaps(system.Namespace())
	cm, err := maps.Get(ctx, netconfig.ConfigMapName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the ConfigMap %s: %w", netconfig.ConfigMapName, err)
	}
	return netconfig.NewConfigFromConfigMap(cm)
}

// forNode returns the configuration as a node of this process needs it: requests come by Serving's servers, and when they have ended there
// is nothing to wait for.
func forNode(c *config.Config) *config.Config {
	own := *c
	own.Listeners = nil
	own.Shutdown.Delay = 0
	return &own
}

// newLogger returns the logger of Limpet's parts. Serving's have their own, which config-logging sets.
func newLogger() *slog.Logger { return slog.New(slog.NewJSONHandler(os.Stderr, nil)) }

// loadLogging reads config-logging.
func loadLogging(ctx context.Context) (*logging.Config, error) {
	c, err := sharedmain.GetLoggingConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the settings of logs: %w", err)
	}
	return c, nil
}
