package token

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// MaxSize is the length of a token at most. Usual names make one of some 200 bytes.
const MaxSize = 1024

// A token is base64url, without padding, of
//
//	format version (1 byte), key id (4), nonce (12), ciphertext, tag (16)
//
// and the ciphertext, padded so that its length does not tell the names in it, of
//
//	revision, endpoint (each: length, bytes), session (16 bytes), made, issued - made, expires - issued, 0 or 1 and until - made
//
// with lengths, and times in milliseconds, as varints. Version, key id and scope are authenticated with it.
const (
	formatVersion = 1
	headerSize    = 1 + len(KeyID{})
	aeadOverhead  = 12 + 16
	padTo         = 32
	usualSize     = 192
)

var encoding = base64.RawURLEncoding.Strict()

// Seal returns c as a token, sealed with the key that seals at now. A zero Issued is taken as now. The same claim gives another
// token each time. It returns [ErrNoKey], or an error if the names are so long that the token would exceed [MaxSize].
func (r *Ring) Seal(c Claim, now time.Time) (string, error) {
	i := r.sealingIndex(now)
	if i < 0 {
		return "", ErrNoKey
	}
	if c.Issued.IsZero() {
		c.Issued = now
	}
	k := r.keys[i]
	plain := appendClaim(make([]byte, 0, usualSize), c)
	sealed := append(make([]byte, 0, usualSize), formatVersion)
	sealed = append(sealed, k.ID[:]...)
	if size := encoding.EncodedLen(headerSize + len(plain) + aeadOverhead); size > MaxSize {
		return "", fmt.Errorf("sealing a token for %s: %d bytes, more than %d: the names are too long", c.Scope.Service, size, MaxSize)
	}
	sealed = k.aead.Seal(sealed, nil, plain, authenticated(sealed, c.Scope))
	return encoding.EncodeToString(sealed), nil
}

// Open returns what a token says if it was sealed for scope by a key of the ring. It returns [ErrInvalid] for everything else, and
// the claim with [ErrExpired] if the token's time is over at now. Whatever the value is, Open does the work of one decryption of
// at most [MaxSize] bytes.
func (r *Ring) Open(value string, scope affinity.Scope, now time.Time) (Claim, error) {
	if r.Len() == 0 || len(value) > MaxSize {
		return Claim{}, ErrInvalid
	}
	raw, err := encoding.DecodeString(value)
	// The decoder passes over line breaks: a value with one is not what was issued.
	if err != nil || len(raw) < headerSize+aeadOverhead || encoding.EncodedLen(len(raw)) != len(value) {
		return Claim{}, ErrInvalid
	}
	header, body := raw[:headerSize], raw[headerSize:]
	k := r.byID[KeyID(header[1:])]
	known := k != nil && header[0] == formatVersion
	if k == nil {
		k = r.keys[0] // cannot open it, but takes as long as the right one
	}
	plain, err := k.aead.Open(nil, nil, body, authenticated(header, scope))
	if err != nil || !known {
		return Claim{}, ErrInvalid
	}
	c, ok := parseClaim(plain)
	if !ok {
		return Claim{}, ErrInvalid
	}
	c.Scope = scope
	if c.expired(now) {
		return c, ErrExpired
	}
	return c, nil
}

// expired reports whether one of the deadlines has come.
func (c Claim) expired(now time.Time) bool {
	return !now.Before(c.Expires) || !c.Until.IsZero() && !now.Before(c.Until)
}

// authenticated returns what is authenticated beside the ciphertext. Lengths keep neighbouring names apart.
func authenticated(header []byte, s affinity.Scope) []byte {
	b := append(make([]byte, 0, usualSize), "limpet token "...)
	b = append(b, header...)
	b = append(b, byte(s.Kind))
	b = appendString(b, s.Service.Namespace)
	b = appendString(b, s.Service.Name)
	return appendString(b, s.Tag)
}

func appendClaim(b []byte, c Claim) []byte {
	b = appendString(b, c.Target.Revision)
	b = appendString(b, c.Target.Endpoint)
	b = append(b, c.Session[:]...)
	made, issued := c.Made.UnixMilli(), c.Issued.UnixMilli()
	b = binary.AppendVarint(b, made)
	b = binary.AppendVarint(b, issued-made)
	b = binary.AppendVarint(b, c.Expires.UnixMilli()-issued)
	if c.Until.IsZero() {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = binary.AppendVarint(b, c.Until.UnixMilli()-made)
	}
	for len(b)%padTo != 0 {
		b = append(b, 0)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// A reader takes a claim apart. After a first fault it returns zero values and bad stays true.
type reader struct {
	rest []byte
	bad  bool
}

func parseClaim(plain []byte) (c Claim, ok bool) {
	r := reader{rest: plain}
	c.Target.Revision = r.string()
	c.Target.Endpoint = r.string()
	copy(c.Session[:], r.bytes(len(c.Session)))
	made := r.int()
	issued := made + r.int()
	expires := issued + r.int()
	c.Made, c.Issued, c.Expires = unixMilli(made), unixMilli(issued), unixMilli(expires)
	if limited := r.bytes(1); len(limited) == 1 && limited[0] != 0 {
		c.Until = unixMilli(made + r.int())
	}
	return c, !r.bad
}

func unixMilli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func (r *reader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.bad, r.rest = true, nil
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) string() string {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 || n > MaxSize {
		r.bad, r.rest = true, nil
		return ""
	}
	r.rest = r.rest[used:]
	return string(r.bytes(int(n)))
}

func (r *reader) int() int64 {
	v, used := binary.Varint(r.rest)
	if used <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[used:]
	return v
}
