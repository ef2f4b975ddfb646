package redistest_test

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/redis/redistest"
)

// patience is the wait for an answer that has to come.
const patience = 30 * time.Second

// ping sends PING and returns the answer, "" if there was none in the given time.
func ping(t *testing.T, c net.Conn, wait time.Duration) (string, error) {
	t.Helper()
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	answer := make([]byte, 64)
	n, err := c.Read(answer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", nil
	}
	return string(answer[:n]), err
}

func TestAProxyPassesCutsAndResets(t *testing.T) {
	s := redistest.Start(t)
	p := redistest.StartProxy(t, s.Addr())
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := dial()
	if got, err := ping(t, c, patience); got != "+PONG\r\n" || err != nil {
		t.Errorf("PING through a proxy = %q, %v, want PONG", got, err)
	}
	p.Cut()
	if got, err := ping(t, c, 200*time.Millisecond); got != "" || err != nil {
		t.Errorf("PING through a proxy that is cut = %q, %v, want silence", got, err)
	}
	redistest.Eventually(t, "reset of a connection that lost bytes", func() bool {
		p.Pass() // before the proxy has read what was sent, nothing is lost
		_, err := ping(t, c, 200*time.Millisecond)
		p.Cut()
		if err == nil {
			_, err = ping(t, c, 200*time.Millisecond)
		}
		return err != nil
	})
	p.Pass()
	c = dial()
	if got, err := ping(t, c, patience); got != "+PONG\r\n" || err != nil {
		t.Errorf("PING through a proxy that passes again = %q, %v, want PONG", got, err)
	}
	p.Reset()
	redistest.Eventually(t, "reset", func() bool { _, err := ping(t, c, 200*time.Millisecond); return err != nil })
}

// childEnv makes this test binary start a server, say where, and wait to be killed.
const childEnv = "REDISTEST_CHILD"

func TestServersDieWithATestBinaryThatIsKilled(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		s := redistest.Start(t)
		os.Stdout.WriteString("listening " + s.Addr() + "\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // never comes
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestServersDieWithATestBinaryThatIsKilled$")
	child.Env = append(os.Environ(), childEnv+"=1", "TMPDIR="+t.TempDir())
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	address := ""
	for lines := bufio.NewScanner(stdout); address == "" && lines.Scan(); {
		_, address, _ = strings.Cut(lines.Text(), "listening ")
	}
	if c, err := net.Dial("tcp", address); err != nil {
		t.Errorf("dialling the server of the child = %v, want no error", err)
	} else {
		c.Close()
	}
	_ = child.Process.Signal(syscall.SIGKILL)
	_ = child.Wait() // it was killed
	redistest.Eventually(t, "end of the server", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}
