package testbed

import (
	"net/netip"
	"testing"
)

func TestAnswersNameWhoAnswers(t *testing.T) {
	address := netip.MustParseAddr("10.2.3.2")
	query := appendQuery(nil, 4711)
	answer, err := appendAnswer(nil, query, address)
	if err != nil {
		t.Fatal(err)
	}
	if id, got, ok := parseAnswer(answer); !ok || id != 4711 || got != address {
		t.Errorf("parseAnswer(%x) = %d, %s, %t, want 4711, %s, true", answer, id, got, ok, address)
	}
	if _, _, ok := parseAnswer(query); ok {
		t.Errorf("parseAnswer(%x) takes a query for an answer", query)
	}
	if _, err := appendAnswer(nil, answer, address); err == nil {
		t.Errorf("appendAnswer(%x) answers an answer", answer)
	}
}

func FuzzMessages(f *testing.F) {
	query := appendQuery(nil, 4711)
	answer, err := appendAnswer(nil, query, netip.MustParseAddr("10.2.3.2"))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{nil, query, answer, query[:14], answer[:len(answer)-1]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		parseAnswer(message) // does not fail
		address := netip.MustParseAddr("10.2.0.2")
		if answer, err := appendAnswer(nil, message, address); err == nil {
			if _, got, ok := parseAnswer(answer); !ok || got != address {
				t.Errorf("parseAnswer(appendAnswer(%x)) = %s, %t, want %s, true", message, got, ok, address)
			}
		}
	})
}
