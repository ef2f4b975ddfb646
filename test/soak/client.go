package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// patience bounds one attempt. Limpet may wait 10s for a full endpoint.
const patience = 15 * time.Second

// A client asks one thing at a time, over one connection to each gateway that is kept as long as it lasts. It writes requests by
// hand and never repeats one by itself, which http.Client would.
type client struct {
	fleet *fleet
	conns []*conn
	names map[string]string // one copy of each name that answers carry
}

type conn struct {
	net.Conn
	r     *bufio.Reader
	ended int64 // of its gateway, when it was made
}

func newClient(f *fleet) *client {
	return &client{fleet: f, conns: make([]*conn, len(f.gateways)), names: map[string]string{}}
}

func (c *client) close() {
	for i := range c.conns {
		c.drop(i)
	}
}

func (c *client) drop(i int) {
	if c.conns[i] != nil {
		c.conns[i].Close()
		c.conns[i] = nil
	}
}

// ask sends one request to the i-th gateway and returns what it saw.
func (c *client) ask(i int, session, flow string) checker.Observation {
	o := checker.Observation{Session: session, Flow: flow, Gateway: c.fleet.gateways[i].name, Start: c.fleet.clock()}
	if err := c.exchange(i, &o); err != nil {
		c.drop(i)
		o.Status, o.Endpoint = 0, "" // half an answer says nothing
	}
	o.End = c.fleet.clock()
	return o
}

func (c *client) exchange(i int, o *checker.Observation) error {
	g := c.fleet.gateways[i]
	ended := g.ended.Load()
	if c.conns[i] != nil && c.conns[i].ended != ended {
		c.drop(i)
	}
	if c.conns[i] == nil {
		raw, err := net.DialTimeout("tcp", g.address, patience)
		if err != nil {
			return err
		}
		c.conns[i] = &conn{raw, bufio.NewReader(raw), ended}
	}
	conn := c.conns[i]
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	request := "GET /incr HTTP/1.1\r\nHost: soak.localhost\r\n"
	if o.Session != "" {
		request += "K-Session: " + o.Session + "\r\n"
	}
	if o.Flow != "" {
		request += "K-Revision: " + o.Flow + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(conn.r, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	c.read(resp, o)
	if resp.Close {
		c.drop(i)
	}
	return nil
}

// read takes from an answer what the replica says of itself.
func (c *client) read(resp *http.Response, o *checker.Observation) {
	o.Status = resp.StatusCode
	o.Endpoint = c.name(resp.Header.Get("Counter-Name"))
	o.Revision = c.name(resp.Header.Get("Counter-Revision"))
	o.Instance = c.name(resp.Header.Get("Counter-Instance"))
	o.Count, _ = strconv.Atoi(resp.Header.Get("Counter-Count")) // absent from what is no count
}

// name returns a copy of s that does not keep the whole header alive.
func (c *client) name(s string) string {
	if known, ok := c.names[s]; ok {
		return known
	}
	own := string([]byte(s))
	c.names[own] = own
	return own
}
