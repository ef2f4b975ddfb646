package replica

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func demo() *service {
	return &service{
		name: "demo-00001-a", revision: "demo-00001", instance: "1", header: "K-Session", query: "session", cookie: "session", segment: 2,
	}
}

func get(s *service, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestSessionIsTakenFromTheFirstPlaceThatHasOne(t *testing.T) {
	tests := []struct {
		name   string
		target string
		header []string
		want   string
	}{
		{"header", "/incr", []string{"K-Session", "alice"}, "demo-00001-a: session=alice, count=1\n"},
		{"header before query", "/incr?session=bob", []string{"K-Session", "alice"}, "demo-00001-a: session=alice, count=1\n"},
		{"query", "/incr?session=bob", []string{"Cookie", "session=carol"}, "demo-00001-a: session=bob, count=1\n"},
		{"path segment", "/s/dave/incr", []string{"Cookie", "session=carol"}, "demo-00001-a: session=dave, count=1\n"},
		{"path segment is decoded", "/s/d%C3%A4ve/incr", nil, "demo-00001-a: session=däve, count=1\n"},
		{"an escaped slash does not split", "/s/a%2Fb/incr", nil, "demo-00001-a: session=a/b, count=1\n"},
		{"cookie", "/incr", []string{"Cookie", "session=carol"}, "demo-00001-a: session=carol, count=1\n"},
		{"none", "/incr", nil, "demo-00001-a: session=-, count=1\n"},
		{"counting path may begin with incr", "/incr/erin", nil, "demo-00001-a: session=erin, count=1\n"},
		{"a line break does not break the line", "/incr?session=a%0Ab", nil, "demo-00001-a: session=\"a\\nb\", count=1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := get(demo(), tt.target, tt.header...).Body.String(); got != tt.want {
				t.Errorf("GET %s %v = %q, want %q", tt.target, tt.header, got, tt.want)
			}
		})
	}
}

func TestEveryAnswerNamesTheReplica(t *testing.T) {
	for target, status := range map[string]int{"/incr": 200, "/whoami": 200, "/healthz": 200, "/ws": 426, "/other": 404} {
		w := get(demo(), target)
		name, revision := w.Header().Get("Counter-Name"), w.Header().Get("Counter-Revision")
		if w.Code != status || name != "demo-00001-a" || revision != "demo-00001" {
			t.Errorf("GET %s = %d from %q of %q, want %d from demo-00001-a of demo-00001", target, w.Code, name, revision, status)
		}
	}
	if got := get(demo(), "/whoami").Body.String(); got != "demo-00001-a\n" {
		t.Errorf("GET /whoami = %q, want demo-00001-a", got)
	}
}

// The prototype's demo server raced on its map: run with -race, this fails if counts share memory unguarded.
func TestConcurrentRequestsLoseNoCount(t *testing.T) {
	s := demo()
	const workers, each = 8, 200
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				get(s, fmt.Sprintf("/incr?session=user-%d", i%10))
			}
		})
	}
	wg.Wait()
	for i := range 10 {
		want := fmt.Sprintf("demo-00001-a: session=user-%d, count=%d\n", i, workers*each/10+1)
		if got := get(s, fmt.Sprintf("/incr?session=user-%d", i)).Body.String(); got != want {
			t.Errorf("count after %d requests = %q, want %q", workers*each/10, got, want)
		}
	}
}

func TestSessionsAreBoundedAndTheLongestUnusedGoesFirst(t *testing.T) {
	var c counts
	for i, step := range []struct {
		session string
		want    int
	}{{"alice", 1}, {"bob", 1}, {"alice", 2}, {"carol", 1}, {"alice", 3}, {"bob", 1}, {"alice", 4}, {"carol", 1}} {
		if got := c.add(step.session, 2); got != step.want {
			t.Errorf("step %d: add(%s) = %d, want %d", i, step.session, got, step.want)
		}
		if len(c.bySession) > 2 || c.recent.Len() != len(c.bySession) {
			t.Fatalf("step %d: %d sessions kept in %d places, want at most 2", i, len(c.bySession), c.recent.Len())
		}
	}
}

func TestDelayEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := demo()
		s.delay = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/incr", nil)
		s.ServeHTTP(httptest.NewRecorder(), r)
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("request of a client that left after 1s took %v, want 1s", waited)
		}
		if n := s.counts.add("", 0); n != 1 {
			t.Errorf("count after an abandoned request = %d, want it not counted", n)
		}
	})
}

func TestFlagsComeBeforeTheEnvironment(t *testing.T) {
	env := map[string]string{"COUNTER_NAME": "demo-00002-a", "COUNTER_REVISION": "demo-00002", "COUNTER_SESSION_SEGMENT": "3"}
	o, err := parse([]string{"--name", "demo-00001-a"}, func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	s := &o.service
	if s.name != "demo-00001-a" || s.revision != "demo-00002" || s.segment != 3 {
		t.Errorf("parse = name %q, revision %q, segment %d, want demo-00001-a, demo-00002, 3", s.name, s.revision, s.segment)
	}
	for _, args := range [][]string{{"--sessions", "0"}, {"--session-segment", "-1"}, {"extra"}} {
		if _, err := parse(args, func(string) string { return "" }); err == nil {
			t.Errorf("parse(%v) = no error, want one", args)
		}
	}
	if _, err := parse(nil, func(k string) string { return map[string]string{"COUNTER_DELAY": "soon"}[k] }); err == nil ||
		!strings.Contains(err.Error(), "COUNTER_DELAY") {
		t.Errorf("parse with COUNTER_DELAY=soon = %v, want an error that names it", err)
	}
}

// start runs the whole command on a free port and returns its address and how it ended.
func start(t *testing.T) (address string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, []string{"--listen", "127.0.0.1:0", "--name", "demo-00001-a"}, func(string) string { return "" }, in)
		in.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("first line: %v", err)
	}
	t.Cleanup(cancel)
	return strings.TrimPrefix(strings.TrimSpace(line), "listening on "), func() error { cancel(); return <-ended }
}

func TestRunSaysWhereItListensAndEndsInOrder(t *testing.T) {
	address, stop := start(t)
	resp, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "ok\n" {
		t.Errorf("GET /healthz = %q, %v, want ok", body, err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Errorf("run = %v, want nil", err)
	}
}
