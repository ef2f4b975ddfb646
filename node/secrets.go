package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/token"
)

// secrets are what a gateway must not tell: the key of the digest, and the token keys, which are read again when they change.
type secrets struct {
	digester *affinity.Digester
	tokens   *token.Keys
	file     string // of the token keys; "" if they live in this process only
	content  []byte // of that file, as read last
}

// loadSecrets reads the files that the configuration names, else those in the state folder, which are made if they are missing.
// Without either the secrets live as long as this process: sessions of mode hash and token then end with it.
func loadSecrets(c *config.Config, state string, log *slog.Logger) (*secrets, error) {
	digest, tokens := string(c.Secrets.DigestFile), string(c.Secrets.TokenKeysFile)
	if state != "" {
		if err := os.MkdirAll(state, 0o700); err != nil {
			return nil, fmt.Errorf("making the state folder: %w", err)
		}
	}
	digest, err := own(digest, state, "digest.key", WriteDigestSecret)
	if err != nil {
		return nil, err
	}
	if tokens, err = own(tokens, state, "tokens.keys", WriteTokenKeys); err != nil {
		return nil, err
	}
	if digest == "" {
		log.Info("secrets are made for this process only; --state keeps them, so that sessions survive a restart")
	}
	return readSecrets(digest, tokens)
}

// own returns the file to read: the one given, else the state folder's, which is made if it is missing; "" if there is neither.
func own(file, state, name string, write func(string) error) (string, error) {
	if file != "" || state == "" {
		return file, nil
	}
	file = filepath.Join(state, name)
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		err = write(file)
	}
	return file, err
}

func readSecrets(digest, tokens string) (*secrets, error) {
	s := &secrets{tokens: &token.Keys{}, file: tokens}
	secret := make([]byte, digestSecretSize)
	rand.Read(secret) // never fails
	var err error
	if digest != "" {
		if secret, err = readDigestSecret(digest); err != nil {
			return nil, UsageError{err}
		}
	}
	if s.digester, err = affinity.NewDigester(secret); err != nil {
		return nil, UsageError{err}
	}
	ring, err := s.ring()
	if err != nil {
		return nil, UsageError{err}
	}
	s.tokens.Swap(ring)
	return s, nil
}

// ring reads the token keys, or makes new ones if there is no file.
func (s *secrets) ring() (*token.Ring, error) {
	if s.file == "" {
		return token.Generate(time.Now())
	}
	var err error
	if s.content, err = os.ReadFile(s.file); err != nil {
		return nil, fmt.Errorf("reading the token keys: %w", err)
	}
	ring, err := token.ParseRing(s.content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.file, err)
	}
	return ring, nil
}

// watch reads the token keys again when their file changes, until ctx ends. Keys that are wrong leave the old ones in force.
func (s *secrets) watch(ctx context.Context, log *slog.Logger) {
	if s.file == "" {
		<-ctx.Done()
		return
	}
	config.WatchFile(ctx, s.file, 0, s.content, func(data []byte, err error) {
		var ring *token.Ring
		if err == nil {
			ring, err = token.ParseRing(data)
		}
		if err != nil {
			log.Error("the token keys are wrong, the old ones stay", "file", s.file, "error", err)
			return
		}
		s.tokens.Swap(ring)
		log.Info("token keys read", "file", s.file, "keys", ring.Len())
	})
}

// digestSecretSize is the length of the digest's secret in bytes.
const digestSecretSize = 32

// WriteDigestSecret writes a new secret of the key digest to a file that must not exist.
func WriteDigestSecret(file string) error {
	secret := make([]byte, digestSecretSize)
	rand.Read(secret) // never fails
	return writeNew(file, []byte(base64.StdEncoding.EncodeToString(secret)+"\n"))
}

// readDigestSecret reads what WriteDigestSecret wrote.
func readDigestSecret(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the digest secret: %w", err)
	}
	secret, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(data)))
	if err != nil || len(secret) < digestSecretSize {
		return nil, fmt.Errorf("%s: expected %d bytes or more in base64, as limpet keys digest writes", file, digestSecretSize)
	}
	return secret, nil
}

// WriteTokenKeys writes a new key ring of sealed tokens to a file that must not exist.
func WriteTokenKeys(file string) error {
	ring, err := token.Generate(time.Now())
	if err != nil {
		return fmt.Errorf("making token keys: %w", err)
	}
	return writeNew(file, ring.Format())
}

// writeNew writes a secret to a file that must not exist: overwriting one would end every session that depends on it.
func writeNew(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return UsageError{fmt.Errorf("%s exists: a secret is never overwritten", file)}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
