package flow

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"

	"github.com/limpet-project/limpet/lab/clientip"
)

// maxFlows is how many flows of a table are told from new ones. The kernel's own limit is a fourth of it by default.
const maxFlows = 1 << 20

// A poller finds new flows by reading the whole table again and again. It remembers a hash of each flow: one in 2^44 is taken for another.
type poller struct {
	read    func(ctx context.Context, keep func(clientip.Flow)) error
	limit   int
	seed    maphash.Seed
	seen    map[uint64]struct{}
	began   bool // the first table is known, which has nothing new
	dropped bool // the last table had more than the limit
}

func newPoller() *poller {
	return &poller{read: clientip.LiveFlows, limit: maxFlows, seed: maphash.MakeSeed()}
}

// poll reads the table and calls keep for each flow that was not in it the time before.
func (p *poller) poll(ctx context.Context, keep func(clientip.Flow)) error {
	now := make(map[uint64]struct{}, len(p.seen))
	compare := p.began && !p.dropped // what was left out of the table before is not new
	dropped := false
	err := p.read(ctx, func(f clientip.Flow) {
		f.Packets = 0
		hash := maphash.Comparable(p.seed, f)
		if _, twice := now[hash]; twice {
			return // a table that changes while it is read may show a flow again
		}
		if len(now) == p.limit {
			dropped = true
			return
		}
		now[hash] = struct{}{}
		if _, old := p.seen[hash]; compare && !old {
			keep(f)
		}
	})
	if err != nil {
		if p.began { // what was kept is not new the next time
			maps.Copy(p.seen, now)
		}
		return fmt.Errorf("reading the table of connections: %w", err)
	}
	p.seen, p.began, p.dropped = now, true, dropped
	return nil
}
