package endpoint

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Probe is an active check of one endpoint. An endpoint that several services list is probed once.
//
// An endpoint that appears is down until HealthyThreshold probes in a row were good. One that was there when this gateway began
// is ready until its first result, which decides alone: a gateway that restarts answers for healthy services at once, moves no
// session while it does not know, and leaves out dead endpoints after one probe. First probes are made at once, side by side.
type Probe struct {
	HTTPPath           string        // GET this path, 200–399 is good, redirects are not followed; "" connects by TCP only
	HTTPHost           string        // the Host header; "" is the endpoint's address
	UDP                bool          // send one datagram of UDPSend instead, see UDPSend
	UDPSend            string        // bytes of the datagram; any datagram that the endpoint answers with is good
	Port               int           // another port than the endpoint's; 0 is the same
	Interval           time.Duration // from one probe to the next, give or take a tenth; default 5s
	Timeout            time.Duration // default 1s
	HealthyThreshold   int           // good results in a row until ready; default 1
	UnhealthyThreshold int           // bad results in a row until down; default 3
}

// withDefaults returns p with every value that was left out replaced.
func (p Probe) withDefaults() Probe {
	if p.Interval <= 0 {
		p.Interval = 5 * time.Second
	}
	if p.Timeout <= 0 {
		p.Timeout = time.Second
	}
	if p.HealthyThreshold <= 0 {
		p.HealthyThreshold = 1
	}
	if p.UnhealthyThreshold <= 0 {
		p.UnhealthyThreshold = 3
	}
	return p
}

// address returns where to probe an endpoint with that address.
func (p Probe) address(endpoint string) (string, error) {
	if p.Port == 0 {
		return endpoint, nil
	}
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", fmt.Errorf("probing another port: %w", err)
	}
	return net.JoinHostPort(host, strconv.Itoa(p.Port)), nil
}

// maxProbeBody is how much of a response is read. Reading it lets a server end its answer in peace.
const maxProbeBody = 64 << 10

// A prober makes single probes. Every probe has a connection of its own, because a kept one would prove nothing about new ones.
type prober struct {
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	client *http.Client
}

func newProber() prober { return proberOver((&net.Dialer{}).DialContext) }

// proberOver returns a prober that connects by dial.
func proberOver(dial func(ctx context.Context, network, address string) (net.Conn, error)) prober {
	return prober{dial: dial, client: &http.Client{
		Transport: &http.Transport{
			DialContext: dial, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// probe checks one endpoint; nil is good.
func (p prober) probe(ctx context.Context, endpoint string, rule Probe) error {
	ctx, cancel := context.WithTimeout(ctx, rule.Timeout)
	defer cancel()
	address, err := rule.address(endpoint)
	if err != nil {
		return err
	}
	switch {
	case rule.UDP:
		return p.exchange(ctx, address, rule.UDPSend)
	case rule.HTTPPath != "":
		return p.get(ctx, address, rule)
	}
	conn, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	_ = conn.Close() // that it opened is all that was asked
	return nil
}

// get checks one endpoint by HTTP.
func (p prober) get(ctx context.Context, address string, rule Probe) error {
	url := "http://" + address + "/" + strings.TrimPrefix(rule.HTTPPath, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Host = rule.HTTPHost
	request.Header.Set("User-Agent", "limpet-probe")
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxProbeBody) // the status is the answer, whatever becomes of the body
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("GET %s: status %d", url, response.StatusCode)
	}
	return nil
}
