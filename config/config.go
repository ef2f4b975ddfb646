package config

import (
	"net/netip"

	"github.com/limpet-project/limpet/affinity"
)

// A Config is the configuration of one gateway. Make one with [Load], [Parse] or [Defaults]; it must not be changed afterwards.
//
// The tags of the fields are read by the decoder, the schema and the reference alike: default is the value of a field that is
// left out, min and max bound a number or a duration, enum lists the words allowed, check names a syntax (see syntax.go), and
// required makes leaving it out an error.
type Config struct {
	// Listeners are the addresses on which the gateway takes requests. Default: one without TLS, on port 8080.
	Listeners []Listener `json:"listeners,omitempty"`
	// Admin is the listener for operators: health, metrics, the admin page and its API.
	Admin Admin `json:"admin,omitzero"`
	// Store is where bindings are remembered. Default: in the memory of this gateway, which is right for one gateway only.
	Store Store `json:"store,omitzero"`
	// NearCache keeps copies of bindings of a shared store in this gateway.
	NearCache NearCache `json:"nearCache,omitzero"`
	// Router bounds what the choice of an endpoint may cost.
	Router Router `json:"router,omitzero"`
	// Secrets are the files with what must not be told. Gateways that share a store need the same ones.
	Secrets Secrets `json:"secrets,omitzero"`
	// TrustedProxies are the addresses or networks (CIDR) whose X-Forwarded-* and Forwarded headers are believed. Others' are
	// replaced. Default: none.
	TrustedProxies []netip.Prefix `json:"trustedProxies,omitempty"`
	// Debuggers are the addresses or networks (CIDR) that may ask for the reasons of a decision with the header Limpet-Debug.
	// Default: none.
	Debuggers []netip.Prefix `json:"debuggers,omitempty"`
	// AccessLog writes one line for each request, with keys and never with ids.
	AccessLog AccessLog `json:"accessLog,omitzero"`
	// Tracing sends spans to an OpenTelemetry collector. Default: no spans are made.
	Tracing *Tracing `json:"tracing,omitempty"`
	// Shutdown says how the gateway ends.
	Shutdown Shutdown `json:"shutdown,omitzero"`
	// Services are what clients address: revisions with weights and endpoints.
	Services []Service `json:"services,omitempty"`
	// Routes say which requests go to which service. The most specific one wins: an exact host before a wildcard before any,
	// the longest wildcard first, then the longest path.
	Routes []Route `json:"routes,omitempty"`

	origin origin
}

// A Listener is an address on which the gateway takes requests: HTTP/1.1 and HTTP/2, or with tcp or udp whatever is sent.
type Listener struct {
	// Name names the listener in logs and metrics. It is unique.
	Name string `json:"name" required:"true" check:"name"`
	// Address is host:port, or :port for all addresses of the machine.
	Address string `json:"address" required:"true" check:"listen"`
	// TLS makes the listener speak TLS. Default: plain HTTP.
	TLS *ListenerTLS `json:"tls,omitempty"`
	// Limits bound what clients may ask of the listener.
	Limits Limits `json:"limits,omitzero"`
	// TCP forwards connections instead of requests. Default: the listener takes HTTP.
	TCP *ListenerTCP `json:"tcp,omitempty"`
	// UDP forwards datagrams. Default: the listener takes HTTP.
	UDP *ListenerUDP `json:"udp,omitempty"`
}

// ListenerTLS says how a listener speaks TLS.
type ListenerTLS struct {
	// Certificates are chosen by the name that the client asks for; the first is used where none fits. limpet serve needs at least
	// one; the Knative ingress takes those of the cluster where none is named.
	Certificates []Certificate `json:"certificates,omitempty"`
	// MinVersion is the oldest version of TLS that is accepted.
	MinVersion string `json:"minVersion,omitempty" default:"1.2" enum:"1.2|1.3"`
}

// A Certificate is a pair of files in PEM. They are read again when they change.
type Certificate struct {
	// CertFile holds the certificate and those of the authorities between it and the root.
	CertFile Path `json:"certFile" required:"true"`
	// KeyFile holds the private key.
	KeyFile Path `json:"keyFile" required:"true"`
}

// Limits bound what the clients of a listener may ask of it.
type Limits struct {
	// ReadHeaderTimeout bounds the reading of a request's header.
	ReadHeaderTimeout affinity.Duration `json:"readHeaderTimeout,omitempty" default:"10s" min:"1ms"`
	// IdleTimeout closes a connection that waits for its next request for so long.
	IdleTimeout affinity.Duration `json:"idleTimeout,omitempty" default:"2m" min:"1ms"`
	// WriteStall cuts off a client that takes no byte of a response for so long.
	WriteStall affinity.Duration `json:"writeStall,omitempty" default:"1m" min:"1ms"`
	// ReadStall cuts off a client that sends no byte of a body for so long.
	ReadStall affinity.Duration `json:"readStall,omitempty" default:"1m" min:"1ms"`
	// MaxHeaderBytes bounds the header of a request; a longer one is answered 431.
	MaxHeaderBytes int `json:"maxHeaderBytes,omitempty" default:"65536" min:"4096" max:"16777216"`
	// MaxConnections bounds the connections open at once; more wait until one ends.
	MaxConnections int `json:"maxConnections,omitempty" default:"10000" min:"1" max:"10000000"`
	// MaxStreams bounds the requests in flight of one HTTP/2 connection.
	MaxStreams int `json:"maxStreams,omitempty" default:"250" min:"1" max:"1000000"`
}

// Admin is the listener for operators. It has no password: let only operators reach it.
type Admin struct {
	// Address is host:port, or off for no admin listener.
	Address string `json:"address,omitempty" default:"127.0.0.1:9901" check:"listenOrOff"`
}

// A Store says where bindings are remembered. At most one of its members is given.
type Store struct {
	// Memory keeps bindings in this gateway. They end with it, and no other gateway knows them.
	Memory *MemoryStore `json:"memory,omitempty"`
	// Redis keeps bindings in Redis or Valkey, for any number of gateways.
	Redis *RedisStore `json:"redis,omitempty"`
}

// A MemoryStore keeps bindings in the memory of this gateway.
type MemoryStore struct {
	// MaxBindings bounds the bindings of all services together; a binding takes some 110 bytes.
	MaxBindings int `json:"maxBindings,omitempty" default:"1000000" min:"1" max:"1000000000"`
}

// A RedisStore keeps bindings in Redis 7 or later, or Valkey.
type RedisStore struct {
	// Addresses are host:port: of the server, of some sentinels, or of some nodes of the cluster.
	Addresses []string `json:"addresses" required:"true" check:"address"`
	// Mode says what the addresses are.
	Mode string `json:"mode,omitempty" default:"standalone" enum:"standalone|sentinel|cluster"`
	// MasterName is the name under which the sentinels know the master. It is needed in mode sentinel.
	MasterName string `json:"masterName,omitempty"`
	// Username is the name for AUTH. Default: none, which is the server's user default.
	Username string `json:"username,omitempty"`
	// PasswordFile holds the password for AUTH; a line break at its end does not count.
	PasswordFile Path `json:"passwordFile,omitempty"`
	// SentinelUsername is the name for AUTH at the sentinels.
	SentinelUsername string `json:"sentinelUsername,omitempty"`
	// SentinelPasswordFile holds the password for AUTH at the sentinels.
	SentinelPasswordFile Path `json:"sentinelPasswordFile,omitempty"`
	// Database is the number of the database. A cluster has only 0.
	Database int `json:"database,omitempty" default:"0" min:"0" max:"65535"`
	// Prefix begins the name of every key in the store, so that several installations can share one.
	Prefix string `json:"prefix,omitempty" default:"limpet" check:"prefix"`
	// TLS makes the connections to the store use TLS. Default: they do not.
	TLS *ClientTLS `json:"tls,omitempty"`
	// Timeout bounds all waits of one request for the store together.
	Timeout affinity.Duration `json:"timeout,omitempty" default:"50ms" min:"1ms" max:"10s"`
}

// ClientTLS says how the gateway speaks TLS to a server.
type ClientTLS struct {
	// CAFile holds the authorities (PEM) that may have signed the server's certificate. Default: the system's.
	CAFile Path `json:"caFile,omitempty"`
	// CertFile holds the certificate that the gateway shows, if the server asks for one.
	CertFile Path `json:"certFile,omitempty"`
	// KeyFile holds the private key of CertFile.
	KeyFile Path `json:"keyFile,omitempty"`
	// ServerName is the name that the server's certificate must have. Default: the host of its address.
	ServerName string `json:"serverName,omitempty" check:"host"`
	// InsecureSkipVerify accepts any certificate: whoever is between can read and change everything. For tests only.
	InsecureSkipVerify bool `json:"insecureSkipVerify,omitempty" default:"false"`
}

// A NearCache keeps copies of bindings of a shared store; the store tells when one changes.
type NearCache struct {
	// MaxEntries bounds the copies.
	MaxEntries int `json:"maxEntries,omitempty" default:"100000" min:"1000" max:"1000000000"`
}

// A Router bounds what the choice of an endpoint may cost.
type Router struct {
	// MaxWaiters bounds the requests that wait at once for a revision or an endpoint of which this gateway has not heard yet.
	// One more does not wait: for it the target is gone.
	MaxWaiters int `json:"maxWaiters,omitempty" default:"1024" min:"1" max:"1000000"`
	// MaxQueue bounds the requests that wait at once for one endpoint that is at its limit; one more is answered 503.
	MaxQueue int `json:"maxQueue,omitempty" default:"1024" min:"1" max:"1000000"`
	// MaxProbes bounds the probes of endpoints under way at once.
	MaxProbes int `json:"maxProbes,omitempty" default:"256" min:"1" max:"100000"`
}

// Secrets are the files with what must not be told.
type Secrets struct {
	// DigestFile holds the secret with which ids are digested to keys. It is not changed while bindings exist: they are found by it.
	// It is needed with a shared store. Default: the gateway makes one of its own.
	DigestFile Path `json:"digestFile,omitempty"`
	// TokenKeysFile holds the keys that seal the tokens of session mode token. It is read again when it changes. It is needed with
	// a shared store if a service uses that mode. Default: the gateway makes one of its own.
	TokenKeysFile Path `json:"tokenKeysFile,omitempty"`
}

// An AccessLog writes one line for each request.
type AccessLog struct {
	// File is the file to append to, - for the standard output, or off for no access log.
	File Path `json:"file,omitempty" default:"-"`
	// Format is the form of a line.
	Format string `json:"format,omitempty" default:"json" enum:"json|text"`
	// Peer adds the address of the connection's other end. Where a service takes the client's address as an id, that is an id in a log.
	Peer bool `json:"peer,omitempty" default:"false"`
}

// Tracing sends spans to an OpenTelemetry collector.
type Tracing struct {
	// Endpoint is the URL of the collector's OTLP/HTTP receiver, such as http://localhost:4318/v1/traces.
	Endpoint string `json:"endpoint" required:"true" check:"url"`
	// SampleRatio is the share of requests that are traced where the client does not say.
	SampleRatio float64 `json:"sampleRatio,omitempty" default:"0.01" min:"0" max:"1"`
}

// Shutdown says how the gateway ends when it is told to.
type Shutdown struct {
	// Delay is how long the gateway still takes new requests after it has begun to say that it is not ready, so that load
	// balancers can turn away from it.
	Delay affinity.Duration `json:"delay,omitempty" default:"0s" max:"1h"`
	// Drain bounds the wait for requests in flight after that; what is left is cut off.
	Drain affinity.Duration `json:"drain,omitempty" default:"30s" max:"24h"`
}
