package affinity

import "fmt"

// An IDError says why an id that a client sent cannot be used. It is the client's fault and is answered 400. Its text names the
// source and never the id.
type IDError struct {
	Source Source
	Reason string // what was expected, such as "longer than 1024 bytes"
}

// Error returns, for example, `id in header K-Session: longer than 1024 bytes`.
func (e *IDError) Error() string { return fmt.Sprintf("id in %s: %s", e.Source, e.Reason) }

// String names the place: "header K-Session", "path segment 2".
func (s Source) String() string {
	switch {
	case s.Header != "":
		return "header " + s.Header
	case s.QueryParameter != "":
		return "query parameter " + s.QueryParameter
	case s.PathSegment != 0:
		return fmt.Sprintf("path segment %d", s.PathSegment)
	case s.Cookie != "":
		return "cookie " + s.Cookie
	case s.ClientAddress != nil:
		return "client address"
	}
	return "no source"
}
