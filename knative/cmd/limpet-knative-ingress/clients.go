package main

import (
	"errors"
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	networkingclient "knative.dev/networking/pkg/client/clientset/versioned"

	"github.com/limpet-project/limpet/node"
)

// clients are those of the API server.
type clients struct {
	kubernetes kubernetes.Interface
	networking networkingclient.Interface
	metadata   metadata.Interface
}

func (c command) clients() (clients, error) {
	config, err := c.restConfig()
	if err != nil {
		return clients{}, err
	}
	config.QPS, config.Burst = c.KubeQPS, c.KubeBurst
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("making a client of the API server: %w", err)
	}
	networking, err := networkingclient.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("making a client of the API server: %w", err)
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("making a client of the API server: %w", err)
	}
	return clients{core, networking, objects}, nil
}

// restConfig says how the API server is reached.
func (c command) restConfig() (*rest.Config, error) {
	if c.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, node.UsageError{Err: errNoCluster}
		}
		return config, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, node.UsageError{Err: fmt.Errorf("--kubeconfig: %w", err)}
	}
	return config, nil
}
