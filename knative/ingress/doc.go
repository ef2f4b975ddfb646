// Package ingress serves Knative's Ingress objects with Limpet's data plane: it translates them into services and routes, puts these in
// force in this process, answers the probes that ask whether they are, and says in the objects' status when every replica does.
//
// The translation is pure: [Translate] makes the [Program] of one object and [Merge] joins those of all, by rules that depend on the
// objects and their age only, so that all replicas come to the same services, whose names are the scope of sessions. An object that is
// wrong, or claims what another one has, keeps nobody else from being served. The rest of the package decides nothing about a request.
//
// Start with [Translate] and [Programmer].
package ingress
