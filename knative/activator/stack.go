package activator

import "net/http"

// stackBytes is what handling a request takes of a goroutine's stack. With less it grows where it is deep; above 16 KiB, with what the
// runtime adds, it would come from where all processors get large ones.
const stackBytes = 12 << 10

// A roomy handler goes on with a stack that is large enough for the rest. Serving's handler of timeouts gives each request a goroutine
// of its own, whose stack is small at first; it would be grown, and every frame on it be moved, where the chain is at its deepest. Here
// there is next to nothing on it yet.
type roomy struct{ next http.Handler }

// ServeHTTP implements http.Handler.
func (h roomy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	growStack(-1)
	h.next.ServeHTTP(w, r)
}

// growStack returns 0. The runtime makes room for its frame when it is called; nothing of it is used with an at below 0.
//
//go:noinline
func growStack(at int) byte {
	if at < 0 {
		return 0
	}
	var room [stackBytes]byte
	for i := range room {
		room[i] = byte(i)
	}
	return room[at]
}
