package flow

import (
	"errors"
	"fmt"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
)

// A Source is how Watch hears of new flows.
type Source string

// The sources. Auto is Events if the kernel tells them, else Poll.
const (
	Auto   Source = "auto"
	Events Source = "events" // the kernel tells each new flow
	Poll   Source = "poll"   // the whole table of connections is read in each interval
)

// Defaults and limits of Options.
const (
	DefaultInterval = 2 * time.Second
	DefaultWindow   = time.Minute
	DefaultReread   = 10 * time.Second
	// DefaultClients are remembered in about 25 MiB, with the default window and interval.
	DefaultClients = 1 << 16

	minInterval = 100 * time.Millisecond
	maxClients  = 1 << 22
	maxSlots    = 600 // intervals in a window: each client has a number for each
)

// Options say what is watched and how. The zero Options watch every Service with affinity, by the defaults.
type Options struct {
	Service  clientip.ServicePort // if it has a name: only this Service, with affinity or not; an empty Port or Protocol is any
	Interval time.Duration        // between reports
	Window   time.Duration        // over which spread is measured, a whole number of intervals
	Reread   time.Duration        // how often rules and lists are read
	Clients  int                  // how many clients are remembered, of all Services together
	Source   Source
}

// normal returns the Options with their defaults.
func (o Options) normal() Options {
	defaults := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	defaults(&o.Interval, DefaultInterval)
	defaults(&o.Window, max(DefaultWindow, o.Interval)/o.Interval*o.Interval)
	defaults(&o.Reread, DefaultReread)
	if o.Clients == 0 {
		o.Clients = DefaultClients
	}
	if o.Source == "" {
		o.Source = Auto
	}
	return o
}

// slots is the number of intervals in a window.
func (o Options) slots() int { return int(o.Window / o.Interval) }

// Check says what is wrong with Options, or nil.
func (o Options) Check() error {
	o = o.normal()
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Interval < minInterval {
		wrong("interval: got %s, expected at least %s", o.Interval, minInterval)
	} else if n := o.slots(); o.Window%o.Interval != 0 || n < 1 || n > maxSlots {
		wrong("window: got %s, expected 1 to %d times the interval of %s", o.Window, maxSlots, o.Interval)
	}
	if o.Reread < minInterval {
		wrong("time between readings of the rules: got %s, expected at least %s", o.Reread, minInterval)
	}
	if o.Clients < 1 || o.Clients > maxClients {
		wrong("clients: got %d, expected 1 to %d", o.Clients, maxClients)
	}
	if o.Source != Auto && o.Source != Events && o.Source != Poll {
		wrong("source: got %q, expected auto, events or poll", o.Source)
	}
	return errors.Join(errs...)
}
