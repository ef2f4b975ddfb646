// Package demo runs the counter as a Knative Service on the test cluster and asks it through the ingress.
//
// The names of pods tell who answered: demo-00001-deployment-… is of revision demo-00001. It judges nothing: what an answer
// should have been is for the caller to say.
//
// Start with [Service.Manifest] and [Client].
package demo
