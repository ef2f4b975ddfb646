// Package clientip holds the tests of limpet clientip against the real kube-proxy, in both of its modes.
//
// A second node is made for each mode: a network namespace with a kube-proxy of the cluster's own version, which serves the Services
// that a test creates at the cluster's API server, and namespaces of their own for clients and for each endpoint. The tests show that
// the rules which limpet clientip rules prints are the ones that kube-proxy writes, and that what limpet clientip explain says of a
// client is what happens to its next packet. With the cluster's own node and CoreDNS another test shows that clients spread as limpet
// clientip predict says.
//
// It says nothing of IPv6, which the cluster's API server does not serve.
package clientip
