package replica

import (
	"container/list"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// defaultSessions bounds the memory of a counter whose clients invent session ids: some 20 MB.
const defaultSessions = 100_000

// A service answers the requests of one replica. It is safe for concurrent use.
type service struct {
	name, revision string
	instance       string // differs from process to process of one name
	delay          time.Duration
	header, query  string
	segment        int
	cookie         string
	limit          int // sessions counted at most; 0 is defaultSessions

	counts  counts
	sockets sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]bool // hijacked connections, which http.Server no longer knows
	ended bool
}

// ServeHTTP names the replica in the headers of every answer. A path whose first or last element is "incr" counts.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Counter-Name", s.name)
	h.Set("Counter-Revision", s.revision)
	h.Set("Counter-Instance", s.instance)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	switch path := r.URL.EscapedPath(); {
	case path == "/healthz":
		fmt.Fprintln(w, "ok")
	case counted(path):
		s.incr(w, r)
	case path == "/whoami":
		fmt.Fprintln(w, s.name)
	case path == "/ws":
		s.socket(w, r)
	default:
		http.Error(w, "not found: try /incr, /whoami, /ws or /healthz", http.StatusNotFound)
	}
}

func (s *service) incr(w http.ResponseWriter, r *http.Request) {
	session := s.sessionOf(r)
	if s.delay > 0 {
		select {
		case <-time.After(s.delay):
		case <-r.Context().Done():
			return
		}
	}
	n := s.counts.add(session, s.limit)
	w.Header().Set("Counter-Count", strconv.Itoa(n))
	fmt.Fprintf(w, "%s: session=%s, count=%d\n", s.name, shown(session), n)
}

// counted reports whether the first or the last element of a path is "incr".
func counted(path string) bool {
	path = strings.Trim(path, "/")
	first, _, _ := strings.Cut(path, "/")
	return first == "incr" || path[strings.LastIndexByte(path, '/')+1:] == "incr"
}

// shown returns a session as it is printed: unescaped ids could break the line, and none is "-".
func shown(session string) string {
	if session == "" {
		return "-"
	}
	if q := strconv.Quote(session); q[1:len(q)-1] != session {
		return q
	}
	return session
}

// sessionOf returns the id of the first place that has one: header, query parameter, path segment, cookie.
func (s *service) sessionOf(r *http.Request) string {
	if id := r.Header.Get(s.header); id != "" {
		return id
	}
	if id := r.URL.Query().Get(s.query); id != "" {
		return id
	}
	if id := segment(r.URL.EscapedPath(), s.segment); id != "" {
		return id
	}
	if c, err := r.Cookie(s.cookie); err == nil {
		return c.Value
	}
	return ""
}

// segment returns the n-th segment of an escaped path, decoded; "" if there is none. Empty segments count.
func segment(path string, n int) string {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if n < 1 || n > len(parts) {
		return ""
	}
	id, err := url.PathUnescape(parts[n-1])
	if err != nil {
		return ""
	}
	return id
}

// counts counts by session and forgets the one longest unused when there are too many. The zero counts is empty.
type counts struct {
	mu        sync.Mutex
	bySession map[string]*list.Element
	recent    list.List // of *count, the latest used in front
}

type count struct {
	session string
	n       int
}

// add counts one request of the session and returns its new count. At most limit sessions are kept.
func (c *counts) add(session string, limit int) int {
	if limit < 1 {
		limit = defaultSessions
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.bySession[session]; ok {
		c.recent.MoveToFront(e)
		held := e.Value.(*count)
		held.n++
		return held.n
	}
	if c.bySession == nil {
		c.bySession = make(map[string]*list.Element)
	}
	for c.recent.Len() >= limit {
		oldest := c.recent.Back()
		delete(c.bySession, oldest.Value.(*count).session)
		c.recent.Remove(oldest)
	}
	c.bySession[session] = c.recent.PushFront(&count{session: session, n: 1})
	return 1
}
