// Package affinity decides where a request goes: it finds the ids in a request, digests them into keys, and chooses a
// revision and an endpoint from an immutable snapshot and from what was remembered.
//
// Everything in it is a pure function of its arguments: it performs no I/O, keeps no state, starts no goroutine and imports
// the standard library only. It promises the same choice on every gateway for the same key, snapshot and memory; it does not
// promise that a choice outlives a change of the snapshot, which is what bindings are for.
//
// Start with [Decide], then [Policy] and [Snapshot].
package affinity
