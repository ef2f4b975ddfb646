// Package testbed makes a small network of Linux namespaces: clients, a node with kube-proxy's rules or Limpet, and endpoints that answer DNS.
//
// It promises to leave nothing behind, however its process ends: namespaces have no names, live in threads of this process, and take
// their links, rules and lists with them; programs that it starts die with it. The machine's own network is not touched. It promises no
// speed: everything runs on one machine, and what it measures is where queries go, not how fast.
//
// Start with [New], then [Testbed.Send].
package testbed
