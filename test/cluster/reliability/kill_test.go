package reliability

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/limpet-project/limpet/test/cluster/activator"
)

// A killer does to activators what they cannot prepare for, and knows what may have been lost.
type killer struct {
	*driver
	victim       string // address of the one that was killed
	from, to     time.Duration
	frozen, thaw time.Duration // when another stood still

	mu     sync.Mutex
	stills []standstill
}

// A standstill is a time in which this process had no processor. On a machine that stands still as a whole nobody had one, and each activator
// takes the others for away that it waited for longer than it does.
type standstill struct{ from, to time.Duration }

// watch notes standstills until ctx ends, those that are nearly as long as the second for which activators wait for each other.
func (k *killer) watch(ctx context.Context) {
	const tick, long = 50 * time.Millisecond, 800 * time.Millisecond
	for last := k.record.clock(); ctx.Err() == nil; {
		time.Sleep(tick)
		now := k.record.clock()
		if now-last > long {
			k.mu.Lock()
			k.stills = append(k.stills, standstill{last, now})
			k.mu.Unlock()
		}
		last = now
	}
}

// kill kills one of the activators and waits until there are as many as before.
func (k *killer) kill() {
	pod := k.anyActivator()
	k.victim, k.from = pod.Status.PodIP, k.record.clock()
	await := k.end(pod)
	k.awaitSilence(pod)
	k.to = k.record.clock()
	delete(k.gateways, k.victim)
	k.record.did(event{From: k.from, To: k.to, Kind: gatewayDown, Gateway: k.victim})
	await()
	k.awaitActivators()
	k.updateGateways(k.to)
}

// still is how long an activator stands still: longer than the others wait for it, and not long enough to be taken out.
const still = 4 * time.Second

// freeze has an activator stand still, as one does that gets no processor, and go on later. Its clients wait for so long.
func (k *killer) freeze() {
	pod := k.anyActivator()
	k.frozen = k.record.clock()
	thaw := k.entrance.FreezeContainer(pod.Name, pod.Spec.Containers[0].Name)
	time.Sleep(still)
	thaw()
	k.thaw = k.record.clock()
}

// restart ends an activator in order, under load, as an upgrade or the loss of interest of its autoscaler does.
func (k *killer) restart() {
	pod, from := k.anyActivator(), k.record.clock()
	if err := k.CoreV1().Pods(pod.Namespace).Delete(k.t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		k.t.Fatal(err)
	}
	k.WaitFor(3*time.Minute, "the end of "+pod.Name, func(ctx context.Context) error {
		if _, err := k.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
	k.awaitActivators()
	k.updateGateways(from)
}

// anyActivator returns one that is not ending.
func (k *killer) anyActivator() *corev1.Pod {
	pods, err := k.entrance.Pods(k.t.Context(), k.selector)
	if err != nil || len(pods) == 0 {
		k.t.Fatalf("%d activators (%v), want some", len(pods), err)
	}
	return &pods[k.rng.IntN(len(pods))]
}

// end ends a pod as a crash or as the loss of its node does. It returns what waits for the beginning of what takes its place, where the
// Deployment may not see that soon.
func (k *killer) end(pod *corev1.Pod) (await func()) {
	if k.rng.IntN(2) == 0 {
		k.t.Logf("%6.1fs the container of %s is killed", k.from.Seconds(), pod.Name)
		k.entrance.KillContainer(pod.Name, pod.Spec.Containers[0].Name)
		return k.awaitRestart
	}
	k.t.Logf("%6.1fs %s is deleted without grace", k.from.Seconds(), pod.Name)
	at := int64(0)
	if err := k.CoreV1().Pods(pod.Namespace).Delete(k.t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &at}); err != nil {
		k.t.Fatal(err)
	}
	return func() {}
}

// awaitSilence waits until the victim takes no connection. It looks often: a container is soon started again, which it may miss all the same,
// so that one which is seen to have been started again will do.
func (k *killer) awaitSilence(pod *corev1.Pod) {
	ctx := k.t.Context()
	for end := time.Now().Add(2 * time.Minute); k.connects(ctx) == nil && !k.restarted(ctx, pod); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			k.t.Fatalf("%s, which was killed, takes connections", k.victim)
		}
	}
}

// restarted reports whether a pod's container is another one than it was.
func (k *killer) restarted(ctx context.Context, pod *corev1.Pod) bool {
	now, err := k.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	return err == nil && now.UID == pod.UID && now.Status.ContainerStatuses[0].RestartCount > pod.Status.ContainerStatuses[0].RestartCount
}

// awaitRestart waits until the victim's container takes connections again: the Deployment may not have seen its end yet.
func (k *killer) awaitRestart() {
	k.WaitFor(3*time.Minute, "the container that is started again", k.connects)
}

// awaitActivators waits until all activators are ready. The status of their Deployment may be that of before what was done, so their pods are
// looked at too.
func (d *driver) awaitActivators() {
	d.WaitFor(3*time.Minute, "all activators", func(ctx context.Context) error {
		if err := d.Available(ctx, activator.Namespace, activator.Deployment); err != nil {
			return err
		}
		deployment, err := d.AppsV1().Deployments(activator.Namespace).Get(ctx, activator.Deployment, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := d.entrance.Pods(ctx, d.selector)
		if err != nil {
			return err
		}
		if want := int(*deployment.Spec.Replicas); len(pods) != want {
			return fmt.Errorf("%d pods, want %d", len(pods), want)
		}
		for _, p := range pods {
			if err := d.entrance.PodReady(ctx, p.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

// addActivator asks for one more, as the autoscaler of the activators does.
func (d *driver) addActivator() {
	from, ctx := d.record.clock(), d.t.Context()
	deployments := d.AppsV1().Deployments(activator.Namespace)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		scale, err := deployments.GetScale(ctx, activator.Deployment, metav1.GetOptions{})
		if err != nil {
			return err
		}
		scale.Spec.Replicas++
		_, err = deployments.UpdateScale(ctx, activator.Deployment, scale, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		d.t.Fatalf("adding an activator: %v", err)
	}
	d.awaitActivators()
	d.updateGateways(from)
}

// near reports whether a request came to a pod at the kill, while an activator or the machine stood still, or within a second of either: that
// what the dead activator had sent there has ended is known there a moment later, and one that stood still does not know that others count.
func (k *killer) near(q queued) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := q.from.Sub(k.record.began)
	for _, s := range append([]standstill{{k.from, k.to}, {k.frozen, k.thaw}}, k.stills...) {
		if s.from <= at && at <= s.to+time.Second {
			return true
		}
	}
	return false
}

// excuse takes the requests that the victim had from their clients when it was killed out of the failures, and those over connections to it of
// whose end a client heard within a second. All others have no excuse: no request passes through an activator that its client did not choose.
func (k *killer) excuse() {
	for _, o := range k.record.observations {
		if o.Status == 0 && o.Gateway == k.victim && o.Start <= k.to+time.Second && o.End >= k.from {
			k.t.Logf("[%.3fs %.3fs] %s%s was at the activator that was killed: %s", o.Start.Seconds(), o.End.Seconds(), o.Session, o.Flow, o.reason)
			k.record.failures--
		}
	}
}

// connects returns nil if the victim takes a connection. At the address of one that is gone connections are refused, or nothing answers; the
// kernel answers at once for one that only has no processor.
func (k *killer) connects(ctx context.Context) error {
	return connect(ctx, net.JoinHostPort(k.victim, "8012"), 2*time.Second)
}

// connect returns nil if there is a connection to an address within a time.
func connect(ctx context.Context, address string, limit time.Duration) error {
	d := net.Dialer{Timeout: limit}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
