package redis

import (
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

func FuzzKeysOfBindingsAreReadBack(f *testing.F) {
	f.Add("shop", "cart", "canary", []byte("0123456789abcdef"), false)
	f.Add("", "a{b}:c", "ca{n}ary:1 %\x00é", []byte{0xff}, true)
	f.Fuzz(func(t *testing.T, namespace, name, tag string, digest []byte, flow bool) {
		key := affinity.Key{Scope: affinity.Scope{
			Service: affinity.ServiceName{Namespace: namespace, Name: name}, Tag: tag, Kind: affinity.KindSession,
		}}
		if flow {
			key.Scope.Kind = affinity.KindFlow
		}
		copy(key.Digest[:], digest)
		k := &keys{prefix: "limpet"}
		where := k.place(key)
		if got, ok := k.parse(where.binding); !ok || got != key {
			t.Errorf("parse(%q) = %+v, %v, want %+v", where.binding, got, ok, key)
		}
		if _, ok := (&keys{prefix: "limpet"}).parse(where.binding); ok {
			t.Errorf("parse(%q) where the service is unknown = ok, want not", where.binding)
		}
	})
}

func FuzzParsingAnyNameDoesNotPanic(f *testing.F) {
	k := &keys{prefix: "limpet"}
	cart := affinity.ServiceName{Namespace: "shop", Name: "cart"}
	f.Add(k.place(affinity.Key{Scope: affinity.Scope{Service: cart, Kind: affinity.KindSession}}).binding)
	f.Add("limpet:1:b:{" + k.service(cart) + "}:s")
	f.Fuzz(func(t *testing.T, name string) {
		if key, ok := k.parse(name); ok && k.place(key).binding != name {
			if again, ok := k.parse(k.place(key).binding); !ok || again != key {
				t.Errorf("parse(%q) = %+v, which is read back as %+v", name, key, again)
			}
		}
	})
}

func FuzzDecodingAnyValueDoesNotPanic(f *testing.F) {
	head := "\x01" + encodeVersion(binding.Version{Made: 1763763600000000, Nonce: 7}) + encodeNonce(0)
	f.Add(head + encodeTarget(affinity.Target{Revision: "demo-00001", Endpoint: "pod-1"}))
	f.Add(head + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
	f.Add("\x02later")
	f.Fuzz(func(t *testing.T, v string) {
		b, ok := decode(v)
		if !ok && b != (binding.Binding{}) {
			t.Errorf("decode(%q) = %+v, want the zero Binding when it is not known", v, b)
		}
	})
}

func TestMeasurementsWithShortTripsCount(t *testing.T) {
	var c clock
	start := time.Date(2025, 11, 21, 22, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	c.measured(at(0), at(100*time.Millisecond), at(3*time.Second)) // asked over a slow network
	c.measured(at(time.Second), at(time.Second+2*time.Millisecond), at(3*time.Second+time.Millisecond))
	if got := c.offset(); got != 2*time.Second {
		t.Errorf("offset() = %v, want 2s as the shorter trip says", got)
	}
	for range len(c.samples) {
		c.measured(at(0), at(10*time.Millisecond), at(7*time.Second+5*time.Millisecond))
	}
	if got := c.offset(); got != 7*time.Second {
		t.Errorf("offset() after the server's clock was set = %v, want 7s", got)
	}
}
