package activator

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"testing"
	"unsafe"
)

// deep takes 8 KiB of the stack.
//
//go:noinline
func deep(at int) byte {
	var room [8 << 10]byte
	room[at%len(room)] = 1
	return room[(at+1)%len(room)]
}

func TestTheStackOfARequestIsNotMovedWhileItIsHandled(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the collector takes back what is not used of a stack
	runtime.GC()                                     // and ends what it is at
	var before, after uintptr
	h := roomy{http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		var here byte
		before = uintptr(unsafe.Pointer(&here))
		deep(int(before))
		after = uintptr(unsafe.Pointer(&here))
	})}
	done := make(chan struct{})
	go func() { // with a stack of its own
		defer close(done)
		h.ServeHTTP(httptest.NewRecorder(), nil)
	}()
	<-done
	if before == 0 || before != after {
		t.Errorf("the stack was at %#x and is at %#x, want it where it was", before, after)
	}
}
