package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/redis"
	"github.com/limpet-project/limpet/telemetry"
)

// A store is where a gateway's bindings are, with everything around it that the configuration asks for: one gateway's memory, or
// Redis behind a near cache and a breaker.
type store struct {
	binding.Store
	drains  endpoint.DrainStore // nil keeps drains in this gateway
	timeout time.Duration       // of one request's waits; 0 is the router's default
	memory  *binding.Memory     // nil with Redis
	redis   *redis.Store        // nil with memory
	near    *binding.Near
	breaker *binding.Degraded
	digest  string // fingerprint of the digest secret
	log     *slog.Logger
	table   atomic.Pointer[endpoint.Table] // counts bound sessions, once it exists

	greeted  chan struct{}         // closed when the store has answered, or was given the time to
	mismatch atomic.Pointer[error] // why other gateways do not find our bindings
}

// openStore makes the store that the configuration names. Redis need not answer yet.
func openStore(c *config.Config, s *secrets, m *telemetry.Metrics, log *slog.Logger) (*store, error) {
	st := &store{digest: s.digester.Fingerprint(), log: log, greeted: make(chan struct{})}
	r := c.Store.Redis
	if r == nil {
		o := binding.MemoryOptions{Census: st.count}
		if c.Store.Memory != nil {
			o.Max = c.Store.Memory.MaxBindings
		}
		st.memory = binding.NewMemory(o)
		st.Store = st.memory
		close(st.greeted)
		return st, nil
	}
	o, err := redisOptions(r, log)
	if err != nil {
		return nil, err
	}
	if st.redis, err = redis.Open(o); err != nil {
		return nil, UsageError{fmt.Errorf("store.redis: %w", err)}
	}
	st.timeout, st.drains = time.Duration(r.Timeout), st.redis
	st.near = binding.NewNear(m.ObserveStore(st.redis), binding.NearOptions{Max: c.NearCache.MaxEntries, Census: st.count})
	st.breaker = binding.NewDegraded(st.near, binding.DegradedOptions{Log: log})
	st.Store = st.breaker
	return st, nil
}

// backgroundTimeout bounds the calls of the store for which no request waits: renewals, restoring, drains, operators' lists. A
// request's own waits are the router's to bound.
const backgroundTimeout = time.Second

// redisOptions reads the files that the configuration of Redis names.
func redisOptions(r *config.RedisStore, log *slog.Logger) (redis.Options, error) {
	o := redis.Options{
		Addresses: r.Addresses, Mode: redis.Mode(r.Mode), MasterName: r.MasterName, Username: r.Username,
		SentinelUsername: r.SentinelUsername, DB: r.Database, Prefix: r.Prefix,
		CallTimeout: max(time.Duration(r.Timeout), backgroundTimeout), Log: log,
	}
	var err error
	if o.SentinelPassword, err = password(r.SentinelPasswordFile); err != nil {
		return o, err
	}
	if r.PasswordFile != "" {
		// Read for each connection, so that a changed password needs no restart.
		o.Credentials = func() (string, string, error) {
			p, err := password(r.PasswordFile)
			return r.Username, p, err
		}
	}
	if r.TLS != nil {
		o.TLS, err = clientTLS(r.TLS)
	}
	return o, err
}

// password reads a file that holds a password; a line break at its end does not count.
func password(file config.Path) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(string(file))
	if err != nil {
		return "", fmt.Errorf("reading a password: %w", err)
	}
	return string(bytes.TrimRight(data, "\r\n")), nil
}

func clientTLS(t *config.ClientTLS) (*tls.Config, error) {
	out := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(string(t.CAFile))
		if err != nil {
			return nil, fmt.Errorf("reading authorities: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, UsageError{fmt.Errorf("%s: expected certificates in PEM", t.CAFile)}
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(string(t.CertFile), string(t.KeyFile))
		if err != nil {
			return nil, UsageError{fmt.Errorf("%s: %w", t.CertFile, err)}
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// count tells the table how many sessions are bound where.
func (s *store) count(service affinity.ServiceName, t affinity.Target, delta int) {
	if table := s.table.Load(); table != nil {
		table.Count(service, t, delta)
	}
}

// run keeps the near cache fresh, watches over the breaker, and compares digest secrets, until ctx ends.
func (s *store) run(ctx context.Context) {
	if s.redis == nil {
		return
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { s.near.Run(ctx) })
	parts.Go(func() { s.breaker.Run(ctx) })
	parts.Go(func() { s.compareSecrets(ctx) })
	parts.Go(func() { s.greet(ctx) })
}

// greetTime is how long a gateway that starts takes no requests because its store has not answered yet: it would not know the
// sessions of the others. Clients that connect meanwhile wait. A gateway whose store is away begins after it.
const greetTime = time.Second

// greet waits for the store's first answer.
func (s *store) greet(ctx context.Context) {
	defer close(s.greeted)
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.redis.Ping(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// compareEvery is how often the digest secret is compared with the other gateways': the store may have been emptied.
const compareEvery = 10 * time.Second

// compareSecrets checks that all gateways of the store have the same digest secret.
func (s *store) compareSecrets(ctx context.Context) {
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := s.redis.CheckFingerprint(ctx, s.digest)
		switch {
		case errors.Is(err, redis.ErrSecretMismatch):
			if s.mismatch.Swap(&err) == nil {
				s.log.Error("this gateway's digest secret is not the other gateways'", "error", err)
			}
		case err == nil:
			s.mismatch.Store(nil)
		}
		if wait = compareEvery; err != nil {
			wait = time.Second
		}
	}
}

// ready returns why no traffic should come because of the store. A store that is away is no such reason for long.
func (s *store) ready() error {
	select {
	case <-s.greeted:
	default:
		return errors.New("the store has not answered yet")
	}
	if err := s.mismatch.Load(); err != nil {
		return *err
	}
	return nil
}

// A storeView is the store's state as the admin API shows it.
type storeView struct {
	Kind        string    `json:"kind"`  // memory or redis
	State       string    `json:"state"` // closed: asked; open: away, nobody asks it
	Since       time.Time `json:"since,omitzero"`
	Error       string    `json:"error,omitempty"` // why it is away
	Bindings    int       `json:"bindings"`        // known to this gateway
	LastKnown   int       `json:"lastKnown"`
	Provisional int       `json:"provisional"`
	Secret      string    `json:"secret"` // fingerprint of the digest secret
	Mismatch    string    `json:"mismatch,omitempty"`
}

// view describes the store for operators.
func (s *store) view() any {
	if s.redis == nil {
		return storeView{Kind: "memory", State: "closed", Bindings: s.memory.Stats().Bindings, Secret: s.digest}
	}
	d := s.breaker.State()
	v := storeView{
		Kind: "redis", State: "closed", Since: d.Since, Bindings: s.near.Len(),
		LastKnown: d.LastKnown, Provisional: d.Provisional, Secret: s.digest,
	}
	if d.Open {
		v.State = "open"
	}
	if d.Err != nil {
		v.Error = d.Err.Error()
	}
	if err := s.ready(); err != nil {
		v.Mismatch = err.Error()
	}
	return v
}

// status describes the store for metrics.
func (s *store) status() telemetry.StoreStatus {
	if s.redis == nil {
		m := s.memory.Stats()
		return telemetry.StoreStatus{
			Bindings: int64(m.Bindings), LastKnown: -1, Provisional: -1, Evicted: int64(m.Evicted), Expired: int64(m.Expired),
		}
	}
	d := s.breaker.State()
	return telemetry.StoreStatus{
		Away: d.Open, Bindings: int64(s.near.Len()), LastKnown: int64(d.LastKnown), Provisional: int64(d.Provisional),
		Evicted: -1, Expired: -1,
	}
}

// close ends the connections to Redis.
func (s *store) close() {
	if s.redis != nil {
		_ = s.redis.Close() // nothing is lost with it
	}
}
