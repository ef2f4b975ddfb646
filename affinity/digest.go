package affinity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"
)

// MinSecretBytes is the length that the secret of a [Digester] has at least.
const MinSecretBytes = 32

// What a digest is made for. The byte comes first in what is digested, so that no key shares its digest with another purpose.
const (
	purposeKey         = 1
	purposeFingerprint = 2
)

// A Digester makes digests of ids that nobody can make, or trace back, without its secret. Gateways that share bindings share the
// secret. It is safe for concurrent use. Make one with [NewDigester].
type Digester struct {
	states      sync.Pool // of *digestState
	fingerprint string
}

// A digestState is what one digest needs.
type digestState struct {
	mac  hash.Hash
	text []byte
	sum  [sha256.Size]byte
}

// NewDigester returns a digester with that secret, which it does not keep. The secret has at least [MinSecretBytes] bytes.
func NewDigester(secret []byte) (*Digester, error) {
	if len(secret) < MinSecretBytes {
		return nil, fmt.Errorf("making a digester: expected a secret of at least %d bytes, got %d", MinSecretBytes, len(secret))
	}
	own := append([]byte(nil), secret...)
	d := &Digester{}
	d.states.New = func() any { return &digestState{mac: hmac.New(sha256.New, own)} }
	s := d.states.New().(*digestState)
	s.text = append(s.text, purposeFingerprint)
	sum := s.digest()
	d.fingerprint = hex.EncodeToString(sum[:8])
	return d, nil
}

// Fingerprint returns a short name of the secret, the same for equal secrets, from which it cannot be found: 16 hexadecimal digits.
func (d *Digester) Fingerprint() string { return d.fingerprint }

// Key returns the key of an id in a scope: HMAC-SHA256, cut to 128 bits, of namespace, name, tag, kind and id, each with its length
// before it. The same id in two scopes gives two keys that have nothing in common. An empty id gives the zero Key.
func (d *Digester) Key(scope Scope, id string) Key { return digestKey(d, scope, id) }

func digestKey[T string | []byte](d *Digester, scope Scope, id T) Key {
	if len(id) == 0 {
		return Key{}
	}
	s := d.states.Get().(*digestState)
	defer d.states.Put(s)
	s.text = append(s.text[:0], purposeKey)
	s.text = appendField(s.text, scope.Service.Namespace)
	s.text = appendField(s.text, scope.Service.Name)
	s.text = appendField(s.text, scope.Tag)
	s.text = append(s.text, 1, byte(scope.Kind))
	s.text = appendField(s.text, id)
	return Key{Scope: scope, Digest: s.digest()}
}

// appendField appends a field with its length, so that no two lists of fields make the same text.
func appendField[T string | []byte](text []byte, field T) []byte {
	return append(binary.AppendUvarint(text, uint64(len(field))), field...)
}

func (s *digestState) digest() (digest [16]byte) {
	s.mac.Reset()
	s.mac.Write(s.text) // a hash.Hash never returns an error
	copy(digest[:], s.mac.Sum(s.sum[:0]))
	return digest
}
