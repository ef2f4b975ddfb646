package reliability

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A load asks for sessions and flows, one after the other by each worker, as a browser would.
type load struct {
	way     way
	method  string
	host    string
	record  *record
	workers int
	sharing int // workers that ask for the same series, so that they race; 0 is one
	series  int // per worker
	life    int // of a series in requests, after which a new one takes its place; 0 is for ever
	rest    time.Duration
	dial    time.Duration // that a connection may take
}

// A way is how requests get in. Its methods are called by many goroutines.
type way interface {
	// enter returns where a request goes, adds to its header what has to be there, and names its gateway if that is known.
	enter(o *observation, h http.Header) (address string)
	// again reports whether a request that found no connection is to enter once more.
	again(o *observation) bool
	// left is told of a request when it is over.
	left(o *observation)
}

// run asks until ctx ends and returns when the last answer is in.
func (l *load) run(ctx context.Context) {
	var wg sync.WaitGroup
	for w := range l.workers {
		wg.Go(func() { l.work(ctx, w) })
	}
	wg.Wait()
}

// client returns one that makes a connection for each request, or keeps them.
func (l *load) client(keep bool) *http.Client {
	d := net.Dialer{Timeout: l.dial}
	return &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: !keep}}
}

// work asks for one series after the other. Workers of even numbers make a connection for each request, the others keep theirs.
func (l *load) work(ctx context.Context, worker int) {
	client := l.client(worker%2 == 1)
	defer client.CloseIdleConnections()
	for n := 0; ctx.Err() == nil; n++ {
		o := &observation{}
		name := l.name(worker, n)
		header := http.Header{}
		if n%4 == 3 {
			o.Flow = "tenant-" + name
			header.Set("K-Revision", o.Flow)
		} else {
			o.Session = name
			header.Set("K-Session", name)
		}
		l.ask(client, header, o)
		l.record.saw(o)
		l.way.left(o)
		select {
		case <-ctx.Done():
		case <-time.After(l.rest):
		}
	}
}

// name returns the name of the series of a worker's n-th request.
func (l *load) name(worker, n int) string {
	name := fmt.Sprintf("user-%03d-%05d", worker/max(1, l.sharing), n%l.series)
	if l.life > 0 {
		name += fmt.Sprintf("-%03d", n/(l.series*l.life))
	}
	return name
}

// ask sends a request and notes what came of it. It is not cut short by the end of the run.
func (l *load) ask(client *http.Client, header http.Header, o *observation) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		connected := l.send(ctx, client, header, o)
		if connected || ctx.Err() != nil || !l.way.again(o) {
			return
		}
	}
}

// send sends a request once and reports whether there was a connection for it.
func (l *load) send(ctx context.Context, client *http.Client, header http.Header, o *observation) (connected bool) {
	trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		connected = true
		if a, ok := c.Conn.LocalAddr().(*net.TCPAddr); ok {
			o.port = a.Port
		}
	}}
	address := l.way.enter(o, header)
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), l.method, "http://"+address+"/incr", nil)
	if err != nil {
		o.reason = err.Error()
		return false
	}
	r.Host, r.Header = l.host, header
	o.Start = l.record.clock()
	resp, err := client.Do(r)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body) // a connection is kept only if nothing is left in it
		resp.Body.Close()
	}
	o.End = l.record.clock()
	if err != nil {
		o.reason = err.Error()
		return connected
	}
	o.answered(resp)
	return true
}

// answered notes what an answer says.
func (o *observation) answered(resp *http.Response) {
	o.Status, o.Endpoint, o.Instance = resp.StatusCode, resp.Header.Get("Counter-Name"), resp.Header.Get("Counter-Instance")
	o.Revision, _, _ = strings.Cut(o.Endpoint, "-deployment-")
	if o.Session != "" { // flows are counted together, as no session
		o.Count, _ = strconv.Atoi(resp.Header.Get("Counter-Count")) // 0 where no counter answered
	} else {
		o.Instance = ""
	}
	if o.Status != http.StatusOK {
		o.reason = fmt.Sprint(resp.Header.Get("Server"), " ", resp.Header.Get("Limpet-Reason"))
	}
}
