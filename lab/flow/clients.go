package flow

import (
	"container/list"
	"net/netip"
	"time"
)

// A clientKey names a client of one port of a Service.
type clientKey struct {
	service *service
	client  netip.Addr
}

// A client is what is remembered of one.
type client struct {
	key     clientKey
	last    netip.AddrPort // where its last flow went
	seen    time.Time
	window  ring
	movedIn uint64 // the number of the interval in which it moved last, from 1
}

// clients remembers a bounded number of clients. The one that was seen longest ago goes for another.
type clients struct {
	limit     int
	slots     int
	byKey     map[clientKey]*list.Element
	order     *list.List // of *client, the one seen last in front
	forgotten uint64
}

func newClients(limit, slots int) *clients {
	return &clients{limit: limit, slots: slots, byKey: map[clientKey]*list.Element{}, order: list.New()}
}

// touch returns a client, and whether it was known.
func (c *clients) touch(key clientKey, now time.Time) (*client, bool) {
	if e, ok := c.byKey[key]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*client), true
	}
	if c.order.Len() == c.limit {
		c.evict(now)
	}
	one := &client{key: key, window: newRing(c.slots)}
	c.byKey[key] = c.order.PushFront(one)
	return one, false
}

// evict forgets the client that was seen longest ago.
func (c *clients) evict(now time.Time) {
	oldest := c.order.Back()
	one := oldest.Value.(*client)
	if one.window.sum > 0 || one.held(now) {
		c.forgotten++
	}
	c.remove(oldest)
}

func (c *clients) remove(e *list.Element) {
	delete(c.byKey, c.order.Remove(e).(*client).key)
}

// held reports whether affinity was to keep the client where it went last.
func (c *client) held(now time.Time) bool {
	return c.key.service.timeout > 0 && now.Sub(c.seen) <= c.key.service.timeout
}

// advance goes on to a slot and forgets clients of which nothing matters any more, and those of Services that are gone.
func (c *clients) advance(slot int, now time.Time) {
	for e := c.order.Front(); e != nil; {
		next, one := e.Next(), e.Value.(*client)
		one.window.clear(slot)
		if one.key.service.gone || one.window.sum == 0 && !one.held(now) {
			c.remove(e)
		}
		e = next
	}
}

// weights returns the flows of each client in the window, by Service.
func (c *clients) weights() map[*service][]float64 {
	all := map[*service][]float64{}
	for e := c.order.Front(); e != nil; e = e.Next() {
		if one := e.Value.(*client); one.window.sum > 0 {
			all[one.key.service] = append(all[one.key.service], float64(one.window.sum))
		}
	}
	return all
}
