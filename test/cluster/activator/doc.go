// Package activator puts Limpet's activator in the place of Serving's in a test cluster, by the manifests of deploy/, and takes it away again.
//
// It changes nothing of the manifests but images and the fields that options name, so that what is tested is what people apply. Start
// with [Install].
package activator
