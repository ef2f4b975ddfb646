package experiment

import (
	"context"
	"errors"
	"time"

	"github.com/limpet-project/limpet/lab/testbed"
)

// A setup is how an arm is set up for one measurement.
type setup struct {
	endpoints []int
	services  int           // of Limpet: one for each run, so that no session is left from another
	reuse     bool          // clients keep their sockets
	probe     time.Duration // of Limpet: its interval, 0 is no probes
}

// A server is what serves the clients of a measurement.
type server struct {
	kubeProxy *testbed.KubeProxy
	gateway   *testbed.Gateway
}

// serve sets up an arm on the node. Stop ends it.
func (l *lab) serve(ctx context.Context, a Arm, set setup) (server, error) {
	if a.Mode != Limpet {
		k, err := l.bed.KubeProxy(ctx, a.rules(), a.timeout(), set.endpoints...)
		return server{kubeProxy: k}, err
	}
	responses := 1 // ports of fresh sockets are not used again for long
	if set.reuse {
		responses = 0
	}
	g, err := l.bed.Gateway(ctx, testbed.GatewaySettings{
		Program: l.Program, Endpoints: set.endpoints, Services: set.services, Responses: responses,

		ProbeInterval: set.probe, ProbeTimeout: probeTimeout,
	})
	return server{gateway: g}, err
}

func (s server) stop() {
	if s.gateway != nil {
		s.gateway.Stop()
	}
}

// port returns the port of the Service in a run.
func (s server) port(run int) uint16 {
	if s.gateway != nil {
		return s.gateway.Port(run)
	}
	return testbed.ServicePort
}

// sync gives the arm other endpoints. With leaveFlows kube-proxy does not clean up; Limpet has nothing to clean up.
func (s server) sync(ctx context.Context, leaveFlows bool, endpoints ...int) error {
	if s.gateway != nil {
		return s.gateway.Sync(ctx, endpoints...)
	}
	return s.kubeProxy.Sync(ctx, leaveFlows, endpoints...)
}

// ended returns an error if Limpet has ended by itself.
func (s server) ended() error {
	if s.gateway == nil {
		return nil
	}
	return s.gateway.Ended()
}

// explain adds to what went wrong that Limpet has ended, if it has.
func (s server) explain(err error) error { return errors.Join(err, s.ended()) }
