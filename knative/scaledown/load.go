package scaledown

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"

	"github.com/limpet-project/limpet/knative/policy"
)

const (
	// second is how often the autoscaler is told of load: it takes what it is told as that of one second.
	second = time.Second
	// memorable is how long a count stands in for one that could not be made.
	memorable = time.Minute
)

// A sighting is the pods as of one count. It is immutable.
type sighting struct {
	pods []Pod
	at   time.Time
}

// A memory keeps the last count of each pod, for the load of one whose sessions are not known at the moment: to be told of no load is as
// bad for it as to be told of none by mistake.
type memory map[podKey]remembered

type remembered struct {
	sessions int64
	at       time.Time
}

// fill returns the pods with what is remembered of those that are unknown. It forgets those that are not listed.
func (m memory) fill(pods []Pod, now time.Time) []Pod {
	filled := slices.Clone(pods)
	listed := make(map[podKey]bool, len(pods))
	for i := range filled {
		p := &filled[i]
		listed[p.key()] = true
		if !p.Unknown {
			m[p.key()] = remembered{p.Sessions, now}
		} else if r, known := m[p.key()]; known && now.Sub(r.at) <= memorable {
			p.Sessions = max(p.Sessions, r.sessions)
		}
	}
	maps.DeleteFunc(m, func(key podKey, _ remembered) bool { return !listed[key] })
	return filled
}

// report tells the autoscaler of sessions each second until ctx ends.
func (k *Keeper) report(ctx context.Context) {
	tick := time.NewTicker(second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		messages := k.messages(time.Now())
		if len(messages) == 0 {
			continue
		}
		select {
		case k.o.Stats <- messages:
		case <-ctx.Done():
			return
		}
	}
}

// messages returns what there is to tell now. A count that is too old counts no longer.
func (k *Keeper) messages(now time.Time) []asmetrics.StatMessage {
	s := k.latest.Load()
	if s == nil || now.Sub(s.at) > memorable {
		return nil
	}
	return messages(s.pods, k.o.Load(), k.o.PodName)
}

// messages returns the load of each revision whose pods have sessions, sorted by name.
func messages(pods []Pod, load policy.SessionLoad, teller string) []asmetrics.StatMessage {
	loads := make(map[types.NamespacedName]float64)
	for _, p := range pods {
		if l := load.Of(p.Sessions); l > 0 {
			loads[types.NamespacedName{Namespace: p.Namespace, Name: p.Revision}] += l
		}
	}
	list := make([]asmetrics.StatMessage, 0, len(loads))
	for key, l := range loads {
		list = append(list, asmetrics.StatMessage{Key: key, Stat: asmetrics.Stat{PodName: teller, AverageConcurrentRequests: l}})
	}
	slices.SortFunc(list, func(a, b asmetrics.StatMessage) int {
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return list
}
