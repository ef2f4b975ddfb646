package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/router"
)

// explainCommand asks a running gateway what it would do with a request, or with a connection or datagram of a client.
type explainCommand struct {
	adminFlags
	URL    string   `arg:"" help:"The request's URL, http://host/path?query; for TCP and UDP tcp://LISTENER or udp://LISTENER, a name or host:port."`
	Header []string `short:"H" help:"A request header, as for curl." placeholder:"NAME: VALUE" sep:"none"`
	Cookie []string `short:"b" help:"A cookie, as for curl." placeholder:"NAME=VALUE" sep:"none"`
	Method string   `short:"X" help:"The method; GET unless given."`
	Client string   `help:"The client's address, which is all that TCP and UDP know of it." placeholder:"ADDR"`
}

// Run prints the steps of the decision.
func (c explainCommand) Run(ctx context.Context) error {
	q, err := c.question()
	if err != nil {
		return usageError{err}
	}
	var a admin.Answer
	if err := c.call(ctx, http.MethodPost, "/explain", q, &a); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, a)
	}
	printExplanation(os.Stdout, a)
	return nil
}

// question makes of the command line what the gateway is asked.
func (c explainCommand) question() (admin.Question, error) {
	q := admin.Question{Method: c.Method, URL: c.URL, Header: map[string][]string{}, Client: c.Client}
	if !strings.Contains(q.URL, "://") {
		q.URL = "http://" + q.URL
	}
	protocol, _, _ := strings.Cut(q.URL, "://")
	if protocol = strings.ToLower(protocol); protocol == "tcp" || protocol == "udp" {
		return q, c.checkClient(protocol)
	}
	for _, h := range c.Header {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return q, fmt.Errorf("-H %q: expected NAME: VALUE", h)
		}
		name = http.CanonicalHeaderKey(strings.TrimSpace(name))
		q.Header[name] = append(q.Header[name], strings.TrimSpace(value))
	}
	if len(c.Cookie) > 0 {
		q.Header["Cookie"] = append(q.Header["Cookie"], strings.Join(c.Cookie, "; "))
	}
	return q, nil
}

// checkClient returns what is wrong with the flags where a client has nothing but its address.
func (c explainCommand) checkClient(protocol string) error {
	if len(c.Header)+len(c.Cookie) > 0 || c.Method != "" {
		return fmt.Errorf("-H, -b, -X: expected none with %s://, where a client has nothing but its address", protocol)
	}
	if c.Client == "" {
		return fmt.Errorf("--client: missing, expected the client's IP address: %s has no other id", protocol)
	}
	if _, err := netip.ParseAddr(c.Client); err != nil {
		return fmt.Errorf("--client: got %q, expected an IP address", c.Client)
	}
	return nil
}

func printExplanation(w io.Writer, a admin.Answer) {
	if l := a.Listener; l != nil {
		fmt.Fprintf(w, "listener  %s, %s at %s\n", l.Name, l.Protocol, l.Address)
	}
	fmt.Fprintf(w, "service   %s\n", a.Service)
	if a.Tag != "" {
		fmt.Fprintf(w, "tag       %s\n", a.Tag)
	}
	if a.Listener != nil {
		printKey(w, "session", a.Session)
		printKey(w, "flow", a.Flow)
	}
	for i, s := range a.Steps {
		fmt.Fprintf(w, "%7d.  %s\n", i+1, s)
	}
	if a.Error != "" {
		fmt.Fprintf(w, "answer    error: %s\n", a.Error)
		return
	}
	if a.Listener == nil {
		fmt.Fprintf(w, "answer    %s/%s at %s, reason %s\n", a.Revision, a.Endpoint, a.Address, a.Reason)
		return
	}
	fmt.Fprintf(w, "answer    %s/%s at %s (%s), reason %s\n", a.Revision, a.Endpoint, a.Address, a.State, a.Reason)
	for i, p := range a.Next {
		fmt.Fprintf(w, "%-10s%s/%s at %s (%s)\n", []string{"if gone", "then"}[min(i, 1)], a.Revision, p.Endpoint, p.Address, p.State)
	}
}

// printKey says what is known of one key: what it is made of, the key itself as limpet forget takes it, and what it is bound to.
func printKey(w io.Writer, kind string, f *router.KeyFact) {
	if f == nil {
		return
	}
	source := f.Source
	if f.Prefix > 0 {
		source += " /" + strconv.Itoa(f.Prefix)
	}
	fmt.Fprintf(w, "%-10s%s, mode %s\n", kind, source, f.Mode)
	fmt.Fprintf(w, "%-10s%s\n", "key", f.Digest)
	if f.BoundTo == "" {
		return
	}
	ends := ""
	if !f.Ends.IsZero() {
		ends = ", ends " + f.Ends.UTC().Format(time.RFC3339) + " unless it is used"
	}
	fmt.Fprintf(w, "%-10s%s, made %s%s\n", "bound to", f.BoundTo, f.Made.UTC().Format(time.RFC3339), ends)
}
