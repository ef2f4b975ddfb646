package reliability

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A load asks for sessions and flows, each series by one worker at a time, as a browser would.
type load struct {
	address, host string
	record        *record
	gateways      *gateways
	workers       int
	series        int // per worker
	rest          time.Duration
}

// run asks until ctx ends and returns when the last answer is in.
func (l *load) run(ctx context.Context) {
	var wg sync.WaitGroup
	for w := range l.workers {
		wg.Go(func() { l.work(ctx, w) })
	}
	wg.Wait()
}

// work asks for one series after the other. Workers of even numbers make a connection for each request, the others keep theirs.
func (l *load) work(ctx context.Context, worker int) {
	var d net.Dialer
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: worker%2 == 0}}
	defer client.CloseIdleConnections()
	for n := 0; ctx.Err() == nil; n++ {
		o := &observation{}
		name := fmt.Sprintf("user-%03d-%05d", worker, n%l.series)
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
		l.gateways.add(o)
		select {
		case <-ctx.Done():
		case <-time.After(l.rest):
		}
	}
}

// ask sends a request and notes what came of it. It is not cut short by the end of the run.
func (l *load) ask(client *http.Client, header http.Header, o *observation) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		if a, ok := c.Conn.LocalAddr().(*net.TCPAddr); ok {
			o.port = a.Port
		}
	}}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, "http://"+l.address+"/incr", nil)
	if err != nil {
		o.reason = err.Error()
		return
	}
	r.Host, r.Header = l.host, header
	o.Start = l.record.clock()
	resp, err := client.Do(r)
	o.End = l.record.clock()
	if err != nil {
		o.reason = err.Error()
		return
	}
	defer resp.Body.Close()
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
