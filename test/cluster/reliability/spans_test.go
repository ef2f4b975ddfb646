package reliability

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A span is what a process says of a part of a request, by its own clock (OpenTelemetry's Span, as far as it is read here).
type span struct {
	pod        string // of the process
	id, parent string
	name       string
	start, end time.Time
}

// A collector takes spans in as OTLP over HTTP. It is safe for concurrent use.
type collector struct {
	mu    sync.Mutex
	spans []span
}

// collect starts a collector at an address of this machine and returns the URL for exporters. It ends with the test.
func collect(t *testing.T, host string) (*collector, string) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{}
	server := &http.Server{Handler: c}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-served })
	return c, "http://" + l.Addr().String() + "/v1/traces"
}

// ServeHTTP takes one request of an exporter. What cannot be read is the exporter's to complain of.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	spans, err := parseSpans(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = append(c.spans, spans...)
}

// all returns the spans so far.
func (c *collector) all() []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spans[:len(c.spans):len(c.spans)]
}

// parseSpans reads an ExportTraceServiceRequest. The numbers are those of the fields in trace.proto, resource.proto and common.proto.
func parseSpans(message []byte) ([]span, error) {
	var all []span
	err := fields(message, func(n int, _ uint64, resourceSpans []byte) error {
		if n != 1 {
			return nil
		}
		pod, first := "", len(all)
		err := fields(resourceSpans, func(n int, _ uint64, part []byte) (err error) {
			switch n {
			case 1: // Resource
				pod, err = podOf(part)
			case 2: // ScopeSpans
				err = fields(part, func(n int, _ uint64, one []byte) error {
					if n != 2 {
						return nil
					}
					s, err := parseSpan(one)
					all = append(all, s)
					return err
				})
			}
			return err
		})
		for i := first; i < len(all); i++ {
			all[i].pod = pod
		}
		return err
	})
	return all, err
}

// podOf returns the attribute k8s.pod.name of a Resource.
func podOf(resource []byte) (pod string, err error) {
	err = fields(resource, func(n int, _ uint64, attribute []byte) error {
		if n != 1 {
			return nil
		}
		key := ""
		return fields(attribute, func(n int, _ uint64, part []byte) error {
			switch {
			case n == 1:
				key = string(part)
			case n == 2 && key == "k8s.pod.name":
				return fields(part, func(n int, _ uint64, value []byte) error {
					if n == 1 {
						pod = string(value)
					}
					return nil
				})
			}
			return nil
		})
	})
	return pod, err
}

func parseSpan(message []byte) (span, error) {
	var s span
	err := fields(message, func(n int, number uint64, part []byte) error {
		switch n {
		case 2:
			s.id = string(part)
		case 4:
			s.parent = string(part)
		case 5:
			s.name = string(part)
		case 7:
			s.start = time.Unix(0, int64(number))
		case 8:
			s.end = time.Unix(0, int64(number))
		}
		return nil
	})
	return s, err
}

// errMessage means that bytes are no message of protocol buffers.
var errMessage = errors.New("the message ends too early")

// fields calls f with each field of a message of protocol buffers: its number, and what it holds as a number or as bytes.
func fields(message []byte, f func(n int, number uint64, part []byte) error) error {
	for len(message) > 0 {
		tag, used := binary.Uvarint(message)
		if used <= 0 {
			return errMessage
		}
		message = message[used:]
		number, part, rest, err := value(int(tag&7), message)
		if err != nil {
			return err
		}
		message = rest
		if err := f(int(tag>>3), number, part); err != nil {
			return err
		}
	}
	return nil
}

// value reads the value of a field of a wire type and returns what follows it.
func value(wire int, message []byte) (number uint64, part, rest []byte, err error) {
	width := map[int]int{1: 8, 5: 4}[wire]
	switch {
	case wire == 0 || wire == 2:
		n, used := binary.Uvarint(message)
		if used <= 0 {
			return 0, nil, nil, errMessage
		}
		message = message[used:]
		if wire == 0 {
			return n, nil, message, nil
		}
		if n > uint64(len(message)) {
			return 0, nil, nil, errMessage
		}
		return 0, message[:n], message[n:], nil
	case width == 0:
		return 0, nil, nil, fmt.Errorf("wire type %d: want 0, 1, 2 or 5", wire)
	case len(message) < width:
		return 0, nil, nil, errMessage
	case wire == 1:
		return binary.LittleEndian.Uint64(message), nil, message[width:], nil
	default:
		return uint64(binary.LittleEndian.Uint32(message)), nil, message[width:], nil
	}
}
