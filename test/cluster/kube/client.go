// Package kube talks to the API server of a test cluster: typed clients, and server-side apply of manifests of any kind.
//
// Start with [Connect].
package kube

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"
)

// A Client holds the clients of one cluster. It is safe for concurrent use.
type Client struct {
	// Config is how the API server is reached. It has no rate limit.
	Config *rest.Config
	// Clientset has the typed clients.
	kubernetes.Interface
	// Dynamic serves every kind, Knative's included.
	Dynamic dynamic.Interface

	mapper *restmapper.DeferredDiscoveryRESTMapper
}

// Connect makes clients from a kubeconfig. It does not talk to the server.
func Connect(kubeconfig string) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(typed.Discovery()))
	return &Client{Config: config, Interface: typed, Dynamic: dyn, mapper: mapper}, nil
}

// Ready returns nil if the API server says that it is.
func (c *Client) Ready(ctx context.Context) error {
	return c.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

var separator = regexp.MustCompile(`(?m)^---.*$`)

// Objects parses YAML documents.
func Objects(manifest []byte) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, doc := range separator.Split(string(manifest), -1) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return nil, fmt.Errorf("parsing a manifest: %w", err)
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
	return all, nil
}

// Apply makes the objects of a manifest what it says. Objects without a namespace go to the given one if their kind has one.
func (c *Client) Apply(ctx context.Context, namespace string, manifest []byte) error {
	objects, err := Objects(manifest)
	if err != nil {
		return err
	}
	return c.ApplyObjects(ctx, namespace, objects)
}

// ApplyObjects is Apply for objects that are parsed.
func (c *Client) ApplyObjects(ctx context.Context, namespace string, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if err := c.apply(ctx, namespace, o); err != nil {
			return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

func (c *Client) apply(ctx context.Context, namespace string, o *unstructured.Unstructured) error {
	resource, err := c.Resource(namespace, o)
	if err != nil {
		return err
	}
	return Again(func() error {
		_, err := resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "limpet", Force: true})
		return err
	})
}

// Again calls f until the API server, its store and the webhooks that it asks had time for it, for half a minute: on a busy machine they may
// have none. f is to do no harm where what it asked for was done all the same.
func Again(f func() error) error {
	busy := func(err error) bool {
		return apierrors.IsInternalError(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
			apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err)
	}
	return retry.OnError(wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 9}, busy, f)
}

// Resource returns the client of an object's kind, in the object's namespace or else the given one.
func (c *Client) Resource(namespace string, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset() // the kind may be newer than what is remembered
		mapping, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(mapping.Resource), nil
	}
	if own := o.GetNamespace(); own != "" {
		namespace = own
	}
	return c.Dynamic.Resource(mapping.Resource).Namespace(namespace), nil
}

// Until calls check until it returns nil, and returns its last error, as the reason why not, when the time is over.
func Until(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // keep the reason, not that the time is over
			last = err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("waited %v for %s: %w", limit, what, last)
			}
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
