// Package redis keeps bindings and drains in Redis or Valkey, 6.2 or later: one server, a sentinel set or a cluster.
//
// A [Store] promises what binding.Store promises, and besides: one round trip for a Get and one for a Swap; every key has a time
// to live; no key or value holds what a client sent; a call returns within CallTimeout whatever the server does, and opening does
// not need a server at all. It does not retry, cache, or degrade: those are binding.Near and binding.Degraded. It does not promise
// that a binding survives a failover of the server; that is what Restore is for.
//
// Start with [Open]. The server's side is in keys.go (what keys look like) and scripts.go (what runs there). A user for it needs
// the keys "limpet:*", the command categories @connection, @scripting, @sortedset and @hash, and the commands GET, SET, DEL, EXISTS,
// PTTL, PEXPIRE and TIME; in a cluster also CLUSTER SLOTS and CLUSTER SHARDS.
package redis
