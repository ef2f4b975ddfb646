package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"text/tabwriter"

	"github.com/limpet-project/limpet/admin"
)

// servicesCommand shows what a gateway knows of its endpoints.
type servicesCommand struct{ adminFlags }

// Run prints one line an endpoint, and then one for each listener that leads to a service without routes.
func (c servicesCommand) Run(ctx context.Context) error {
	var services []admin.ServiceView
	if err := c.call(ctx, http.MethodGet, "/services", nil, &services); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, services)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	printEndpoints(w, services)
	if err := w.Flush(); err != nil {
		return err
	}
	printListeners(w, services)
	return w.Flush()
}

func printEndpoints(w io.Writer, services []admin.ServiceView) {
	fmt.Fprintln(w, "SERVICE\tREVISION\tWEIGHT\tENDPOINT\tADDRESS\tSTATE\tIN FLIGHT\tQUEUED\tSESSIONS")
	for _, s := range services {
		name := serviceText(s.ServiceRef)
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
}

// printListeners prints those for TCP and UDP, if there are any.
func printListeners(w io.Writer, services []admin.ServiceView) {
	header := "\nLISTENER\tPROTOCOL\tADDRESS\tSERVICE\n"
	for _, s := range services {
		for _, l := range s.Listeners {
			fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\n", header, l.Name, l.Protocol, l.Address, serviceText(s.ServiceRef))
			header = ""
		}
	}
}

func serviceText(s admin.ServiceRef) string {
	if s.Namespace == "" {
		return s.Name
	}
	return s.Namespace + "/" + s.Name
}
