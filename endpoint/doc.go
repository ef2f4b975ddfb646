// Package endpoint knows which replicas exist and how they are: what sources list, what probes and requests found out, who is
// draining, and how much each carries.
//
// It publishes immutable snapshots (see affinity.Snapshot) that are swapped whole; a reader never waits. Live counters belong
// to an endpoint's identity and survive snapshots. What went stays listed as a tombstone for ten minutes, so that a session can
// tell an endpoint that left from one that was never seen here. It does not choose: that is affinity's. It does not agree with
// other gateways on what it found out: probes, ejections and counters are this gateway's own; only drains are shared.
//
// Start with [Table] and [Source].
package endpoint
