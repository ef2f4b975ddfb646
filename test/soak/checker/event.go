package checker

import (
	"fmt"
	"time"
)

// A Kind says what an [Event] did.
type Kind uint8

// The kinds of event.
const (
	Added          Kind = iota + 1 // an endpoint was listed, or listed again, or a drain was ended
	Draining                       // an endpoint takes no new sessions and loses its own at Until
	Removed                        // an endpoint is no longer listed
	Killed                         // an endpoint's process was killed
	Started                        // an endpoint's process runs again, under its name
	Weighted                       // a revision's weight was set
	StoreLost                      // the store stopped answering
	StoreRecovered                 // the store answers again; Emptied says whether it forgot everything
	GatewayDown                    // a gateway was told to end
	GatewayUp                      // a gateway runs again and has forgotten what it knew
)

var kindNames = [...]string{
	Added: "added", Draining: "draining", Removed: "removed", Killed: "killed", Started: "started", Weighted: "weighted",
	StoreLost: "store lost", StoreRecovered: "store recovered", GatewayDown: "gateway down", GatewayUp: "gateway up",
}

// String returns the kind in words.
func (k Kind) String() string {
	if int(k) < len(kindNames) && k != 0 {
		return kindNames[k]
	}
	return "unknown"
}

// An Event is one deed of the driver. Times count from the beginning of the run; what was so from the beginning may have negative
// ones. The deed was begun at From and finished at To, so it had no effect before From.
type Event struct {
	From, To time.Duration
	Kind     Kind
	Endpoint string        // of Added, Draining, Removed, Killed, Started
	Revision string        // of Weighted, and of Added
	Gateway  string        // of GatewayDown and GatewayUp
	Weight   int           // of Weighted
	Until    time.Duration // of Draining; 0 is no deadline
	Emptied  bool          // of StoreRecovered
}

// String returns the event as a line of a log.
func (e Event) String() string {
	s := fmt.Sprintf("%8.3fs %s", e.From.Seconds(), e.Kind)
	switch e.Kind {
	case Weighted:
		return fmt.Sprintf("%s %s=%d", s, e.Revision, e.Weight)
	case Draining:
		return fmt.Sprintf("%s %s until %.3fs", s, e.Endpoint, e.Until.Seconds())
	case StoreRecovered:
		return fmt.Sprintf("%s emptied=%t", s, e.Emptied)
	case GatewayDown, GatewayUp:
		return s + " " + e.Gateway
	case StoreLost:
		return s
	}
	return s + " " + e.Endpoint
}

// Allowances say how long after a deed some gateway may still act as before it. The zero Allowances are none at all.
type Allowances struct {
	// Reload is for changes of the configuration file: the poll's interval, reading, and publishing.
	Reload time.Duration
	// Detect is for a killed replica to be found dead.
	Detect time.Duration
	// Recover is for a replica that runs again, or is listed anew, to be found healthy by probes and by requests.
	Recover time.Duration
	// Settle is for the store's return: noticing it, restoring bindings, and agreeing on those that differ.
	Settle time.Duration
	// Cache is for a session's move to reach the caches of other gateways.
	Cache time.Duration
}

// String lists the allowances for the head of a report.
func (a Allowances) String() string {
	return fmt.Sprintf("reload %v, detect %v, recover %v, settle %v, cache %v", a.Reload, a.Detect, a.Recover, a.Settle, a.Cache)
}

// An Observation is one attempt of a client to have a request answered, by one gateway.
type Observation struct {
	Session  string // "" for none
	Flow     string // "" for none
	Gateway  string // whom the client asked
	Start    time.Duration
	End      time.Duration
	Status   int    // 0 if the connection broke or was refused
	Endpoint string // who answered, by its own word; "" if no replica did
	Revision string // which revision answered, by its own word
	// Instance names the answering process, which differs from process to process of one endpoint, and Count is its count of this
	// session. Both may be left out.
	Instance string
	Count    int
}

// Answered reports whether a replica answered.
func (o *Observation) Answered() bool { return o.Endpoint != "" && o.Status < 500 }

// String returns the observation as a line of a report.
func (o *Observation) String() string {
	who := o.Endpoint
	if !o.Answered() {
		who = fmt.Sprintf("status %d", o.Status)
	}
	return fmt.Sprintf("[%.4fs %.4fs] via %s: %s", o.Start.Seconds(), o.End.Seconds(), o.Gateway, who)
}
