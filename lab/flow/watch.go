package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
)

// Where the kernel tells of its table of connections, of the network namespace of this thread.
const (
	procCount  = "/proc/sys/net/netfilter/nf_conntrack_count"
	procMax    = "/proc/sys/net/netfilter/nf_conntrack_max"
	procEvents = "/proc/sys/net/netfilter/nf_conntrack_events"
)

// Watch watches this machine, in the network namespace of the process, until the context ends, and gives each Interval to show, which it
// waits for. It needs root, the programs iptables-save or nft, and to poll the program conntrack. Rules that cannot be read at first are
// an error; later they are a note, and those before stay. An error of show ends it.
func Watch(ctx context.Context, o Options, show func(Interval) error) error {
	if err := o.Check(); err != nil {
		return err
	}
	o = o.normal()
	n, err := readNode(ctx)
	switch {
	case err != nil && interrupted(ctx):
		return nil
	case err != nil:
		return explain(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{
		options: o, tracker: NewTracker(o, time.Now()), show: show, poller: newPoller(), node: n,
		flows: make(chan clientip.Flow, 4096), nodes: make(chan reading), events: make(chan error, 1), polls: make(chan error, 1),
	}
	w.tracker.SetRules(n)
	err = w.watch(ctx)
	cancel()
	w.running.Wait()
	return err
}

// explain adds to an error of people who are not root what they have to be.
func explain(err error) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w; only root may read rules and connections", err)
	}
	return err
}

func readNode(ctx context.Context) (*clientip.Node, error) {
	return clientip.Files{NoFlows: true}.Read(ctx)
}

// A watcher is what Watch keeps. Only its own goroutine uses the Tracker.
type watcher struct {
	options  Options
	tracker  *Tracker
	show     func(Interval) error
	source   Source
	poller   *poller
	node     *clientip.Node
	overruns atomic.Uint64
	fallback string // why the table is polled
	failure  string // of the last reading of rules

	pollFailure string // of the last poll

	flows   chan clientip.Flow
	nodes   chan reading // rules that were read
	events  chan error   // how the source of events ended
	polls   chan error   // how a poll ended
	reading bool
	polling bool
	running sync.WaitGroup
}

// A reading is the outcome of reading the node.
type reading struct {
	node *clientip.Node
	err  error
}

// watch starts the source and goes on until the context ends.
func (w *watcher) watch(ctx context.Context) error {
	if err := w.choose(ctx); err != nil {
		return err
	}
	intervals, rereads := time.NewTicker(w.options.Interval), time.NewTicker(w.options.Reread)
	defer intervals.Stop()
	defer rereads.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-w.flows:
			w.tracker.Add(f, time.Now())
		case <-rereads.C:
			w.reread(ctx)
		case r := <-w.nodes:
			w.setRules(r)
		case err := <-w.events:
			if err := w.eventsEnded(ctx, err); err != nil {
				return err
			}
		case <-intervals.C:
			if err := w.endInterval(ctx); err != nil {
				return err
			}
		case err := <-w.polls:
			if err := w.pollEnded(ctx, err); err != nil {
				return err
			}
		}
	}
}

// choose starts the source of flows.
func (w *watcher) choose(ctx context.Context) error {
	if w.source = w.options.Source; w.source == Poll {
		w.startPoll(ctx)
		return nil
	}
	err := eventsOff()
	var events *eventReader
	if err == nil {
		events, err = openEvents()
	}
	switch {
	case err != nil && w.source == Events:
		return explain(err)
	case err != nil:
		w.source, w.fallback = Poll, err.Error()
		w.startPoll(ctx)
		return nil
	}
	w.source = Events
	w.running.Go(func() {
		w.events <- events.read(ctx, func(f clientip.Flow) { w.send(ctx, f) }, func() { w.overruns.Add(1) })
	})
	return nil
}

// eventsOff says why the kernel tells of no new flows, or returns nil if it does.
func eventsOff() error {
	switch text, err := os.ReadFile(procEvents); {
	case err != nil:
		return errors.New("the kernel has no events of connections (net.netfilter.nf_conntrack_events)")
	case strings.TrimSpace(string(text)) == "0":
		return errors.New("events of connections are off (net.netfilter.nf_conntrack_events)")
	}
	return nil
}

// send waits until the watcher takes a flow. What the kernel holds meanwhile is bounded, and it says when it had to drop some.
func (w *watcher) send(ctx context.Context, f clientip.Flow) {
	select {
	case w.flows <- f:
	case <-ctx.Done():
	}
}

// eventsEnded polls from now on, unless only events were wanted.
func (w *watcher) eventsEnded(ctx context.Context, err error) error {
	if err == nil || interrupted(ctx) {
		return nil
	}
	if w.options.Source == Events {
		return err
	}
	w.source, w.fallback = Poll, err.Error()
	w.startPoll(ctx)
	return nil
}

// startPoll reads the table of connections, unless it is being read.
func (w *watcher) startPoll(ctx context.Context) {
	if w.polling {
		return
	}
	w.polling = true
	w.running.Go(func() {
		w.polls <- w.poller.poll(ctx, func(f clientip.Flow) { w.send(ctx, f) })
	})
}

// pollEnded ends the interval with what the poll found. Only the first has to succeed.
func (w *watcher) pollEnded(ctx context.Context, err error) error {
	w.polling, w.pollFailure = false, ""
	switch {
	case err == nil:
	case interrupted(ctx):
		return nil
	case !w.poller.began:
		return explain(err)
	default:
		w.pollFailure = err.Error()
	}
	return w.report(ctx)
}

// interrupted reports whether a program ended because all of this is to end: a terminal interrupts all programs at once, and this one may be
// the last to hear of it.
func interrupted(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-time.After(time.Second):
		return false
	}
}

// endInterval reports, or asks for the poll whose end is that of the interval.
func (w *watcher) endInterval(ctx context.Context) error {
	if w.source == Poll {
		w.startPoll(ctx)
		return nil
	}
	return w.report(ctx)
}

// report counts the flows that wait and shows the interval.
func (w *watcher) report(ctx context.Context) error {
	for range len(w.flows) {
		w.tracker.Add(<-w.flows, time.Now())
	}
	v := w.tracker.Tick(time.Now())
	v.Source, v.Overruns, v.Notes = w.source, w.overruns.Load(), w.notes()
	v.Conntrack = Fill{readNumber(procCount), readNumber(procMax)}
	if w.tracker.Stale() {
		w.reread(ctx)
	}
	return w.show(v)
}

// notes says what an Interval does not know.
func (w *watcher) notes() []string {
	all := slices.Clone(w.node.Notes)
	if w.failure != "" {
		all = append(all, "the rules are those read before: "+w.failure)
	}
	if w.source == Poll {
		reason := ""
		if w.fallback != "" {
			reason = ": " + w.fallback
		}
		all = append(all, "the table of connections is polled: flows that begin and end between two polls are not seen, "+
			"nor is which of a client's flows was first"+reason)
	}
	if w.pollFailure != "" {
		all = append(all, w.pollFailure+"; its flows are counted by the next poll")
	}
	if w.poller.dropped && !w.polling {
		all = append(all, fmt.Sprintf("the table of connections has more than %d translated flows: new ones are not counted", w.poller.limit))
	}
	return all
}

// reread reads the rules anew, unless they are being read.
func (w *watcher) reread(ctx context.Context) {
	if w.reading {
		return
	}
	w.reading = true
	w.running.Go(func() {
		n, err := readNode(ctx)
		select {
		case w.nodes <- reading{n, err}:
		case <-ctx.Done():
		}
	})
}

// setRules takes in what was read. Without rules the ones before stay, since kube-proxy may be writing them anew.
func (w *watcher) setRules(r reading) {
	w.reading, w.failure = false, ""
	if r.err != nil {
		w.failure = r.err.Error()
		return
	}
	w.node = r.node
	w.tracker.SetRules(r.node)
}

// readNumber reads a number of the kernel, 0 if there is none.
func readNumber(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}
