// Package spread predicts how clients spread over the endpoints of a service, what a rollout and a broken endpoint do to them, and how
// many connections the kernel tracks, for kube-proxy's policies and for Limpet's.
//
// Every figure comes by formula where there is one, and by a simulation on virtual time with a confidence interval. Equal scenarios with
// equal seeds give equal predictions, whatever the number of processors. It models one Service and clients that are active all the time;
// it does not model what a network loses, and Limpet's policies see the load as one gateway does.
//
// Start with [Scenario] and [Predict].
package spread
