package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/router"
)

// explainCommand asks a running gateway what it would do with a request.
type explainCommand struct {
	adminFlags
	URL    string   `arg:"" help:"The request's URL, as the client would use it: http://host/path?query."`
	Header []string `short:"H" help:"A request header, as for curl." placeholder:"NAME: VALUE" sep:"none"`
	Cookie []string `short:"b" help:"A cookie, as for curl." placeholder:"NAME=VALUE" sep:"none"`
	Method string   `short:"X" help:"The method." default:"GET"`
	Client string   `help:"The client's address." placeholder:"ADDR"`
}

// Run prints the steps of the decision.
func (c explainCommand) Run(ctx context.Context) error {
	q := admin.Question{Method: c.Method, URL: c.URL, Header: map[string][]string{}, Client: c.Client}
	if !strings.Contains(q.URL, "://") {
		q.URL = "http://" + q.URL
	}
	for _, h := range c.Header {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return usageError{fmt.Errorf("-H %q: expected NAME: VALUE", h)}
		}
		name = http.CanonicalHeaderKey(strings.TrimSpace(name))
		q.Header[name] = append(q.Header[name], strings.TrimSpace(value))
	}
	if len(c.Cookie) > 0 {
		q.Header["Cookie"] = append(q.Header["Cookie"], strings.Join(c.Cookie, "; "))
	}
	var e router.Explanation
	if err := c.call(ctx, http.MethodPost, "/explain", q, &e); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, e)
	}
	printExplanation(e)
	return nil
}

func printExplanation(e router.Explanation) {
	fmt.Printf("service   %s\n", e.Service)
	if e.Tag != "" {
		fmt.Printf("tag       %s\n", e.Tag)
	}
	for i, s := range e.Steps {
		fmt.Printf("%7d.  %s\n", i+1, s)
	}
	if e.Error != "" {
		fmt.Printf("answer    error: %s\n", e.Error)
		return
	}
	fmt.Printf("answer    %s/%s at %s, reason %s\n", e.Revision, e.Endpoint, e.Address, e.Reason)
}
