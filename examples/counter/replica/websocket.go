package replica

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// The part of RFC 6455 that an echo needs: single frames of at most maxFrame bytes, ping and close.
const (
	maxFrame  = 64 << 10
	acceptKey = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // section 1.3

	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// A frame is one whole message or control frame.
type frame struct {
	op      byte
	payload []byte
}

var errFrame = errors.New("frame is fragmented, unmasked or too long")

// socket accepts a WebSocket, sends the replica's name, and answers each text with its name and the text.
func (s *service) socket(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket") || key == "" {
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "this path speaks WebSocket", http.StatusUpgradeRequired)
		return
	}
	h := w.Header().Clone()
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	if !s.keep(conn) {
		return
	}
	defer s.drop(conn)
	sum := sha1.Sum([]byte(key + acceptKey))
	h.Del("Content-Type")
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	h.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\n")
	if h.Write(rw) != nil || conn.SetDeadline(time.Time{}) != nil {
		return
	}
	fmt.Fprint(rw, "\r\n")
	_ = s.echo(rw) // the client sees how it ended; there is nobody else to tell
}

// echo speaks until the client closes or breaks off.
func (s *service) echo(rw *bufio.ReadWriter) error {
	next := frame{op: opText, payload: []byte(s.name)}
	for {
		if err := writeFrame(rw, next); err != nil {
			return err
		}
		in, err := readFrame(rw)
		for err == nil && in.op == opPong {
			in, err = readFrame(rw)
		}
		if err != nil {
			return err
		}
		switch in.op {
		case opClose:
			return writeFrame(rw, in)
		case opPing:
			next = frame{op: opPong, payload: in.payload}
		default:
			next = frame{op: in.op, payload: append([]byte(s.name+": "), in.payload...)}
		}
	}
}

func readFrame(r io.Reader) (frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	final, masked, n := head[0]&0x80 != 0, head[1]&0x80 != 0, int(head[1]&0x7F)
	switch n {
	case 126:
		var long [2]byte
		if _, err := io.ReadFull(r, long[:]); err != nil {
			return frame{}, err
		}
		n = int(binary.BigEndian.Uint16(long[:]))
	case 127:
		return frame{}, errFrame
	}
	if !final || !masked || n > maxFrame {
		return frame{}, errFrame
	}
	var mask [4]byte
	if _, err := io.ReadFull(r, mask[:]); err != nil {
		return frame{}, err
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return frame{}, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return frame{op: head[0] & 0xF, payload: payload}, nil
}

func writeFrame(w *bufio.ReadWriter, f frame) error {
	head := []byte{0x80 | f.op, byte(len(f.payload))}
	if n := len(f.payload); n > 125 {
		head = binary.BigEndian.AppendUint16([]byte{0x80 | f.op, 126}, uint16(min(n, 1<<16-1)))
		f.payload = f.payload[:min(n, 1<<16-1)]
	}
	w.Write(head)
	w.Write(f.payload)
	return w.Flush()
}

// hasToken reports whether a header's comma-separated list contains a token, in any case.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// keep remembers an upgraded connection so that the end of the process ends it too; false if the end has come.
func (s *service) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if s.open == nil {
		s.open = make(map[net.Conn]bool)
	}
	s.open[c] = true
	s.sockets.Add(1)
	return true
}

func (s *service) drop(c net.Conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.sockets.Done()
}

// closeSockets ends the upgraded connections and accepts no more.
func (s *service) closeSockets() {
	s.mu.Lock()
	s.ended = true
	open := make([]net.Conn, 0, len(s.open))
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}
