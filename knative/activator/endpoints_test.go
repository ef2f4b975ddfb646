//lint:file-ignore SA1019 Serving's own Throttler reads Endpoints.

package activator

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fakekube "knative.dev/pkg/client/injection/kube/client/fake"
)

// setEndpoint lists a pod in the Endpoints that Serving's own Throttler reads.
func (c *cluster) setEndpoint(revision, ip string, port int32, ready bool) {
	c.Helper()
	c.endpoints(revision, func(e *corev1.Endpoints) {
		e.Subsets = slices.DeleteFunc(e.Subsets, func(s corev1.EndpointSubset) bool { return s.Ports[0].Port == port })
		s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "http", Port: port}}}
		if at := []corev1.EndpointAddress{{IP: ip}}; ready {
			s.Addresses = at
		} else {
			s.NotReadyAddresses = at
		}
		e.Subsets = append(e.Subsets, s)
	})
}

// removeEndpoint takes it from there.
func (c *cluster) removeEndpoint(revision string, port int32) {
	c.Helper()
	c.endpoints(revision, func(e *corev1.Endpoints) {
		e.Subsets = slices.DeleteFunc(e.Subsets, func(s corev1.EndpointSubset) bool { return s.Ports[0].Port == port })
	})
}

func (c *cluster) endpoints(revision string, edit func(*corev1.Endpoints)) {
	c.Helper()
	client := fakekube.Get(c.ctx).CoreV1().Endpoints(shop)
	e, err := client.Get(c.ctx, revision+"-private", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		e, err = client.Create(c.ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
			Namespace: shop, Name: revision + "-private", Labels: map[string]string{
				"serving.knative.dev/revisionUID": "1", "serving.knative.dev/revision": revision,
				"networking.internal.knative.dev/serviceType": "Private",
			},
		}}, metav1.CreateOptions{})
	}
	c.must(err)
	e = e.DeepCopy()
	edit(e)
	_, err = client.Update(c.ctx, e, metav1.UpdateOptions{})
	c.must(err)
}
