package replica

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func dial(t *testing.T, address string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "ws://"+address+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Counter-Name"); got != "demo-00001-a" {
		t.Errorf("Counter-Name of the upgrade = %q, want demo-00001-a", got)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func read(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	_, b, err := c.Read(t.Context())
	if err != nil {
		t.Fatalf("Read = %v", err)
	}
	return string(b)
}

func TestWebSocketNamesItselfAndAnswers(t *testing.T) {
	address, stop := start(t)
	c := dial(t, address)
	if got := read(t, c); got != "demo-00001-a" {
		t.Errorf("first message = %q, want demo-00001-a", got)
	}
	long := strings.Repeat("x", 20_000)
	for _, text := range []string{"hello", "", long} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, want := read(t, c), "demo-00001-a: "+text; got != want {
			t.Errorf("answer to %d bytes has %d bytes, want %d", len(text), len(got), len(want))
		}
	}
	reading := c.CloseRead(t.Context())
	if err := c.Ping(reading); err != nil {
		t.Errorf("Ping = %v, want nil", err)
	}
	if err := stop(); err != nil {
		t.Errorf("run with an open WebSocket = %v, want nil", err)
	}
	<-reading.Done()
}

func TestWebSocketClosesWithTheClient(t *testing.T) {
	address, _ := start(t)
	c := dial(t, address)
	read(t, c)
	if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Errorf("Close = %v, want the close to be answered", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4, 'h', 'e', 'l', 'l', 'o'})
	f.Add([]byte{0x81, 0xFE, 0x00, 0x7E})
	f.Add([]byte{0x88, 0x80, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := readFrame(bytes.NewReader(b))
		switch {
		case err != nil && !errors.Is(err, errFrame) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Errorf("readFrame(%x) = %v, want a frame, errFrame or the end", b, err)
		case err == nil && len(in.payload) > len(b):
			t.Errorf("readFrame(%x) has %d bytes of payload, want at most %d", b, len(in.payload), len(b))
		}
	})
}
