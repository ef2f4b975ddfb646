package telemetry

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
)

const seriesShards = 64

// series finds values by key without a lock and without an allocation. Adding one copies a shard, which is rare: keys are
// configured names. The zero series is empty.
type series[K comparable, V any] struct {
	shards [seriesShards]seriesShard[K, V]
}

type seriesShard[K comparable, V any] struct {
	values atomic.Pointer[map[K]*V]
	change sync.Mutex
}

// seriesSeed is the same for all series; it is set once.
var seriesSeed = maphash.MakeSeed()

func (s *series[K, V]) shard(k K) *seriesShard[K, V] {
	return &s.shards[maphash.Comparable(seriesSeed, k)%seriesShards]
}

// get returns the value of k, made with make if there is none yet.
func (s *series[K, V]) get(k K, make func(K) *V) *V {
	shard := s.shard(k)
	if values := shard.values.Load(); values != nil {
		if v := (*values)[k]; v != nil {
			return v
		}
	}
	return shard.add(k, make)
}

func (s *seriesShard[K, V]) add(k K, make func(K) *V) *V {
	s.change.Lock()
	defer s.change.Unlock()
	next := map[K]*V{}
	if values := s.values.Load(); values != nil {
		if v := (*values)[k]; v != nil {
			return v
		}
		next = maps.Clone(*values)
	}
	v := make(k)
	next[k] = v
	s.values.Store(&next)
	return v
}

// prune removes the keys that keep refuses, and calls removed for each.
func (s *series[K, V]) prune(keep func(K) bool, removed func(K)) {
	for i := range s.shards {
		s.shards[i].prune(keep, removed)
	}
}

func (s *seriesShard[K, V]) prune(keep func(K) bool, removed func(K)) {
	s.change.Lock()
	defer s.change.Unlock()
	values := s.values.Load()
	if values == nil {
		return
	}
	next := map[K]*V{}
	for k, v := range *values {
		if keep(k) {
			next[k] = v
		} else {
			removed(k)
		}
	}
	if len(next) != len(*values) {
		s.values.Store(&next)
	}
}
