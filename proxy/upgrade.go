package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/limpet-project/limpet/endpoint"
)

// upgrade passes on a switch of protocols and then the bytes of both directions, until both have ended, one breaks, or none
// moves for the idle time.
func (x *exchange) upgrade(resp *http.Response, c *conn) error {
	defer c.end(resp)
	wanted := x.upgradeTo()
	if got := resp.Header.Get("Upgrade"); wanted == "" || !strings.EqualFold(got, wanted) {
		return &protocolError{errors.New("switched to a protocol that was not asked for")}
	}
	from, ok := resp.Body.(io.ReadWriter)
	if !ok {
		return &protocolError{errors.New("switched protocols on a connection that cannot be written to")}
	}
	h := make(http.Header, len(resp.Header)+2)
	copyHeader(h, resp.Header)
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", wanted)
	x.pick.EditResponse(h)
	x.decide(h)
	client, buffered, err := x.control.Hijack()
	if err != nil {
		return err
	}
	defer client.Close()
	x.began = true
	x.seen.Status, x.seen.Upgraded = resp.StatusCode, true
	if err := writeSwitch(client, h); err != nil {
		return errClientGone
	}
	return x.tunnel(client, buffered.Reader, from, c)
}

// writeSwitch writes the head of a 101 response.
func writeSwitch(client net.Conn, h http.Header) error {
	head := bufio.NewWriter(client)
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	if err := h.Write(head); err != nil {
		return err
	}
	head.WriteString("\r\n")
	return head.Flush()
}

// tunnel copies both directions. The end of one is passed on as such and the other goes on.
func (x *exchange) tunnel(client net.Conn, early *bufio.Reader, from io.ReadWriter, c *conn) error {
	var hungUp atomic.Bool
	hangUp := func() {
		hungUp.Store(true)
		client.Close()
		c.net.Close()
	}
	x.watch.upgraded(hangUp)
	var upward sync.WaitGroup
	var in int64
	var inErr error
	upward.Go(func() {
		first := io.LimitReader(early, int64(early.Buffered()))
		if in, inErr = x.copyWay(c.net, io.MultiReader(first, client)); inErr != nil {
			hangUp()
			return
		}
		// A side that cannot be half-closed ends when the other one does.
		_ = c.net.CloseWrite()
	})
	out, outErr := x.copyWay(client, from)
	switch half, ok := client.(interface{ CloseWrite() error }); {
	case outErr != nil:
		hangUp()
	case ok:
		_ = half.CloseWrite()
	default:
		hangUp()
	}
	upward.Wait()
	x.seen.BytesIn, x.seen.BytesOut = in, out
	x.outcome = endpoint.OutcomeOK
	if err := x.reason(nil); err != nil {
		x.seen.Cause, x.seen.Err = "idle", err
	}
	return nil
}

// copyWay copies one direction to its end.
func (x *exchange) copyWay(to io.Writer, from io.Reader) (total int64, err error) {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			x.watch.moved()
			if _, err := to.Write(buf[:n]); err != nil {
				return total, err
			}
			x.watch.moved()
			total += int64(n)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
