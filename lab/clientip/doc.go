// Package clientip reads and explains what kube-proxy does for a Service with sessionAffinity: ClientIP on one node, and writes the
// rules that it would write.
//
// It promises to repeat the kernel's own decision: the rules are checked in the kernel's order, with its lists of clients and its
// clock, so the endpoint that it names for a client is the one that the client's next connection reaches while rules and lists stay
// as they are. It promises nothing about other nodes, whose lists are their own, and it changes nothing on the node it reads.
//
// Start with Live or Files, which make a Node, and Node.Explain; or with Spec, which writes rules.
package clientip
