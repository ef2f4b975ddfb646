package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/rueidis"
)

// Mode says what the addresses are.
type Mode string

// The modes. The zero Mode is ModeStandalone.
const (
	ModeStandalone Mode = "standalone" // one server
	ModeSentinel   Mode = "sentinel"   // sentinels that know the master
	ModeCluster    Mode = "cluster"    // some nodes of a cluster
)

// Options say which server to use and how. Addresses are required.
type Options struct {
	// Addresses are host:port each: one server, any sentinels, or any cluster nodes.
	Addresses []string
	// Mode says what Addresses are. Default standalone.
	Mode Mode
	// MasterName names the master that the sentinels watch.
	MasterName string
	// SentinelUsername and SentinelPassword are for the sentinels themselves.
	SentinelUsername, SentinelPassword string
	// Username and Password are for the servers. Default: none.
	Username, Password string
	// Credentials, if set, is asked for each new connection instead of Username and Password, so that they can rotate.
	Credentials func() (username, password string, err error)
	// TLS is used for servers and sentinels. Nil is plain TCP.
	TLS *tls.Config
	// DB is the database number, 0 in a cluster.
	DB int
	// Prefix begins every key. Default "limpet".
	Prefix string
	// ConnectTimeout bounds making a connection. No call waits for that. Default 1s.
	ConnectTimeout time.Duration
	// CallTimeout bounds every call besides its context; calls with many bindings take it for each 128. Default 50ms.
	CallTimeout time.Duration
	// Log is told when the server goes and comes. Default: nothing is logged.
	Log *slog.Logger
}

const (
	// beatInterval is how often the server is asked for the time while all is well.
	beatInterval = time.Second
	// silence is how long a server may not answer until what it would have reported counts as lost (SEMANTICS, several gateways).
	silence = 3 * time.Second
	// stallTimeout is how long a connection may owe an answer until it is closed and made anew.
	stallTimeout = time.Second
	// topologyInterval is how often sentinels and clusters are asked who is the master, in case their message was missed.
	topologyInterval = 2 * time.Second
)

// withDefaults returns o with what was left out filled in, or says what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if o.Mode == "" {
		o.Mode = ModeStandalone
	}
	if o.Prefix == "" {
		o.Prefix = "limpet"
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = time.Second
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 50 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, o.validate()
}

func (o Options) validate() error {
	for _, a := range o.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("redis address %q: want host:port", a)
		}
	}
	switch {
	case len(o.Addresses) == 0:
		return errors.New("redis addresses: want at least one host:port")
	case o.Mode == ModeStandalone && len(o.Addresses) > 1:
		return fmt.Errorf("redis addresses: mode standalone has one server, not %d", len(o.Addresses))
	case o.Mode == ModeSentinel && o.MasterName == "":
		return errors.New("redis master name: mode sentinel needs one")
	case o.Mode == ModeCluster && o.DB != 0:
		return fmt.Errorf("redis database %d: a cluster has database 0 only", o.DB)
	case o.Mode != ModeStandalone && o.Mode != ModeSentinel && o.Mode != ModeCluster:
		return fmt.Errorf("redis mode %q: want standalone, sentinel or cluster", o.Mode)
	case o.ConnectTimeout < 0 || o.CallTimeout < 0:
		return errors.New("redis timeouts: want positive durations")
	}
	return nil
}

// client returns the options of a client that tracks what it reads, or does not.
func (o Options) client(track bool, dial dialFunc, invalidated func([]rueidis.RedisMessage)) rueidis.ClientOption {
	dialer := net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: time.Second}
	c := rueidis.ClientOption{
		InitAddress: o.Addresses, ForceSingleClient: o.Mode == ModeStandalone,
		Username: o.Username, Password: o.Password, SelectDB: o.DB, ClientName: "limpet",
		ClientSetInfo: rueidis.DisableClientSetInfo,
		TLSConfig:     o.TLS, Dialer: dialer, DialCtxFn: dial, ConnWriteTimeout: stallTimeout,
		// One connection for each server: what NOLOOP leaves out is what this very connection wrote. All calls share it.
		PipelineMultiplex: -1, AlwaysPipelining: true, DisableRetry: true,
		ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
		DisableCache:  !track,
		ClusterOption: rueidis.ClusterOption{ShardsRefreshInterval: topologyInterval, MaxMovedRedirections: 3},
	}
	if track {
		c.ClientTrackingOptions, c.OnInvalidations = []string{"NOLOOP"}, invalidated
	}
	if o.Mode == ModeSentinel {
		c.Sentinel = rueidis.SentinelOption{
			MasterSet: o.MasterName, Username: o.SentinelUsername, Password: o.SentinelPassword,
			TLSConfig: o.TLS, Dialer: dialer, TopologyRefreshInterval: topologyInterval,
		}
	}
	if o.Credentials != nil {
		c.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
			user, password, err := o.Credentials()
			return rueidis.AuthCredentials{Username: user, Password: password}, err
		}
	}
	return c
}
