package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// SealDelay is how long after its making a key begins to seal, unless the key file says otherwise. Gateways that share a key file
// read it at different moments; a key that sealed at once would make tokens that a slower gateway cannot open.
const SealDelay = 5 * time.Minute

// MaxKeys is the number of keys that a ring holds at most.
const MaxKeys = 64

const secretSize = 32 // AES-256

// A KeyID names a key in a file and in the tokens that it sealed. It is written as eight hexadecimal digits.
type KeyID [4]byte

// String returns the eight hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// A Key is what may be told of one key of a ring: everything but its secret.
type Key struct {
	ID        KeyID
	Created   time.Time
	SealsFrom time.Time // opens at once, seals from then on
}

// key keeps its secret behind a pointer so that printing a Ring prints an address.
type key struct {
	Key
	secret *[secretSize]byte
	aead   cipher.AEAD // nonce chosen at random and put in front
}

// A Ring is an immutable list of keys, the newest first. The first key whose SealsFrom has come seals; if there is none, the last
// one does, which all gateways have known for the longest time. All of them open. The zero Ring and the nil *Ring have no keys:
// nothing opens, and sealing returns [ErrNoKey].
//
// A key should seal no more than about 2³² tokens, because its nonces are random: at a thousand tokens a second it serves for
// seven weeks. Rotating every month is enough for any gateway.
type Ring struct {
	keys []*key
	byID map[KeyID]*key
}

// Generate returns a ring with one new key, which seals from now on: a key that was never shared has nobody to wait for.
func Generate(now time.Time) (*Ring, error) {
	k, err := newRandomKey(now, 0)
	if err != nil {
		return nil, err
	}
	return newRing([]*key{k})
}

// Rotate returns a ring with a new first key, which opens at once and seals from now + delay ([SealDelay] if delay is 0), and the
// newest of r's keys, so that there are keep in all. It never drops the key that seals now or one that is newer, whatever keep says.
// A dropped key's tokens become invalid, so the keys that are kept should span 1.25 times the longest idle time of any policy.
func (r *Ring) Rotate(keep int, now time.Time, delay time.Duration) (*Ring, error) {
	if delay == 0 {
		delay = SealDelay
	}
	k, err := newRandomKey(now, delay)
	if err != nil {
		return nil, err
	}
	n := min(max(keep-1, r.sealingIndex(now)+1), r.Len())
	keys := append(make([]*key, 0, n+1), k)
	if r != nil {
		keys = append(keys, r.keys[:n]...)
	}
	return newRing(keys)
}

// Len returns the number of keys.
func (r *Ring) Len() int {
	if r == nil {
		return 0
	}
	return len(r.keys)
}

// Keys returns what may be told of each key, in the ring's order. The slice is the caller's.
func (r *Ring) Keys() []Key {
	told := make([]Key, r.Len())
	for i := range told {
		told[i] = r.keys[i].Key
	}
	return told
}

// Sealing returns the key that seals at now; false means that the ring has no keys.
func (r *Ring) Sealing(now time.Time) (Key, bool) {
	if r.Len() == 0 {
		return Key{}, false
	}
	return r.keys[r.sealingIndex(now)].Key, true
}

// String tells how many keys the ring has and no secret.
func (r *Ring) String() string { return fmt.Sprintf("ring of %d token keys", r.Len()) }

// sealingIndex returns -1 for a ring without keys.
func (r *Ring) sealingIndex(now time.Time) int {
	for i := range r.Len() {
		if !now.Before(r.keys[i].SealsFrom) {
			return i
		}
	}
	return r.Len() - 1
}

func newRing(keys []*key) (*Ring, error) {
	if len(keys) > MaxKeys {
		return nil, fmt.Errorf("%d keys in a token key ring, expected at most %d", len(keys), MaxKeys)
	}
	r := &Ring{keys: keys, byID: make(map[KeyID]*key, len(keys))}
	for _, k := range keys {
		if r.byID[k.ID] != nil {
			return nil, fmt.Errorf("two token keys have the id %s", k.ID)
		}
		r.byID[k.ID] = k
	}
	return r, nil
}

func newRandomKey(now time.Time, delay time.Duration) (*key, error) {
	if delay < 0 {
		return nil, errors.New("a token key cannot seal before it was made")
	}
	var id KeyID
	var secret [secretSize]byte
	_, _ = rand.Read(id[:]) // crypto/rand.Read never returns an error (Go 1.24)
	_, _ = rand.Read(secret[:])
	created := now.UTC().Truncate(time.Second)
	return newKey(Key{ID: id, Created: created, SealsFrom: created.Add(delay)}, secret)
}

func newKey(k Key, secret [secretSize]byte) (*key, error) {
	block, err := aes.NewCipher(secret[:])
	if err != nil {
		return nil, fmt.Errorf("making the cipher of token key %s: %w", k.ID, err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("making the cipher of token key %s: %w", k.ID, err)
	}
	return &key{Key: k, secret: &secret, aead: aead}, nil
}
