package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"text/tabwriter"

	"github.com/limpet-project/limpet/admin"
)

// servicesCommand shows what a gateway knows of its endpoints.
type servicesCommand struct{ adminFlags }

// Run prints one line an endpoint.
func (c servicesCommand) Run(ctx context.Context) error {
	var services []admin.ServiceView
	if err := c.call(ctx, http.MethodGet, "/services", nil, &services); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, services)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "SERVICE\tREVISION\tWEIGHT\tENDPOINT\tADDRESS\tSTATE\tIN FLIGHT\tQUEUED\tSESSIONS")
	for _, s := range services {
		name := s.Name
		if s.Namespace != "" {
			name = s.Namespace + "/" + name
		}
		for _, r := range s.Revisions {
			for _, e := range r.Endpoints {
				state := e.State
				if e.Cause != "" {
					state += " (" + e.Cause + ")"
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%d\t%d\t%d\n",
					name, r.Name, r.Weight, e.Name, e.Address, state, e.InFlight, e.Queued, e.Sessions)
			}
		}
	}
	return nil
}
