package redis

import (
	"context"
	"fmt"
	"time"
)

// fingerprintTTL is how long a fingerprint is kept after a gateway last checked it.
const fingerprintTTL = 30 * 24 * time.Hour

// CheckFingerprint says that this process digests ids with the secret of fingerprint fp. The first gateway leaves it in the store;
// all others must have the same, else ErrSecretMismatch: they would not find each other's bindings. A gateway should check now and
// then, as the store may have been emptied. A fingerprint that nobody checked for 30 days is forgotten.
func (s *Store) CheckFingerprint(ctx context.Context, fp string) error {
	const doing = "checking the fingerprint of the digest secret"
	m, err := runScript(ctx, s, doing, fingerprintScript, []string{s.keys.fingerprint()},
		[]string{fp, number(fingerprintTTL.Milliseconds())})
	if err != nil {
		return err
	}
	held, err := m.ToString()
	if err != nil {
		return failure(ctx, doing, err)
	}
	if held != fp {
		return fmt.Errorf("%w: theirs is %s, ours %s", ErrSecretMismatch, held, fp)
	}
	return nil
}
