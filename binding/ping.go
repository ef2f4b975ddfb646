package binding

import (
	"context"

	"github.com/limpet-project/limpet/affinity"
)

// A Pinger is a Store that can say whether it works. Ping includes a write: a store that only reads is not back. It returns nil
// or an error for which errors.Is(err, ErrUnavailable) holds, unless ctx ended.
type Pinger interface {
	Ping(ctx context.Context) error
}

// pingKey is the key that stands in where a store has no Ping of its own. No service has this name: names do not begin with a dot.
var pingKey = affinity.Key{Scope: affinity.Scope{Service: affinity.ServiceName{Name: ".ping"}, Kind: affinity.KindFlow}}

// ping asks s whether it works. A store without Ping is asked to delete a key that does not exist, which is a write.
func ping(ctx context.Context, s Store) error {
	if p, ok := s.(Pinger); ok {
		return p.Ping(ctx)
	}
	return s.Delete(ctx, pingKey, Version{})
}
