// Package ingress installs Limpet's Knative ingress in a test cluster: the manifests of deploy/, with images of the checkout, and
// Knative told to use it.
//
// It changes nothing of the manifests but images and replicas, so that what is tested is what people apply. Start with [Install].
package ingress
