package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/router"
)

func TestEventsReachTheClientOneByOne(t *testing.T) {
	next := make(chan string)
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.WriteHeader(http.StatusOK)
		control := http.NewResponseController(w)
		control.Flush()
		for event := range next {
			fmt.Fprintf(w, "data: %s\n\n", event)
			control.Flush()
		}
	})
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		for _, path := range []string{"/events", "/chunks"} {
			next = make(chan string)
			s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
			resp, err := s.client.Get("http://" + s.address + path) // returns before any event
			if err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(resp.Body)
			for _, event := range []string{"first", "second"} {
				next <- event // the second is sent only after the first was read
				if line, err := r.ReadString('\n'); line != "data: "+event+"\n" {
					t.Fatalf("%s %s: line = %q, %v; want event %s", protocol, path, line, err, event)
				}
				r.ReadString('\n')
			}
			close(next)
			resp.Body.Close()
			s.ledger.next(t)
		}
	}
}

// echoService is a gRPC service of two methods: a unary one, and one that answers every message of a stream.
var echoService = grpc.ServiceDesc{
	ServiceName: "demo.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := decode(in); err != nil {
				return nil, err
			}
			if in.Value == "fail" {
				return nil, status.Error(codes.FailedPrecondition, "the cart is empty")
			}
			grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "unary"))
			return wrapperspb.String("said " + in.Value), nil
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName: "Talk", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			stream.SetTrailer(metadata.Pairs("x-trailer", "stream"))
			for {
				in := new(wrapperspb.StringValue)
				if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := stream.SendMsg(wrapperspb.String("heard " + in.Value)); err != nil {
					return err
				}
			}
		},
	}},
}

// grpcEndpoint starts a gRPC server and returns it with its address.
func grpcEndpoint(t testing.TB) (*grpc.Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(&echoService, nil)
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ln) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return server, ln.Addr().String()
}

func grpcClient(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestGRPCCallsAndStreamsPassWithTheirTrailers(t *testing.T) {
	_, address := grpcEndpoint(t)
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = ProtocolH2C }))
	c := grpcClient(t, s.address)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out wrapperspb.StringValue
	var trailer metadata.MD
	if err := c.Invoke(ctx, "/demo.Echo/Say", wrapperspb.String("hello"), &out, grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if out.Value != "said hello" || strings.Join(trailer["x-trailer"], "") != "unary" {
		t.Errorf("Say(hello) = %q with trailer %v, want said hello, unary", out.Value, trailer)
	}
	err := c.Invoke(ctx, "/demo.Echo/Say", wrapperspb.String("fail"), &out)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "the cart is empty") {
		t.Errorf("Say(fail) = %v, want the endpoint's status", err)
	}
	stream, err := c.NewStream(ctx, &echoService.Streams[0], "/demo.Echo/Talk")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // each answer comes before the next message is sent
		if err := stream.SendMsg(wrapperspb.String(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&out); err != nil || out.Value != fmt.Sprint("heard ", i) {
			t.Fatalf("RecvMsg() = %q, %v; want heard %d", out.Value, err, i)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&out); !errors.Is(err, io.EOF) {
		t.Errorf("RecvMsg() after the end = %v, want EOF", err)
	}
	if got := strings.Join(stream.Trailer()["x-trailer"], ""); got != "stream" {
		t.Errorf("trailer = %q, want stream", got)
	}
}

func TestGRPCClientsUnderstandTheGatewaysOwnAnswers(t *testing.T) {
	s := serve(t, &fakePicker{err: affinity.ErrNoEndpoint})
	err := grpcClient(t, s.address).Invoke(context.Background(), "/demo.Echo/Say", wrapperspb.String("hello"), new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("Say() = %v, want Unavailable", err)
	}
}

func TestAGRPCStreamEndsWhenItsClientCancels(t *testing.T) {
	_, address := grpcEndpoint(t)
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = ProtocolH2C }))
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := grpcClient(t, s.address).NewStream(ctx, &echoService.Streams[0], "/demo.Echo/Talk")
	if err != nil {
		t.Fatal(err)
	}
	var out wrapperspb.StringValue
	stream.SendMsg(wrapperspb.String("one"))
	if err := stream.RecvMsg(&out); err != nil {
		t.Fatal(err)
	}
	cancel()
	if o := s.ledger.next(t); o.Cause != "client-gone" {
		t.Errorf("observed %s (%v), want client-gone", o.Cause, o.Err)
	}
}

// webSocketEcho is an endpoint that repeats every message.
func webSocketEcho(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if c.Write(r.Context(), kind, append([]byte("echo "), message...)) != nil {
			return
		}
	}
}

func dialWebSocket(t testing.TB, s *setup) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "ws://"+s.address+"/", &websocket.DialOptions{HTTPClient: s.client})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Set-Cookie") != "limpet=sealed" {
		t.Errorf("101 has Set-Cookie %q, want the pick's", resp.Header.Get("Set-Cookie"))
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func say(t testing.TB, c *websocket.Conn, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != "echo "+message {
		t.Fatalf("Read() = %q, %v; want echo %s", got, err, message)
	}
}

// sealing is a picker at address that sets a cookie.
func sealing(address string) *fakePicker {
	return &fakePicker{places: []place{at(address)}, edit: func(_, response router.Header) {
		if response != nil {
			response.Add("Set-Cookie", "limpet=sealed")
		}
	}}
}

func TestWebSocketsPassInBothDirections(t *testing.T) {
	t.Parallel()
	address := upstreamServer(t, webSocketEcho)
	s := serve(t, sealing(address), withRoute(func(r *Route) { r.Upstream.RequestTimeout = enough }))
	c := dialWebSocket(t, s)
	say(t, c, "hello")
	<-time.After(enough + short) // longer than a request may take
	say(t, c, strings.Repeat("x", 20000))
	c.Close(websocket.StatusNormalClosure, "")
	o := s.ledger.next(t)
	if !o.Upgraded || o.Status != 101 || o.BytesIn < 20000 || o.BytesOut < 20000 || o.Cause != "" {
		t.Errorf("observed %+v, want an upgraded connection and its bytes", o)
	}
}

func TestAnUpgradedConnectionOnWhichNothingMovesIsClosed(t *testing.T) {
	t.Parallel()
	address := upstreamServer(t, webSocketEcho)
	s := serve(t, sealing(address), withRoute(func(r *Route) { r.Upstream.IdleTimeout = enough }))
	c := dialWebSocket(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, _, err := c.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("Read() = %v, want the connection closed", err)
	}
	if o := s.ledger.next(t); o.Cause != "idle" {
		t.Errorf("observed cause %q, want idle", o.Cause)
	}
}

func TestEitherSideOfAnUpgradedConnectionMayEndItsHalf(t *testing.T) {
	received := make(chan string, 1)
	address := rawEndpoint(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		if _, _, err := readRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: line\r\n\r\nearly ")
		all, _ := io.ReadAll(r) // until the client ended its half
		received <- string(all)
		io.WriteString(c, "late")
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// What follows the head in the same packet belongs to the new protocol.
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: demo.example.com\r\nConnection: Upgrade\r\nUpgrade: line\r\n\r\nfirst ")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "line" {
		t.Fatalf("ReadResponse() = %v, %v; want 101", resp, err)
	}
	io.WriteString(c, "second")
	c.(*net.TCPConn).CloseWrite()
	if got := <-received; got != "first second" {
		t.Errorf("endpoint got %q, want all that the client sent", got)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "early late" {
		t.Errorf("client got %q, want early late", rest)
	}
}

func TestUpgradesThatWouldHideRequestsOrWereNotAskedForAreNotMade(t *testing.T) {
	seen := make(chan http.Header, 1)
	address := rawEndpoint(t, func(_ int, c net.Conn) {
		req, _, err := readRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		seen <- req.Header
		if req.URL.Path == "/switch" {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	resp := s.get(t, "/plain", func(r *http.Request) {
		r.Header.Set("Connection", "Upgrade, HTTP2-Settings")
		r.Header.Set("Upgrade", "h2c")
		r.Header.Set("HTTP2-Settings", "AAMAAABkAAQAAP__")
	})
	if h := <-seen; resp.StatusCode != 200 || h.Get("Upgrade") != "" || h.Get("Http2-Settings") != "" {
		t.Errorf("h2c upgrade: status %d, endpoint got %v; want an ordinary request", resp.StatusCode, h)
	}
	wantOwn(t, s.get(t, "/switch"), http.StatusBadGateway, "bad-gateway")
	<-seen
	wantOwn(t, s.get(t, "/switch", func(r *http.Request) {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "line")
	}), http.StatusBadGateway, "bad-gateway")
	<-seen
}
