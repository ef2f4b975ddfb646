package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// An office is where candidates work, one at a time.
type office struct {
	*testing.T
	client *fake.Clientset
	mu     sync.Mutex
	at     string // who works
	terms  []string
}

func (o *office) candidate(name string) candidate {
	return candidate{leases: o.client.CoordinationV1(), namespace: "knative-serving", name: "limpet-activator", identity: name}
}

// work works until ctx ends, and a little longer.
func (o *office) work(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		o.mu.Lock()
		if o.at != "" {
			o.Errorf("%s works while %s does, want one at a time", name, o.at)
		}
		o.at, o.terms = name, append(o.terms, name)
		o.mu.Unlock()
		<-ctx.Done()
		time.Sleep(time.Second)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.at = ""
		return nil
	}
}

// works returns who does.
func (o *office) works() string {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.at
}

// begin has a candidate run until the function that it returns is called.
func (o *office) begin(name string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.candidate(name).run(ctx, o.work(name)) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			o.Errorf("run() of %s = %v, want nil", name, err)
		}
	})
}

func TestOneActivatorWorksAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &office{T: t, client: fake.NewClientset()}
		first := o.begin("activator-1")
		time.Sleep(time.Minute)
		second := o.begin("activator-2")
		time.Sleep(time.Minute)
		if got := o.works(); got != "activator-1" {
			t.Errorf("%q works, want activator-1, which came first", got)
		}
		first()
		time.Sleep(5 * time.Second)
		if got := o.works(); got != "activator-2" {
			t.Errorf("%q works when activator-1 has resigned, want activator-2 soon", got)
		}
		second()
		if got := o.works(); got != "" {
			t.Errorf("%q works after all have stopped, want nobody", got)
		}
	})
}

func TestWhoCannotRenewStopsAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &office{T: t, client: fake.NewClientset()}
		var mu sync.Mutex
		away := false
		o.client.PrependReactor("*", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return true, nil, errors.New("the API server is away")
			}
			return false, nil, nil
		})
		set := func(is bool) {
			mu.Lock()
			defer mu.Unlock()
			away = is
		}
		stop := o.begin("activator-1")
		defer stop()
		time.Sleep(time.Minute)
		set(true)
		time.Sleep(leaseTime)
		if got := o.works(); got != "" {
			t.Errorf("%q works without its lease, want nobody", got)
		}
		set(false)
		time.Sleep(time.Minute)
		if got := o.works(); got != "activator-1" {
			t.Errorf("%q works when the API server is back, want activator-1", got)
		}
	})
}

func TestWorkThatFailsEndsTheCandidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &office{T: t, client: fake.NewClientset()}
		want := fmt.Errorf("following an informer: %w", errors.New("it has stopped"))
		err := o.candidate("activator-1").run(t.Context(), func(context.Context) error { return want })
		if !errors.Is(err, want) {
			t.Errorf("run() = %v, want %v", err, want)
		}
	})
}
