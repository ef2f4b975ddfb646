package testbed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sort"
	"sync"
	"time"
)

// A Beginning says how clients begin. The kernel does not look for a client and remember it in one step, so first queries that are under way
// together may reach two endpoints although there is affinity; and Limpet places sessions by the queries under way, and the first ones with the
// narrowest bounds, so that it matters who comes first and what is under way then.
type Beginning int

// How clients begin.
const (
	OneByOne Beginning = iota // the first query of each client is answered before the next client begins, and before others of its own
	Before                    // each client asks once before the load, one after the other in any order; these queries are not returned
	Together                  // without waiting, as queries are due
)

// A Load is what clients ask. The zero value of a field is its default.
type Load struct {
	Clients []netip.Addr
	Weights []float64       // of the clients, nil is equal
	Reuse   bool            // one socket for each client instead of a fresh one for every query
	Turns   bool            // clients ask one after the other in a fixed order; else the next one is drawn by weight
	Queries int             // at most, if there is a Stop
	Stop    <-chan struct{} // no query is sent after it is closed; nil is never
	Rate    float64         // queries a second of all clients together, while the machine keeps up; default 1000
	Timeout time.Duration   // after which a query has failed; default 5 s
	Retries int             // of a query that failed, each over a fresh socket if the client has no other
	// InFlight bounds the queries that are not answered, so that a slow machine sends more slowly instead of losing some; default 64. With
	// a fault it has to be more than what fails within the timeout.
	InFlight int
	Begin    Beginning
	Seed     uint64
	Port     uint16 // of the Service; default 53
}

// A Query is what became of one.
type Query struct {
	Client   int       // the place among the load's clients
	Sent     time.Time // the first time
	Endpoint int       // that answered, -1 for none
}

// sender sends one load.
type sender struct {
	Load
	bed      *Testbed
	began    time.Time
	to       netip.AddrPort
	sums     []float64 // of the weights up to each client
	sockets  []*socket // of the clients, if they reuse them
	gates    []gate    // of the clients
	begins   sync.Mutex
	queries  []Query
	mu       sync.Mutex
	firstErr error
}

// Send sends a load and returns what became of each query, in the order of sending. It ends early with the context's error. Queries that
// are not answered are no error; what prevents sending is one.
func (b *Testbed) Send(ctx context.Context, l Load) ([]Query, error) {
	s, err := b.newSender(l)
	if err != nil {
		return nil, err
	}
	defer s.closeSockets()
	room := make(chan struct{}, s.InFlight)
	rng := rand.New(rand.NewChaCha8(seedOf(l.Seed)))
	var asked sync.WaitGroup
	if err := s.meet(ctx, rng); err != nil {
		return nil, err
	}
	s.began = time.Now()
	for k := range s.queries {
		q := &s.queries[k]
		q.Client, q.Endpoint = s.next(k, rng), -1
		if !s.wait(ctx, k, room) {
			s.queries = s.queries[:k]
			break
		}
		asked.Go(func() {
			defer func() { <-room }()
			s.ask(ctx, q)
		})
	}
	asked.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return s.queries, s.firstErr
}

// meet lets each client ask once, in any order.
func (s *sender) meet(ctx context.Context, rng *rand.Rand) error {
	if s.Begin != Before {
		return nil
	}
	for _, i := range rng.Perm(len(s.Clients)) {
		address, err := s.attempt(ctx, i)
		switch {
		case err != nil:
			return fmt.Errorf("asking as %s: %w", s.Clients[i], err)
		case ctx.Err() != nil:
			return ctx.Err()
		case !address.IsValid():
			return fmt.Errorf("asking as %s: no answer within %s", s.Clients[i], s.Timeout)
		}
	}
	return nil
}

// A gate is closed until a client's first query has been answered, or has failed.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // nil before the first query
}

// enter waits until a gate is open. The first to come there passes alone, and opens it with the function that it gets.
func (s *sender) enter(ctx context.Context, g *gate) (leave func()) {
	g.mu.Lock()
	first := g.open == nil
	if first {
		g.open = make(chan struct{})
	}
	g.mu.Unlock()
	if first {
		s.begins.Lock()
		return func() { s.begins.Unlock(); close(g.open) }
	}
	select {
	case <-g.open:
	case <-ctx.Done():
	}
	return func() {}
}

func seedOf(seed uint64) (key [32]byte) {
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return key
}

func (b *Testbed) newSender(l Load) (*sender, error) {
	if l.Rate == 0 {
		l.Rate = 1000
	}
	if l.Timeout == 0 {
		l.Timeout = 5 * time.Second
	}
	if l.InFlight == 0 {
		l.InFlight = 64
	}
	if l.Port == 0 {
		l.Port = ServicePort
	}
	if len(l.Clients) == 0 || l.Weights != nil && len(l.Weights) != len(l.Clients) {
		return nil, fmt.Errorf("got %d clients and %d weights, expected as many of both", len(l.Clients), len(l.Weights))
	}
	if l.Queries < 0 || l.Queries > MaxQueries {
		return nil, fmt.Errorf("got %d queries, expected 0 to %d", l.Queries, MaxQueries)
	}
	s := &sender{Load: l, bed: b, to: netip.AddrPortFrom(clusterIP, l.Port), queries: make([]Query, l.Queries), gates: make([]gate, len(l.Clients))}
	sum := 0.0
	for i := range l.Clients {
		w := 1.0
		if l.Weights != nil {
			w = l.Weights[i]
		}
		sum += w
		s.sums = append(s.sums, sum)
	}
	return s, s.openSockets()
}

// next returns the client that sends the kth query.
func (s *sender) next(k int, rng *rand.Rand) int {
	if s.Turns {
		return k % len(s.Clients)
	}
	at := rng.Float64() * s.sums[len(s.sums)-1]
	return min(sort.SearchFloat64s(s.sums, at), len(s.sums)-1)
}

// wait waits until the kth query is due and there is room for it, and reports whether it is to be sent.
func (s *sender) wait(ctx context.Context, k int, room chan<- struct{}) bool {
	due := s.began.Add(time.Duration(float64(k) / s.Rate * float64(time.Second)))
	if ahead := time.Until(due); ahead > time.Millisecond { // shorter sleeps are longer than asked for
		select {
		case <-time.After(ahead):
		case <-s.Stop:
		case <-ctx.Done():
		}
	}
	select {
	case <-s.Stop:
		return false
	default:
	}
	select {
	case room <- struct{}{}:
		return true
	case <-s.Stop:
		return false
	case <-ctx.Done():
		return false
	}
}

// ask sends one query, again if it fails, and notes what became of it.
func (s *sender) ask(ctx context.Context, q *Query) {
	if s.Begin == OneByOne {
		defer s.enter(ctx, &s.gates[q.Client])()
	}
	q.Sent = time.Now()
	for attempt := 0; attempt <= s.Retries && q.Endpoint < 0 && ctx.Err() == nil; attempt++ {
		address, err := s.attempt(ctx, q.Client)
		if err != nil {
			s.fail(fmt.Errorf("asking as %s: %w", s.Clients[q.Client], err))
			return
		}
		if endpoint, known := s.bed.byAddress[address]; known {
			q.Endpoint = endpoint
		}
	}
}

// fail keeps the first error.
func (s *sender) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.firstErr == nil {
		s.firstErr = err
	}
}

// attempt returns the address in the answer, or the zero Addr if there is none.
func (s *sender) attempt(ctx context.Context, client int) (netip.Addr, error) {
	if s.Reuse {
		return s.sockets[client].ask(ctx, s.Timeout)
	}
	o, err := s.open(client)
	if err != nil {
		return netip.Addr{}, err
	}
	defer o.close()
	return o.ask(ctx, s.Timeout)
}

func (s *sender) open(client int) (*socket, error) {
	conn, err := s.bed.clients.dial(s.Clients[client], s.to)
	if err != nil {
		return nil, err
	}
	return newSocket(conn), nil
}

func (s *sender) openSockets() error {
	if !s.Reuse {
		return nil
	}
	for i := range s.Clients {
		o, err := s.open(i)
		if err != nil {
			s.closeSockets()
			return fmt.Errorf("opening the socket of %s: %w", s.Clients[i], err)
		}
		s.sockets = append(s.sockets, o)
	}
	return nil
}

func (s *sender) closeSockets() {
	for _, o := range s.sockets {
		o.close()
	}
}

// A socket asks over one port, any number of queries at a time.
type socket struct {
	conn    *net.UDPConn
	reader  sync.WaitGroup
	mu      sync.Mutex
	waiting map[uint16]chan netip.Addr
}

func newSocket(conn *net.UDPConn) *socket {
	o := &socket{conn: conn, waiting: map[uint16]chan netip.Addr{}}
	o.reader.Go(o.read)
	return o
}

func (o *socket) close() {
	o.conn.Close()
	o.reader.Wait()
}

// read hands answers to who waits for them.
func (o *socket) read() {
	var in [dnsMessage]byte
	for {
		n, err := o.conn.Read(in[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		id, address, ok := parseAnswer(in[:n])
		if err != nil || !ok {
			continue // refused: who asked waits for its timeout, as there is no telling which query it was
		}
		o.mu.Lock()
		answer := o.waiting[id]
		delete(o.waiting, id)
		o.mu.Unlock()
		if answer != nil {
			answer <- address // it has room for the one
		}
	}
}

// ask sends a query and waits for its answer.
func (o *socket) ask(ctx context.Context, timeout time.Duration) (netip.Addr, error) {
	id, answer := o.register()
	defer o.forget(id, answer)
	query := appendQuery(make([]byte, 0, dnsMessage), id)
	if _, err := o.conn.Write(query); err != nil && !isRefused(err) {
		return netip.Addr{}, err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case address := <-answer:
		return address, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return netip.Addr{}, nil
}

// register takes an id that nobody waits for.
func (o *socket) register() (uint16, chan netip.Addr) {
	answer := make(chan netip.Addr, 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		id := uint16(rand.Uint32())
		if o.waiting[id] == nil {
			o.waiting[id] = answer
			return id, answer
		}
	}
}

// forget gives an id back, if nobody has taken it since it was answered.
func (o *socket) forget(id uint16, answer chan netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting[id] == answer {
		delete(o.waiting, id)
	}
}
