package endpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Drain is an operator's order that an endpoint take no new sessions and lose its own at a deadline. It holds for the endpoint,
// whichever service it is reached by.
type Drain struct {
	Service  affinity.ServiceName `json:"service"`
	Revision string               `json:"revision"`
	Endpoint string               `json:"endpoint"`
	Until    time.Time            `json:"until"`  // when its sessions have to leave; the zero time: never
	Cancel   bool                 `json:"cancel"` // ends an earlier order
}

// A DrainStore shares drains between gateways. Drains returns the orders in force. It is safe for concurrent use.
type DrainStore interface {
	Drains(ctx context.Context) ([]Drain, error)
	SetDrain(ctx context.Context, d Drain) error
}

// Errors of Drain.
var (
	// ErrUnknownEndpoint means that no such endpoint is listed here.
	ErrUnknownEndpoint = errors.New("no such endpoint is listed")
	// ErrTooManyDrains means that this process keeps as many orders as it will.
	ErrTooManyDrains = errors.New("too many drains are in force")
)

const (
	drainInterval = time.Second     // from one reading of the shared drains to the next, give or take a tenth
	drainTimeout  = 2 * time.Second // of one reading
	maxOwnDrains  = 10_000
)

// id returns the identity of the endpoint that is drained.
func (d Drain) id() identity {
	return identity{RevisionName{d.Service.Namespace, d.Revision}, d.Endpoint}
}

// Drain orders a drain, on every gateway that shares the DrainStore. It holds here when Drain returns, on the others about a second
// later. It returns ErrUnknownEndpoint for an endpoint that is not listed here, or the error of the store.
func (t *Table) Drain(ctx context.Context, d Drain) error {
	if !d.Cancel && !t.lists(d.id()) {
		return fmt.Errorf("draining %s of revision %s: %w", d.Endpoint, d.id().revision, ErrUnknownEndpoint)
	}
	if err := t.drains.SetDrain(ctx, d); err != nil {
		return fmt.Errorf("draining %s of revision %s: %w", d.Endpoint, d.id().revision, err)
	}
	t.update(func(time.Time) {
		t.ordersVersion++
		next := t.orders.clone()
		next.set(d)
		t.setOrders(next)
	})
	return nil
}

// lists reports whether an endpoint is listed, and not as gone.
func (t *Table) lists(id identity) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pools[id.revision]
	if p == nil {
		return false
	}
	m := p.find(id.endpoint)
	return m != nil && m.listed
}

// runDrains reads the shared drains about every second. If they cannot be read those last known hold.
func (t *Table) runDrains(ctx context.Context) {
	failing := false
	for {
		err := t.readDrains(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			t.logger.Warn("drains cannot be read; those last known hold", "error", err)
		case err == nil && failing:
			t.logger.Info("drains can be read again")
		}
		failing = err != nil
		if !pause(ctx, jittered(drainInterval), nil) {
			return
		}
	}
}

// jittered returns d give or take a tenth, so that gateways that began together spread out.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// readDrains takes over the orders in force. An order that was given here while they were being read may be missing in them: they
// are read again then.
func (t *Table) readDrains(ctx context.Context) error {
	t.mu.Lock()
	version := t.ordersVersion
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	drains, err := t.drains.Drains(ctx)
	if err != nil {
		return err
	}
	next := make(orders)
	for _, d := range drains {
		next.set(d)
	}
	t.update(func(time.Time) {
		if t.ordersVersion == version {
			t.setOrders(next)
		}
	})
	return nil
}

// setOrders replaces the orders in force and marks the pools that this changes.
func (t *Table) setOrders(next orders) {
	old := t.orders
	t.orders = next
	for r := range old {
		if next[r] == nil {
			t.applyOrders(r, nil)
		}
	}
	for r, drains := range next {
		if !maps.EqualFunc(drains, old[r], func(a, b Drain) bool { return a.Until.Equal(b.Until) }) {
			t.applyOrders(r, drains)
		}
	}
}

// applyOrders gives the members of one revision their orders.
func (t *Table) applyOrders(r RevisionName, drains map[string]Drain) {
	p := t.pools[r]
	if p == nil {
		return
	}
	for _, m := range p.members {
		m.order = nil
		if d, ok := drains[m.id.endpoint]; ok {
			m.order = &d
		}
	}
	t.markPool(p)
}

// Orders are the drains in force, by revision and endpoint.
type orders map[RevisionName]map[string]Drain

// set takes over one order or its end.
func (o orders) set(d Drain) {
	id := d.id()
	if d.Cancel {
		delete(o[id.revision], id.endpoint)
		if len(o[id.revision]) == 0 {
			delete(o, id.revision)
		}
		return
	}
	if o[id.revision] == nil {
		o[id.revision] = make(map[string]Drain)
	}
	o[id.revision][id.endpoint] = d
}

// find returns the order for one endpoint, nil if there is none.
func (o orders) find(id identity) *Drain {
	d, ok := o[id.revision][id.endpoint]
	if !ok {
		return nil
	}
	return &d
}

// clone returns a copy that can be changed.
func (o orders) clone() orders {
	next := make(orders, len(o))
	for r, drains := range o {
		next[r] = maps.Clone(drains)
	}
	return next
}

// ownDrains is the DrainStore of a gateway that shares with no other. The zero ownDrains is empty.
type ownDrains struct {
	mu     sync.Mutex
	orders map[identity]Drain
}

// Drains returns the orders in force.
func (o *ownDrains) Drains(context.Context) ([]Drain, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]Drain, 0, len(o.orders))
	for _, d := range o.orders {
		list = append(list, d)
	}
	return list, nil
}

// SetDrain keeps an order, or ends one.
func (o *ownDrains) SetDrain(_ context.Context, d Drain) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d.Cancel {
		delete(o.orders, d.id())
		return nil
	}
	if _, known := o.orders[d.id()]; !known && len(o.orders) >= maxOwnDrains {
		return ErrTooManyDrains
	}
	if o.orders == nil {
		o.orders = make(map[identity]Drain)
	}
	o.orders[d.id()] = d
	return nil
}

// forget ends the order for an endpoint that does not exist any longer.
func (o *ownDrains) forget(id identity) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.orders, id)
}
