package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// serviceRef reads "namespace/name" or "name".
func serviceRef(s string) admin.ServiceRef {
	if namespace, name, ok := strings.Cut(s, "/"); ok {
		return admin.ServiceRef{Namespace: namespace, Name: name}
	}
	return admin.ServiceRef{Name: s}
}

// bindingsCommand lists bindings.
type bindingsCommand struct {
	adminFlags
	Service string `arg:"" help:"The service, as [NAMESPACE/]NAME."`
	Limit   int    `help:"Print at most so many." default:"1000"`
}

// Run prints the bindings of a service, page by page.
func (c bindingsCommand) Run(ctx context.Context) error {
	if c.Limit < 1 {
		return usageError{fmt.Errorf("--limit: got %d, expected 1 or more", c.Limit)}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	if c.Output == "text" {
		fmt.Fprintln(w, "KIND\tTAG\tKEY\tREVISION\tENDPOINT\tAGE\tENDS IN")
	}
	ref, cursor := serviceRef(c.Service), ""
	for left := c.Limit; left > 0; {
		q := url.Values{
			"namespace": {ref.Namespace}, "service": {ref.Name}, "cursor": {cursor},
			"limit": {fmt.Sprint(min(left, 1000))},
		}
		var page admin.Page
		if err := c.call(ctx, http.MethodGet, "/bindings?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		for _, b := range page.Bindings[:min(left, len(page.Bindings))] {
			if c.Output == "json" {
				if err := printJSON(os.Stdout, b); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
				b.Kind, orDash(b.Tag), b.Key, b.Revision, orDash(b.Endpoint), since(b.Made), until(b.Ends))
		}
		left -= len(page.Bindings)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	return nil
}

// orDash keeps an empty cell of a table visible.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func since(t time.Time) string { return time.Since(t).Round(time.Second).String() }

func until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Until(t).Round(time.Second).String()
}

// forgetCommand deletes one binding.
type forgetCommand struct {
	adminFlags
	Service string `arg:"" help:"The service, as [NAMESPACE/]NAME."`
	Key     string `arg:"" help:"The key, as limpet bindings prints it."`
	Kind    string `help:"session or flow." enum:"session,flow" default:"session"`
	Tag     string `help:"The tag in whose scope the key is."`
}

// Run forgets the binding on every gateway that shares the store.
func (c forgetCommand) Run(ctx context.Context) error {
	order := admin.ForgetOrder{Service: serviceRef(c.Service), Kind: c.Kind, Tag: c.Tag, Key: c.Key}
	if err := c.call(ctx, http.MethodDelete, "/bindings", order, nil); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, order)
	}
	fmt.Printf("forgot %s %s of %s\n", c.Kind, c.Key, c.Service)
	return nil
}

// drainCommand orders or cancels a drain.
type drainCommand struct {
	adminFlags
	Service  string        `arg:"" help:"The service, as [NAMESPACE/]NAME."`
	Revision string        `arg:"" help:"The revision."`
	Endpoint string        `arg:"" help:"The endpoint."`
	Deadline time.Duration `help:"When its sessions have to leave, from now; 0 is never."`
	Cancel   bool          `help:"End an earlier order."`
}

// Run gives the order to every gateway that shares the store.
func (c drainCommand) Run(ctx context.Context) error {
	if c.Deadline < 0 {
		return usageError{fmt.Errorf("--deadline: got %s, expected 0 or more", c.Deadline)}
	}
	order := admin.DrainOrder{
		Service: serviceRef(c.Service), Revision: c.Revision, Endpoint: c.Endpoint,
		Deadline: affinity.Duration(c.Deadline), Cancel: c.Cancel,
	}
	var d endpoint.Drain
	if err := c.call(ctx, http.MethodPost, "/drain", order, &d); err != nil {
		return err
	}
	switch {
	case c.Output == "json":
		return printJSON(os.Stdout, d)
	case c.Cancel:
		fmt.Printf("%s/%s takes new sessions again\n", c.Revision, c.Endpoint)
	case d.Until.IsZero():
		fmt.Printf("%s/%s takes no new sessions and keeps its own\n", c.Revision, c.Endpoint)
	default:
		fmt.Printf("%s/%s takes no new sessions and keeps its own until %s\n", c.Revision, c.Endpoint, d.Until.Format(time.RFC3339))
	}
	return nil
}
