// Package sandbox runs processes in namespaces of their own (net, mount, pid, uts, ipc) that all end with the one that started them.
//
// Three processes of the same executable make a sandbox. The keeper holds the slot and outlives the rest. PID 1 of the new
// namespaces only reaps. The supervisor prepares mounts and network, starts the components and serves a control socket. PID 1 is
// bound to the keeper by a parent death signal, and everything else to PID 1 by the kernel, so nothing outlives a killed keeper
// but empty cgroups, which [Sweep] removes. The host's network namespace gets no interface, address or route, and no sysctl changes.
//
// A program that uses it calls [Roles] at the start of main. Start with [Start].
package sandbox
