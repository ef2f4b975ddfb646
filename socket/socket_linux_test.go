package socket

import (
	"context"
	"net"
	"testing"
	"time"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

func dial(t *testing.T, ln net.Listener) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestHungUpSeesTheEndThatNobodyHasRead(t *testing.T) {
	for name, hangUp := range map[string]func(*net.TCPConn){
		"closed":      func(c *net.TCPConn) { c.Close() },
		"half closed": func(c *net.TCPConn) { c.CloseWrite() },
		"reset":       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"closed after something to read": func(c *net.TCPConn) {
			c.Write([]byte("unread"))
			c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			ln := listen(t)
			c := dial(t, ln)
			peer, err := ln.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if Of(c).HungUp() {
				t.Error("HungUp() = true while the peer is there")
			}
			hangUp(peer)
			eventually(t, "HungUp()", Of(c).HungUp)
		})
	}
}

func TestHungUpIsAnsweredWhileAReadWaits(t *testing.T) {
	ln := listen(t)
	c := dial(t, ln)
	s := Of(c)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	}()
	for range 100 {
		if s.HungUp() {
			t.Fatal("HungUp() = true while the peer is there")
		}
	}
	c.Close()
	if <-ended == nil {
		t.Error("the read ended without an error")
	}
	if !s.HungUp() {
		t.Error("HungUp() = false of a closed socket")
	}
}

func TestWaitsUntilEveryConnectionWasAccepted(t *testing.T) {
	ln := listen(t)
	s := Of(ln)
	if s.Waits() {
		t.Error("Waits() = true before anybody connected")
	}
	const n = 3
	for range n {
		dial(t, ln)
	}
	for i := range n {
		eventually(t, "Waits()", s.Waits)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		s.Accepted(ended, patience)                        // returns though connections wait
		s.Accepted(context.Background(), time.Millisecond) // as well
		c, err := ln.AcceptTCP()
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.Close()
	}
	s.Accepted(context.Background(), patience)
	if s.Waits() {
		t.Error("Waits() = true after all were accepted")
	}
}

func TestOfTheZeroSocketNothingIsKnown(t *testing.T) {
	a, b := net.Pipe()
	a.Close()
	defer b.Close()
	for _, s := range []Socket{{}, Of(b), Of(nil)} {
		if s.HungUp() || s.Waits() {
			t.Errorf("HungUp() = %v, Waits() = %v; want false", s.HungUp(), s.Waits())
		}
		s.Accepted(context.Background(), patience)
	}
}
