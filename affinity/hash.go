package affinity

import (
	"encoding/binary"
	"math"
)

// The functions of this file are a promise between gateways, like a wire format: gateways of different versions that serve one
// service must choose alike, so they change only together with the name of a new mode. Golden values in hash_test.go, computed
// apart from this code, guard them. In full:
//
//	mix(x)     = x ^= x>>30; x *= 0xbf58476d1ce4e5b9; x ^= x>>27; x *= 0x94d049bb133111eb; x ^= x>>31
//	seed(n)    = mix(FNV-1a-64(n))                                           n: name of the revision or endpoint
//	hash(k, d) = mix(mix(k[0:8] ^ d) ^ k[8:16])                              k: digest, halves read little-endian; d: domain
//	score(n)   = mix(hash(k, d) ^ seed(n))
//
// Among endpoints (domain 2) the highest score wins. Among revisions (domain 1) the highest weight / -ln(u) wins, where
// u = (score>>12 + 1/2) / 2^52, which is exact and strictly between 0 and 1, and ln is the function below, rounded step by step.
// Of equals the one whose name sorts first wins. The domain keeps the two choices of one key independent of each other.
//
// mix is the finaliser of SplitMix64. It is what makes names that differ in the last digit only, such as demo-00001 and
// demo-00002, score independently of each other; with FNV alone a split of 95 to 5 between them comes out as 100 to 0.

// A domain tells what a key is hashed for.
type domain uint64

const (
	domainRevision domain = 1
	domainEndpoint domain = 2
)

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func seed(name string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(name) {
		h ^= uint64(name[i])
		h *= 0x100000001b3
	}
	return mix(h)
}

// hash reduces the digest to 64 bits for one domain.
func (k *Key) hash(d domain) uint64 {
	low := binary.LittleEndian.Uint64(k.Digest[:8])
	high := binary.LittleEndian.Uint64(k.Digest[8:])
	return mix(mix(low^uint64(d)) ^ high)
}

// hashRandom takes the place of Key.hash where there is no key.
func hashRandom(random uint64, d domain) uint64 { return mix(mix(uint64(d)) ^ random) }

// weigh turns a score into the one that is compared among revisions: the probability that a revision's is the highest is its
// share of the weights. Weight is positive.
func weigh(score uint64, weight int) float64 {
	u := (float64(score>>12) + 0.5) / (1 << 52)
	return float64(weight) / -ln(u)
}

// ln is the natural logarithm of u, 0 < u < 1. math.Log is written in assembly for some architectures and may differ there in
// the last bit. Here every step is an operation that IEEE 754 rounds in one way only, and the conversions forbid the compiler
// to fuse two of them (Go specification, "Floating-point operators"). The error is below 1e-13.
func ln(u float64) float64 {
	m, exp := math.Frexp(u) // 1/2 <= m < 1
	if m < math.Sqrt2/2 {
		m, exp = 2*m, exp-1
	}
	// ln m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …), |s| < 0.172
	s := (m - 1) / (m + 1)
	square := float64(s * s)
	sum := 0.0
	for n := 19; n >= 1; n -= 2 {
		sum = float64(sum*square) + 1/float64(n)
	}
	return float64(2*float64(s*sum)) + float64(float64(exp)*math.Ln2)
}
