package affinity

// A Kind tells session keys from flow keys, so that equal ids of the two never meet.
type Kind uint8

// The kinds of key. The zero Kind is none.
const (
	KindSession Kind = iota + 1 // keeps requests on one endpoint
	KindFlow                    // keeps requests on one revision
)

// String returns "session", "flow" or "none".
func (k Kind) String() string {
	switch k {
	case KindSession:
		return "session"
	case KindFlow:
		return "flow"
	}
	return "none"
}

// A ServiceName names a service: what a client addresses. Two services of one gateway never share a binding.
type ServiceName struct {
	Namespace string // the tenant; "" is a namespace of its own
	Name      string // the service or route within the namespace
}

// String returns "namespace/name", or the name alone where there is no namespace.
func (n ServiceName) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

// A Scope is the space in which an id means something. The same id in two scopes gives two unrelated keys.
type Scope struct {
	Service ServiceName
	Tag     string // the addressed tag, "" for the default traffic
	Kind    Kind
}

// A Key identifies a session or a flow: its scope and a keyed 128-bit digest of the id that the client sent. What a client
// sends never reaches a log, a metric or a store. The zero Key means that none was sent. Keys are comparable.
type Key struct {
	Scope  Scope
	Digest [16]byte
}

// IsZero reports whether k is the zero Key: the request carried no id of that kind.
func (k Key) IsZero() bool { return k.Scope.Kind == 0 }

// A Target is where a key is bound: a revision, and for sessions an endpoint of it by identity, never by address.
type Target struct {
	Revision string
	Endpoint string // "" in the target of a flow
}

// IsZero reports whether t names nothing.
func (t Target) IsZero() bool { return t == Target{} }

// String returns "revision" or "revision/endpoint".
func (t Target) String() string {
	if t.Endpoint == "" {
		return t.Revision
	}
	return t.Revision + "/" + t.Endpoint
}
