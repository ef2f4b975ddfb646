package router

import (
	"fmt"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/token"
)

// BenchmarkPick measures what a decision costs by mode, from the message to Done, for sessions that are known.
func BenchmarkPick(b *testing.B) {
	ring, err := token.Generate(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	digester, err := affinity.NewDigester([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		b.Fatal(err)
	}
	for _, mode := range []affinity.SessionMode{"off", affinity.ModeBound, affinity.ModeHash, affinity.ModeToken} {
		b.Run(string(mode), func(b *testing.B) {
			table := endpoint.NewTable(endpoint.Options{})
			r := New(Options{
				Endpoints: table, Store: binding.NewMemory(binding.MemoryOptions{Census: table.Count}),
				Tokens: token.NewKeys(ring), Keys: affinity.Keyer{Digester: digester},
			})
			gateway{r, table}.fill(50, 50)
			req := Request{Service: demo}
			if mode != "off" {
				req.Policy = affinity.Policy{Session: &affinity.SessionAffinity{Mode: mode}}.WithDefaults()
			}
			messages := make([]*message, 1000)
			for i := range messages {
				messages[i] = from("K-Session", fmt.Sprintf("session-%d", i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				req.Message = messages[i%len(messages)]
				p, err := r.Pick(b.Context(), &req)
				if err != nil {
					b.Fatal(err)
				}
				p.Done(endpoint.OutcomeOK)
			}
		})
	}
}
