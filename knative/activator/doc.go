// Package activator gives Knative's activator affinity: Routes keep their sessions with any ingress, as long as the activator is in the
// path of their revisions.
//
// It composes what Serving exports and changes nothing of it. A handler in front of Serving's settles the revision of a request that has
// a session or a flow, a Throttler settles its pod and counts what each pod may have, and a RoundTripper sends it there. Requests without
// affinity go the way that they go in Serving's own activator, but for the place at a pod with a limit, which is counted in one way for
// all. It never answers what Serving would have served: what is not known here passes untouched.
//
// Start with [NewSource] and [New].
package activator
