package transport

import "net/netip"

// A message is what is known of a client that sends no request: its address.
type message struct{ peer netip.Addr }

// Method returns "": a connection has none.
func (message) Method() string { return "" }

// Host returns "".
func (message) Host() string { return "" }

// Path returns "/".
func (message) Path() string { return "/" }

// Query returns "".
func (message) Query() string { return "" }

// Header returns nothing.
func (message) Header(string) []string { return nil }

// Peer returns the client's address.
func (m message) Peer() netip.Addr { return m.peer }
