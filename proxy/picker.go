package proxy

import (
	"context"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// A Picker chooses the target of one request. It is safe for concurrent use. [PickWith] makes one of a router.
type Picker interface {
	Pick(ctx context.Context, req *router.Request) (Pick, error)
}

// A Pick is the choice for one request, as [router.Pick] documents it. The gateway calls Done once, and nothing after it.
type Pick interface {
	Address() string
	Target() affinity.Target
	Reason() affinity.Reason
	Key() affinity.Key
	EditRequest(h router.Header)
	EditResponse(h router.Header)
	Another(ctx context.Context) error
	Done(o endpoint.Outcome)
}

// PickWith returns the Picker that asks r.
func PickWith(r *router.Router) Picker { return routerPicker{r} }

type routerPicker struct{ r *router.Router }

func (p routerPicker) Pick(ctx context.Context, req *router.Request) (Pick, error) {
	pick, err := p.r.Pick(ctx, req)
	if err != nil {
		return nil, err
	}
	return pick, nil
}
