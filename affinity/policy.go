package affinity

// A Policy says how one service sticks. It is plain data: the gateway's YAML, Knative annotations and API objects all decode
// into it. The zero Policy is no affinity. [Policy.WithDefaults] fills in what was left out; [Decide] and the router expect a
// policy that was filled in and validated. A policy that was handed to a gateway must not be changed.
type Policy struct {
	// Session keeps requests with one session id on one endpoint. Left out together with revision: both, with their defaults.
	Session *SessionAffinity `json:"session,omitempty"`
	// Revision keeps requests with one flow id on one revision.
	Revision *RevisionAffinity `json:"revision,omitempty"`
	// Retain keeps sessions and flows on a revision whose weight became 0 or that was removed, for so long after that
	// happened. Default 0: stickiness ends at once.
	Retain Duration `json:"retain,omitempty"`
	// Settle bounds the wait for a target that this gateway has not heard of, from the binding's making. Default 2s.
	Settle Duration `json:"settle,omitempty"`
	// MaxIDBytes refuses longer ids with 400. Default 1024, for cookies 4096; a value given here holds for both.
	MaxIDBytes int `json:"maxIDBytes,omitempty"`
	// Quota is the number of bindings of this service at most; when it is reached new sessions use mode hash. Default 1000000.
	Quota int `json:"quota,omitempty"`
}

// SessionAffinity is the part of a policy about sessions.
type SessionAffinity struct {
	// From lists where a session id is looked for, in order; the first non-empty one counts. Default: header K-Session.
	// In mode token it may be empty: the token itself is the session.
	From []Source `json:"from,omitempty"`
	// Mode is bound (default), hash or token.
	Mode SessionMode `json:"mode,omitempty"`
	// Idle ends a session that was not used for so long. Default 1h, at least 1s.
	Idle Duration `json:"idle,omitempty"`
	// Absolute ends a session so long after it began, used or not. Default 0: never.
	Absolute Duration `json:"absolute,omitempty"`
	// Place chooses the endpoint of a new session: boundedLoad (default) or leastLoaded.
	Place Placement `json:"place,omitempty"`
	// LoadFactor is the share of the mean that an endpoint may hold before boundedLoad passes it over. Default 1.25, at least 1.
	LoadFactor float64 `json:"loadFactor,omitempty"`
	// Overflow says what a bound request does when its endpoint is at its concurrency limit: wait (default), spill or reject.
	Overflow Overflow `json:"overflow,omitempty"`
	// QueueTimeout bounds the wait for a full endpoint. Default 10s.
	QueueTimeout Duration `json:"queueTimeout,omitempty"`
	// Token describes the token of mode token.
	Token *TokenPolicy `json:"token,omitempty"`
}

// RevisionAffinity is the part of a policy about flows.
type RevisionAffinity struct {
	// From lists where a flow id is looked for, in order; the first non-empty one counts. Default: header K-Revision.
	From []Source `json:"from,omitempty"`
	// Mode is pinned (default) or proportional.
	Mode RevisionMode `json:"mode,omitempty"`
	// Idle ends a flow that was not used for so long. Default 1h, at least 1s.
	Idle Duration `json:"idle,omitempty"`
	// Absolute ends a flow so long after it began, used or not. Default 0: never.
	Absolute Duration `json:"absolute,omitempty"`
}

// A TokenPolicy says how a sealed token travels. With neither cookie nor header named it is the cookie "limpet".
type TokenPolicy struct {
	// Cookie is the name of the cookie that carries the token.
	Cookie string `json:"cookie,omitempty"`
	// Header is the name of the request and response header that carries the token, instead of a cookie.
	Header string `json:"header,omitempty"`
	// Path is the cookie's Path attribute. Default "/".
	Path string `json:"path,omitempty"`
	// Domain is the cookie's Domain attribute. Default: none, the cookie belongs to the exact host.
	Domain string `json:"domain,omitempty"`
	// SameSite is Lax (default), Strict or None; None requires Secure.
	SameSite string `json:"sameSite,omitempty"`
	// Secure is auto (default: where the client's connection is TLS), always or never.
	Secure string `json:"secure,omitempty"`
	// Forward sends the token on to the upstream. Default false: it is stripped.
	Forward bool `json:"forward,omitempty"`
}

// SessionMode says where the endpoint of a session is remembered.
type SessionMode string

// The session modes.
const (
	ModeBound SessionMode = "bound" // in the store
	ModeHash  SessionMode = "hash"  // nowhere: computed from the key
	ModeToken SessionMode = "token" // in a sealed token that the client repeats
)

// RevisionMode says how a flow's revision follows the weights.
type RevisionMode string

// The revision modes.
const (
	ModePinned       RevisionMode = "pinned"       // the first choice is remembered
	ModeProportional RevisionMode = "proportional" // the choice follows the weights, moving as few flows as it can
)

// Placement says how the endpoint of a new session is chosen.
type Placement string

// The placements.
const (
	PlaceBoundedLoad Placement = "boundedLoad" // rendezvous hashing, passing over endpoints above the bound
	PlaceLeastLoaded Placement = "leastLoaded" // the better of two candidates
)

// Overflow says what a bound request does when its endpoint is full.
type Overflow string

// The overflow rules.
const (
	OverflowWait   Overflow = "wait"
	OverflowSpill  Overflow = "spill"
	OverflowReject Overflow = "reject"
)

// The values of TokenPolicy.SameSite.
const (
	SameSiteLax    = "Lax"
	SameSiteStrict = "Strict"
	SameSiteNone   = "None"
)

// The values of TokenPolicy.Secure.
const (
	SecureAuto   = "auto"
	SecureAlways = "always"
	SecureNever  = "never"
)
