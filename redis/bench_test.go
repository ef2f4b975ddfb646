package redis_test

import (
	"sync/atomic"
	"testing"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/redis"
	"github.com/limpet-project/limpet/redis/redistest"
)

func benchmark(b *testing.B, f func(s *redis.Store, k affinity.Key) error) {
	server := redistest.Start(b)
	s, err := redis.Open(redis.Options{Addresses: []string{server.Addr()}, CallTimeout: patience})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	redistest.Eventually(b, "connection", func() bool { return s.Ping(b.Context()) == nil })
	var n atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f(s, session(int(n.Add(1)))); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkGetOfAnUnboundKey(b *testing.B) {
	benchmark(b, func(s *redis.Store, k affinity.Key) error { _, err := s.Get(b.Context(), k); return err })
}

func BenchmarkSwap(b *testing.B) {
	benchmark(b, func(s *redis.Store, k affinity.Key) error {
		_, err := s.Swap(b.Context(), k, unbound, pod1, hour)
		return err
	})
}
