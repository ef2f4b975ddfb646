package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const host = "Host: demo.example.com\r\n"

func TestRequestsThatTwoServersCouldReadDifferentlyAreRefused(t *testing.T) {
	var seen atomic.Int64
	address := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			seen.Add(1)
		}
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	for name, request := range map[string]string{
		"two lengths":                "POST / HTTP/1.1\r\n" + host + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
		"length list":                "POST / HTTP/1.1\r\n" + host + "Content-Length: 4, 5\r\n\r\nabcde",
		"negative length":            "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",
		"length with sign":           "POST / HTTP/1.1\r\n" + host + "Content-Length: +4\r\n\r\nabcd",
		"two encodings":              "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"unknown encoding":           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"disguised encoding":         "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"space before the colon":     "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"folded first header":        "GET / HTTP/1.1\r\n X: folded\r\n" + host + "\r\n",
		"NUL in a value":             "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n",
		"bare CR in a value":         "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n",
		"invalid name":               "GET / HTTP/1.1\r\n" + host + "X(y): 1\r\n\r\n",
		"two hosts":                  "GET / HTTP/1.1\r\n" + host + host + "\r\n",
		"no host":                    "GET / HTTP/1.1\r\n\r\n",
		"host with a slash":          "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
		"control byte in the target": "GET /a\x01b HTTP/1.1\r\n" + host + "\r\n",
		"bad escape in the path":     "GET /a%zz HTTP/1.1\r\n" + host + "\r\n",
		"invalid method":             "GE(T / HTTP/1.1\r\n" + host + "\r\n",
		"CONNECT":                    "CONNECT db.internal:5432 HTTP/1.1\r\n" + host + "\r\n",
		"invalid chunk size":         "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n4;\n\r\nzz\r\n0\r\n\r\n",
		"hidden bytes after a chunk": "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nabGET /admin HTTP/1.1\r\n\r\n",
		"double slash, bad encoding": "GET //a%2Fb\"c HTTP/1.1\r\n" + host + "\r\n",
	} {
		if status, _ := exchangeRaw(t, s.address, request); status != 0 && status < 400 || status >= 500 && status != 501 {
			t.Errorf("%s: status = %d, want a 4xx, 501 or a closed connection", name, status)
		}
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("the endpoint saw %d whole requests, want none", n)
	}
}

func TestWhatTheGatewayAcceptsReachesTheEndpointInOneReading(t *testing.T) {
	for _, c := range []struct{ name, request, want string }{
		// The length is ignored where there is an encoding (RFC 9112, 6.3), and not passed on.
		{"length and encoding", "POST / HTTP/1.1\r\n" + host + "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "abc"},
		{"equal lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "abc"},
		{"folded header", "POST / HTTP/1.1\r\n" + host + "X-Folded: a\r\n b\r\nContent-Length: 3\r\n\r\nabc", "abc"},
	} {
		raw := make(chan string, 1)
		address := rawEndpoint(t, func(_ int, conn net.Conn) {
			r := bufio.NewReader(conn)
			var head strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil || line == "\r\n" {
					break
				}
				head.WriteString(line)
			}
			req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head.String()+"\r\n"), r)))
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			raw <- head.String() + "|" + string(body)
			io.WriteString(conn, okAnswer)
		})
		s := serve(t, &fakePicker{places: []place{at(address)}})
		if status, _ := exchangeRaw(t, s.address, c.request); status != 200 {
			t.Errorf("%s: status = %d, want 200", c.name, status)
			continue
		}
		got := <-raw
		framings := strings.Count(got, "Content-Length:") + strings.Count(got, "Transfer-Encoding:")
		if !strings.HasSuffix(got, "|"+c.want) || framings != 1 || strings.Contains(got, "\r\n ") {
			t.Errorf("%s: endpoint got %q, want one framing, no folding and body %s", c.name, got, c.want)
		}
	}
}

func TestTheRestOfARefusedBodyIsNeverTakenForARequest(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "smuggled") })
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Hosts = []string{"shop.example.com"} }))
	const hidden = "GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"
	for name, pause := range map[string]time.Duration{"at once": 0, "after the gateway stopped waiting": lingerTime + 200*time.Millisecond} {
		c, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "POST / HTTP/1.1\r\n"+host+"Content-Length: 100000\r\n\r\nbegin ")
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantOwn(t, resp, 404, "no-route")
		io.Copy(io.Discard, resp.Body)
		<-time.After(pause)
		io.WriteString(c, hidden)
		if rest, _ := io.ReadAll(r); len(rest) != 0 {
			t.Errorf("%s: the connection went on with %q, want its end", name, rest)
		}
		c.Close()
	}
}

func TestAConnectionGoesOnAfterAShortRefusedBody(t *testing.T) {
	s := serve(t, &fakePicker{})
	s.gateway.Swap(Config{})
	l, late := newLooper(t, s.address), false
	for range 20 {
		if late { // the gateway may have given up the connection
			l = newLooper(t, s.address)
		}
		begin := time.Now()
		io.WriteString(l.conn, "POST / HTTP/1.1\r\n"+host+"Content-Length: 4\r\n\r\n")
		io.WriteString(l.conn, "body")
		late = time.Since(begin) >= lingerTime/2
		resp, err := http.ReadResponse(l.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		wantOwn(t, resp, 404, "no-route")
	}
}

func TestAnEndpointsBrokenAnswerIsNotPassedOn(t *testing.T) {
	for name, answer := range map[string]string{
		"not HTTP":       "hello\r\n\r\n",
		"two lengths":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
		"bad status":     "HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n",
		"endless header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxResponseHeaderBytes+1) + "\r\n\r\n",
		"nothing":        "",
	} {
		address := rawEndpoint(t, func(_ int, c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, answer)
		})
		s := serve(t, &fakePicker{places: []place{at(address)}})
		if resp := s.get(t, "/"); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: status = %d, want 502", name, resp.StatusCode)
		}
	}
}

func TestAnAnswerThatBreaksOffBreaksOffForTheClientToo(t *testing.T) {
	address := rawEndpoint(t, func(_ int, c net.Conn) {
		readRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	resp, err := s.client.Get("http://" + s.address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); string(got) != "half" || err == nil {
		t.Errorf("ReadAll() = %q, %v; want half and an error", got, err)
	}
	if o := s.ledger.next(t); o.Status != 200 || o.Cause != "bad-gateway" {
		t.Errorf("observed %d %s, want 200 bad-gateway", o.Status, o.Cause)
	}
}
