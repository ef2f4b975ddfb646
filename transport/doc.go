// Package transport forwards what is not HTTP: the TCP connections and the UDP flows of a listener, each to the endpoint that a
// router picks for its client's address.
//
// A connection or flow stays at its endpoint as long as it lasts, and its session is renewed meanwhile. Only failure to
// establish a connection tries another endpoint, and binds again. What is carried is neither read nor changed, but for the PROXY
// protocol's header where one is asked for. Bounds hold for memory, not for who sends: nothing here tells a forged datagram
// from a true one.
//
// Start with [TCP] and [UDP].
package transport
