package suite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
)

const patience = 2 * time.Minute

func TestAKilledContainerIsStartedAgainWithoutItsCounts(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	pod := deployCounter(t, e, 1)[0]
	address := net.JoinHostPort(pod.Status.PodIP, "8080")
	before, err := incr(t.Context(), patience, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.KillContainer(pod.Name, "counter")
	e.WaitFor(patience, "the container's new process", func(ctx context.Context) error {
		after, err := incr(ctx, patience, address, nil) // once: the second request would find a count
		if err == nil && after.instance == before.instance {
			err = errors.New("the old process answers")
		}
		if err == nil && after.count != "1" {
			t.Errorf("the new process counts %s, want 1", after.count)
		}
		return err
	})
}

func TestAFrozenContainerHoldsConnectionsAndAnswersWhenThawed(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	pod := deployCounter(t, e, 1)[0]
	address := net.JoinHostPort(pod.Status.PodIP, "8080")
	thaw := e.FreezeContainer(pod.Name, "counter")
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatalf("connecting to a frozen container: %v; the kernel accepts for it", err)
	}
	conn.Close()
	if err := silent(t.Context(), address); err != nil {
		t.Error(err)
	}
	thaw()
	e.WaitFor(patience, "the thawed container", func(ctx context.Context) error { return answers(ctx, address) })
}

func TestACutPodIsSilentUntilHealed(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	pods := deployCounter(t, e, 2)
	cut, other := net.JoinHostPort(pods[0].Status.PodIP, "8080"), net.JoinHostPort(pods[1].Status.PodIP, "8080")
	heal := e.CutPod(pods[0].Name)
	if err := silent(t.Context(), cut); err != nil {
		t.Error(err)
	}
	if _, err := incr(t.Context(), patience, other, nil); err != nil {
		t.Errorf("the pod that was not cut: %v", err)
	}
	e.WaitFor(patience, "the cut pod's loss of readiness", func(ctx context.Context) error {
		return readyEndpoints(ctx, e, 1)
	})
	heal()
	e.WaitFor(patience, "the healed pod", func(ctx context.Context) error {
		return errors.Join(answers(ctx, cut), readyEndpoints(ctx, e, 2))
	})
}

func TestAPartitionedPortIsSilentForAllAndOthersOfItsAddressAnswer(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	serve := func() string {
		l, err := net.Listen("tcp", net.JoinHostPort(e.Node(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.NotFoundHandler()}
		done := make(chan struct{})
		go func() { defer close(done); server.Serve(l) }()
		t.Cleanup(func() { server.Close(); <-done })
		return l.Addr().String()
	}
	reached := func(address string, limit time.Duration) error {
		conn, err := net.DialTimeout("tcp", address, limit)
		if err == nil {
			conn.Close()
		}
		return err
	}
	partitioned, open := serve(), serve()
	heal := e.Partition(partitioned)
	var timeout net.Error
	if err := reached(partitioned, time.Second); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("connecting to the partitioned %s: %v, want silence", partitioned, err)
	}
	if err := reached(open, patience); err != nil {
		t.Errorf("connecting to the open port: %v", err)
	}
	heal()
	if err := reached(partitioned, patience); err != nil {
		t.Errorf("connecting after the partition: %v", err)
	}
}

func TestPodsAnswerWhileTheKubeletIsStopped(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	pod := deployCounter(t, e, 1)[0]
	address := net.JoinHostPort(pod.Status.PodIP, "8080")
	start := e.StopKubelet()
	if _, err := incr(t.Context(), patience, address, nil); err != nil {
		t.Errorf("a pod without a kubelet: %v", err)
	}
	e.KillContainer(pod.Name, "counter")
	e.WaitFor(patience, "the end of a container that nobody starts again", func(ctx context.Context) error {
		if answers(ctx, address) == nil {
			return errors.New("it answers")
		}
		return nil
	})
	start()
	e.WaitFor(patience, "the kubelet to start the container again", func(ctx context.Context) error { return answers(ctx, address) })
}

func TestPodsAndServicesAnswerAfterTheAPIServerIsRestarted(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	deployCounter(t, e, 1)
	service := serviceAddress(t, e, e.Namespace, "counter")
	e.RestartAPIServer()
	// On a busy machine a pod's probes may have failed meanwhile, and it is not ready for a moment.
	e.WaitFor(patience, "the Service to answer after the restart", func(ctx context.Context) error { return answers(ctx, service) })
	e.Apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: after-the-restart}}")
}

func TestDeletedEndpointsAreMadeAnew(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	deployCounter(t, e, 2)
	e.WaitFor(patience, "two endpoints", func(ctx context.Context) error { return readyEndpoints(ctx, e, 2) })
	old, err := e.DiscoveryV1().EndpointSlices(e.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := e.DeleteEndpoints(); n != 1 {
		t.Errorf("DeleteEndpoints() = %d slices, want 1", n)
	}
	e.WaitFor(patience, "new endpoints", func(ctx context.Context) error {
		list, err := e.DiscoveryV1().EndpointSlices(e.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, s := range list.Items {
			if s.UID == old.Items[0].UID {
				return errors.New("the old slice is there")
			}
		}
		return readyEndpoints(ctx, e, 2)
	})
}

// readyEndpoints returns nil if so many endpoints of the counter's Service are ready.
func readyEndpoints(ctx context.Context, e *cluster.Env, want int) error {
	list, err := e.DiscoveryV1().EndpointSlices(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=counter"})
	if err != nil {
		return err
	}
	got := 0
	for _, s := range list.Items {
		for _, p := range s.Endpoints {
			if p.Conditions.Ready != nil && *p.Conditions.Ready {
				got++
			}
		}
	}
	if got != want {
		return fmt.Errorf("%d endpoints are ready, want %d", got, want)
	}
	return nil
}

func TestExecAndLogsReachAContainer(t *testing.T) {
	e := cluster.Start(t, cluster.Node)
	pod := deployCounter(t, e, 1)[0]
	out, err := e.Exec(t.Context(), pod.Name, "counter", "/app/counter", "-h")
	if err == nil || !strings.Contains(out, "-session-header") {
		t.Errorf("Exec(counter -h) = %q, %v, want its usage and an exit code", out, err)
	}
	e.WaitFor(patience, "the log", func(ctx context.Context) error { // which containerd writes after the container has
		text, err := e.PodLog(ctx, pod.Name, "counter")
		if err == nil && !strings.Contains(text, "listening on") {
			err = fmt.Errorf("PodLog(counter) = %q, want the line about listening", text)
		}
		return err
	})
}
