// Package cluster runs a real Kubernetes with Knative Serving on this machine for tests, in namespaces of its own.
//
// A test binary calls [Main] in TestMain; its tests then run inside the cluster's network, and each begins with [Start], which
// gives it a Kubernetes namespace, clients, waiting, exec and faults. Nothing is left when the test binary ends, in whatever way. It is
// one node on one machine, so it says nothing about large clusters, and the cluster is shared by the tests of a binary: a
// fault outside a test's namespace concerns all of them.
//
// It needs root on Linux; [Missing] says what else. The command in cmd/cluster does the same by hand. docs/testing.md is the guide.
package cluster
