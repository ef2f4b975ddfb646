package main

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcoordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The times of an election are those that Kubernetes' own components use.
const (
	leaseTime = 15 * time.Second
	renewTime = 10 * time.Second
	retryTime = 2 * time.Second
)

// A candidate is an activator that may become the one that works for all.
type candidate struct {
	leases          typedcoordinationv1.LeasesGetter
	namespace, name string // of the Lease
	identity        string
}

// run works while this candidate leads, again and again until ctx ends or work fails. Nobody else works before this one has ended.
func (c candidate) run(ctx context.Context, work func(context.Context) error) error {
	for ctx.Err() == nil {
		if err := c.term(ctx, work); err != nil {
			return err
		}
	}
	return nil
}

// term waits for the lease, works, and gives it back when the work has ended: when ctx did, or the lease was lost.
func (c candidate) term(ctx context.Context, work func(context.Context) error) error {
	begun := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: c.name, ReleaseOnCancel: true, LeaseDuration: leaseTime, RenewDeadline: renewTime, RetryPeriod: retryTime,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: c.name}, Client: c.leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.identity},
		},
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { begun <- leading }, OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("making an election: %w", err)
	}
	holding, resign := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { elector.Run(holding); close(ended) }()
	defer func() { resign(); <-ended }()
	select {
	case leading := <-begun:
		working, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(leading, stop)()
		return work(working)
	case <-ctx.Done():
		return nil
	}
}
