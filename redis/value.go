package redis

import (
	"encoding/binary"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// A binding is kept as: a format byte; the version's Made, its Nonce and the absolute end, eight bytes each, big-endian; the
// length of the revision's name as a uvarint; both names. The scripts know this layout up to the names.
//
// What begins with another byte was written by a later Limpet. It reads as unbound, and is neither overwritten nor renewed: a
// Swap of it is refused with ErrFull, so that its sessions are placed without being remembered until the versions agree again.
const (
	format     = 1
	headLength = 1 + 8 + 8 + 8
)

// encodeTarget returns the part of a value that scripts do not look into.
func encodeTarget(t affinity.Target) string {
	b := binary.AppendUvarint(make([]byte, 0, 2+len(t.Revision)+len(t.Endpoint)), uint64(len(t.Revision)))
	b = append(b, t.Revision...)
	return string(append(b, t.Endpoint...))
}

// decode returns the binding that v holds, false if v is of an unknown format.
func decode(v string) (binding.Binding, bool) {
	if len(v) <= headLength || v[0] != format {
		return binding.Binding{}, false
	}
	b := []byte(v)
	names := b[headLength:]
	n, size := binary.Uvarint(names)
	if size <= 0 || n > uint64(len(names)-size) {
		return binding.Binding{}, false
	}
	names = names[size:]
	return binding.Binding{
		Version: binding.Version{Made: int64(binary.BigEndian.Uint64(b[1:])), Nonce: binary.BigEndian.Uint64(b[9:])},
		Until:   fromMicros(int64(binary.BigEndian.Uint64(b[17:]))),
		Target:  affinity.Target{Revision: string(names[:n]), Endpoint: string(names[n:])},
	}, true
}

// encodeVersion returns v as it lies in a value, "" for the zero Version.
func encodeVersion(v binding.Version) string {
	if v.IsZero() {
		return ""
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(v.Made))
	return string(binary.BigEndian.AppendUint64(b, v.Nonce))
}

func encodeNonce(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// micros and fromMicros convert times; 0 is the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n)
}
