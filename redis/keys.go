package redis

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/limpet-project/limpet/affinity"
)

// shards is the number of parts that the bindings of a service are kept in. A part and its index share a hash slot, so that one
// script may count the one and write the other; sixteen of them spread a large service over a cluster.
const shards = 16

// keys makes and reads the names under which things are kept:
//
//	limpet:1:b:{<service>.<shard>}:<member>   a binding; its service hashed, its shard a digit of its digest
//	limpet:1:i:{<service>.<shard>}            the shard's index: a sorted set of members by the end of their lives
//	limpet:1:d, limpet:1:f, limpet:1:p        drains, the fingerprint of the secret, what Ping writes
//
// A member is the kind's letter, the digest in 22 characters, and the tag. The 1 is the version of this layout.
type keys struct {
	prefix string
	hashes sync.Map // affinity.ServiceName → string
	names  sync.Map // string → affinity.ServiceName; what this process asked about, which is all that it can be told about
}

const (
	hashLength   = 16 // 96 bits in base64
	digestLength = 22 // 128 bits in base64
)

var encoding = base64.RawURLEncoding

// service returns the hash that stands for a service in keys.
func (k *keys) service(name affinity.ServiceName) string {
	if h, ok := k.hashes.Load(name); ok {
		return h.(string)
	}
	b := binary.AppendUvarint(nil, uint64(len(name.Namespace)))
	sum := sha256.Sum256(append(append(b, name.Namespace...), name.Name...))
	h := encoding.EncodeToString(sum[:])[:hashLength]
	k.names.Store(h, name)
	k.hashes.Store(name, h)
	return h
}

// place is where one binding is kept.
type place struct {
	binding, index, member string
}

func (k *keys) place(key affinity.Key) place {
	tag := k.slot(key.Scope.Service, int(key.Digest[0])%shards)
	m := member(key)
	return place{binding: k.prefix + ":1:b:" + tag + ":" + m, index: k.prefix + ":1:i:" + tag, member: m}
}

// slot returns the part of the keys of a shard that decides their hash slot.
func (k *keys) slot(service affinity.ServiceName, shard int) string {
	return fmt.Sprintf("{%s.%x}", k.service(service), shard)
}

func (k *keys) index(service affinity.ServiceName, shard int) string {
	return k.prefix + ":1:i:" + k.slot(service, shard)
}

func (k *keys) drains() string      { return k.prefix + ":1:d" }
func (k *keys) fingerprint() string { return k.prefix + ":1:f" }

// ping returns the n-th key that Ping writes; in a cluster they lie in different slots.
func (k *keys) ping(n int) string { return fmt.Sprintf("%s:1:p:%x", k.prefix, n) }

func member(key affinity.Key) string {
	kind := "s"
	if key.Scope.Kind == affinity.KindFlow {
		kind = "f"
	}
	return kind + encoding.EncodeToString(key.Digest[:]) + url.PathEscape(key.Scope.Tag)
}

// parse returns the key of the binding that is kept under name, false if it is none or of a service that this process never
// asked about.
func (k *keys) parse(name string) (affinity.Key, bool) {
	rest, ok := strings.CutPrefix(name, k.prefix+":1:b:{")
	if !ok || len(rest) < hashLength {
		return affinity.Key{}, false
	}
	service, ok := k.names.Load(rest[:hashLength])
	if !ok {
		return affinity.Key{}, false
	}
	_, m, ok := strings.Cut(rest[hashLength:], "}:")
	if !ok {
		return affinity.Key{}, false
	}
	return parseMember(service.(affinity.ServiceName), m)
}

func parseMember(service affinity.ServiceName, m string) (affinity.Key, bool) {
	if len(m) < 1+digestLength {
		return affinity.Key{}, false
	}
	key := affinity.Key{Scope: affinity.Scope{Service: service}}
	switch m[0] {
	case 's':
		key.Scope.Kind = affinity.KindSession
	case 'f':
		key.Scope.Kind = affinity.KindFlow
	default:
		return affinity.Key{}, false
	}
	digest, err := encoding.Strict().DecodeString(m[1 : 1+digestLength])
	if err != nil {
		return affinity.Key{}, false
	}
	copy(key.Digest[:], digest)
	key.Scope.Tag, err = url.PathUnescape(m[1+digestLength:])
	return key, err == nil
}
