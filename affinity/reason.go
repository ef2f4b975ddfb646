package affinity

// A Reason says why a request went where it went. The list is closed; metrics, logs and responses use these words.
type Reason uint8

// The reasons, in the order of SEMANTICS.
const (
	ReasonNone         Reason = iota // no id was sent, or the policy remembers nothing (hash, proportional)
	ReasonNew                        // an id was seen for the first time and was bound
	ReasonBound                      // the remembered target was valid
	ReasonEndpointGone               // the endpoint was gone: another one of the same revision was chosen
	ReasonRevisionGone               // the revision was gone: another one was chosen
	ReasonExpired                    // what was remembered had expired
	ReasonOverflow                   // the bound endpoint was full: placed elsewhere for this request only
	ReasonDegraded                   // the store was away and the session was not known here
	ReasonTag                        // the request named a tag, which decided the revision
)

var reasonNames = [...]string{"none", "new", "bound", "endpoint-gone", "revision-gone", "expired", "overflow", "degraded", "tag"}

// Reasons lists every reason, for metrics that must exist before they first count.
func Reasons() []Reason {
	all := make([]Reason, len(reasonNames))
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// String returns the reason's word.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Moved reports whether the reason means that a session or flow left the target that it was bound to.
func (r Reason) Moved() bool {
	return r == ReasonEndpointGone || r == ReasonRevisionGone || r == ReasonExpired
}
