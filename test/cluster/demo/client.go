package demo

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Request is one request to a counter.
type Request struct {
	// Path has the query too; "" is /incr.
	Path string
	// Header is what the client sends.
	Header map[string]string
}

// Curl returns the command that sends the request.
func (r Request) Curl(address, host string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "curl -s -H 'Host: %s'", host)
	for _, k := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(&b, " -H '%s: %s'", k, r.Header[k])
	}
	fmt.Fprintf(&b, " 'http://%s%s'", address, r.path())
	return b.String()
}

func (r Request) path() string {
	if r.Path == "" {
		return "/incr"
	}
	return r.Path
}

// An Answer is what came back.
type Answer struct {
	Status   int
	Pod      string // who counted, "" if no counter answered
	Instance string // the pod's process
	Count    int    // the requests of the session that this process has had
	Body     string
	Header   http.Header
}

// Revision returns the revision of the pod.
func (a Answer) Revision() string {
	revision, _, _ := strings.Cut(a.Pod, "-deployment-")
	return revision
}

// OK returns nil if a counter answered, else what did.
func (a Answer) OK() error {
	if a.Status != http.StatusOK || a.Pod == "" {
		return fmt.Errorf("status %d: %s", a.Status, strings.TrimSpace(a.Body))
	}
	return nil
}

// A Client asks one host of an ingress. It is safe for concurrent use.
type Client struct {
	// Address is the ingress' host and port.
	Address string
	// Host is the name that is asked for.
	Host string
	// Limit is how long an answer may take; 0 is two minutes.
	Limit time.Duration
	// Reuse keeps connections for later requests. Otherwise each request has its own, so that the cluster's proxy chooses a replica
	// of the ingress for each.
	Reuse bool

	once   sync.Once
	client *http.Client
}

func (c *Client) http() *http.Client {
	c.once.Do(func() {
		d := net.Dialer{Timeout: 30 * time.Second}
		c.client = &http.Client{
			Transport: &http.Transport{
				DisableKeepAlives: !c.Reuse, DialContext: d.DialContext, MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	})
	return c.client
}

// Ask sends a request. An error means that there was no whole answer.
func (c *Client) Ask(ctx context.Context, r Request) (Answer, error) {
	limit := c.Limit
	if limit == 0 {
		limit = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Address+r.path(), nil)
	if err != nil {
		return Answer{}, err
	}
	req.Host = c.Host
	for k, v := range r.Header {
		req.Header.Set(k, v)
	}
	resp, err := c.http().Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	a := Answer{
		Status: resp.StatusCode, Pod: resp.Header.Get("Counter-Name"), Instance: resp.Header.Get("Counter-Instance"),
		Body: string(body), Header: resp.Header,
	}
	a.Count, _ = strconv.Atoi(resp.Header.Get("Counter-Count")) // 0 where a counter did not count
	return a, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http().CloseIdleConnections() }

// Series sends a request several times, one after the other, and returns the answers. An answer that no counter gave ends it with
// an error.
func (c *Client) Series(ctx context.Context, n int, r Request) ([]Answer, error) {
	var all []Answer
	for i := range n {
		a, err := c.Ask(ctx, r)
		if err == nil {
			err = a.OK()
		}
		if err != nil {
			return all, fmt.Errorf("request %d of %d: %w", i+1, n, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// Pods counts answers by pod.
func Pods(answers []Answer) map[string]int {
	return tally(answers, func(a Answer) string { return a.Pod })
}

// Revisions counts answers by revision.
func Revisions(answers []Answer) map[string]int { return tally(answers, Answer.Revision) }

func tally(answers []Answer, by func(Answer) string) map[string]int {
	counts := map[string]int{}
	for _, a := range answers {
		counts[by(a)]++
	}
	return counts
}
