package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/klog/v2"
	"knative.dev/pkg/leaderelection"
	"knative.dev/pkg/system"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/ingress"
	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/proxy"
)

// command is the command line; every field is a flag.
type command struct {
	Config    string `help:"The configuration file." placeholder:"FILE" type:"path" required:""`
	State     string `help:"Folder for secrets that this gateway makes itself." placeholder:"DIR" type:"path" default:""`
	LogLevel  string `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat string `help:"text or json." enum:"text,json" default:"json"`

	Kubeconfig string  `help:"How to reach the API server. Default: as the service account of the pod." placeholder:"FILE" type:"path" default:""`
	KubeQPS    float32 `name:"kube-qps" help:"Requests to the API server per second, on average." default:"100"`
	KubeBurst  int     `help:"Requests to the API server at once." default:"200"`

	Namespace        string `help:"Where the ingress' Services, leases and config-limpet are." default:"limpet-system" env:"SYSTEM_NAMESPACE"`
	KnativeNamespace string `help:"The namespace of Knative Serving." default:"knative-serving"`
	IngressService   string `help:"The Service of the external listeners." default:"limpet"`
	LocalService     string `help:"The Service of the local listeners." default:"limpet-local"`

	Affinity          string `help:"on, or off to leave it to Limpet's activators: requests go by them, as with any ingress." enum:"on,off" default:"on"`
	ActivatorAffinity bool   `help:"Limpet's activators run: they keep sessions of revisions that they stay in the path of."`

	LeaderElection bool          `help:"Elect a replica that writes status. Without it there must be one replica." default:"true" negatable:""`
	LeaderBuckets  uint32        `help:"Parts of the Ingress objects that have a leader each." default:"1"`
	LeaseDuration  time.Duration `help:"How long a leader that is not heard of stays one." default:"15s"`
	RenewDeadline  time.Duration `help:"How long a leader tries to be heard before it gives up." default:"10s"`
	RetryPeriod    time.Duration `help:"How often the lease is looked at." default:"2s"`
}

// run serves until ctx ends, then drains.
func (c command) run(ctx context.Context) error {
	log := c.logger()
	klog.SetSlogLogger(log)
	clients, err := c.clients()
	if err != nil {
		return err
	}
	var program *ingress.Controller
	certificates := &proxy.CertificateSet{Strict: true}
	options := node.Options{
		State: c.State, Log: log,
		Source:       endpoint.SourceFunc(func(ctx context.Context, _ *endpoint.Table) error { return program.Run(ctx) }),
		Handler:      func(l *config.Listener) http.Handler { return program.Handler(strings.HasPrefix(l.Name, "local")) },
		Certificates: func(*config.Listener) proxy.CertificateSource { return certificates },
	}
	loaded, err := options.Load(c.Config)
	if err != nil {
		return err
	}
	ports, err := portsOf(loaded)
	if err != nil {
		return err
	}
	n, err := node.New(ctx, loaded, options)
	if err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	program = ingress.New(ingress.Options{
		Kubernetes: clients.kubernetes, Networking: clients.networking, Metadata: clients.metadata,
		Namespace: c.Namespace, KnativeNamespace: c.KnativeNamespace, Service: c.IngressService, LocalService: c.LocalService,
		Ports: ports, Election: c.election(), ActivatorAffinity: c.ActivatorAffinity, Plain: c.Affinity == "off",
		Table: n.Table(), External: n.Gateway(), Local: n.NewGateway(), Certificates: certificates,
		Proxy: proxy.Config{TrustedProxies: loaded.TrustedProxies, Debuggers: loaded.Debuggers},
		Log:   log,
	})
	program.Measure(n.Metrics().Gauge)
	return n.Run(ctx, nil)
}

// election says how a leader is elected, nil for not at all. Knative's library reads the namespace of the leases from the environment.
func (c command) election() *leaderelection.ComponentConfig {
	if !c.LeaderElection {
		return nil
	}
	_ = os.Setenv(system.NamespaceEnvKey, c.Namespace) // it fails for names that are none
	return &leaderelection.ComponentConfig{
		Component: ingress.Component, Buckets: c.LeaderBuckets,
		LeaseDuration: c.LeaseDuration, RenewDeadline: c.RenewDeadline, RetryPeriod: c.RetryPeriod,
	}
}

// portsOf finds the listeners by their names.
func portsOf(c *config.Config) (ingress.Ports, error) {
	var p ingress.Ports
	places := map[string]*string{"external": &p.External, "external-tls": &p.ExternalTLS, "local": &p.Local, "local-tls": &p.LocalTLS}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		place, ok := places[l.Name]
		switch {
		case !ok:
			return p, usagef("%s: listeners[%d].name: got %s, expected external, external-tls, local or local-tls", c.File(), i, l.Name)
		case (l.TLS != nil) != strings.HasSuffix(l.Name, "-tls"):
			return p, usagef("%s: listeners[%d].tls: expected for the listeners external-tls and local-tls, and for no other", c.File(), i)
		}
		*place = l.Address[strings.LastIndexByte(l.Address, ':')+1:]
	}
	if p.External == "" || p.Local == "" {
		return p, usagef("%s: listeners: expected one named external and one named local", c.File())
	}
	return p, nil
}

func usagef(format string, args ...any) error {
	return node.UsageError{Err: fmt.Errorf(format, args...)}
}

var errNoCluster = errors.New("--kubeconfig: expected a file, or to run in a pod")

// logger writes to the standard error: the standard output may be the access log.
func (c command) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // kong allows only levels
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}
