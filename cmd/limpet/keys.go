package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/token"
)

// keysCommand makes the secrets.
type keysCommand struct {
	Digest keysDigestCommand `cmd:"" help:"Make the secret of the key digest. It is made once: bindings are found by it."`
	Tokens keysTokensCommand `cmd:"" help:"Make the key ring of sealed tokens, or rotate it."`
	Show   keysShowCommand   `cmd:"" help:"Show the keys of a ring without their secrets."`
}

type keysDigestCommand struct {
	File string `arg:"" help:"The file to write; it must not exist." type:"path"`
}

// Run writes a new secret.
func (c keysDigestCommand) Run() error {
	if err := node.WriteDigestSecret(c.File); err != nil {
		return err
	}
	fmt.Printf("wrote %s; give the same file to every gateway, as secrets.digestFile\n", c.File)
	return nil
}

type keysTokensCommand struct {
	File   string        `arg:"" help:"The file of the ring." type:"path"`
	Rotate bool          `help:"Put a new key in front of an existing ring."`
	Keep   int           `help:"With --rotate: how many older keys go on opening tokens." default:"2"`
	Delay  time.Duration `help:"How long the new key only opens, so that every gateway knows it before one seals with it." default:"5m"`
}

// Run makes or rotates the ring.
func (c keysTokensCommand) Run() error {
	if !c.Rotate {
		if err := node.WriteTokenKeys(c.File); err != nil {
			return err
		}
		fmt.Printf("wrote %s; give the same file to every gateway, as secrets.tokenKeysFile\n", c.File)
		return nil
	}
	if c.Keep < 1 || c.Delay < 0 {
		return usageError{errors.New("--keep: expected 1 or more; --delay: expected 0 or more")}
	}
	ring, err := token.Load(c.File)
	if err != nil {
		return usageError{err}
	}
	// The ring takes a delay of 0 for its default, and counts the new key too.
	ring, err = ring.Rotate(c.Keep+1, time.Now(), max(c.Delay, 1))
	if err != nil {
		return fmt.Errorf("rotating %s: %w", c.File, err)
	}
	if err := replaceFile(c.File, ring.Format()); err != nil {
		return fmt.Errorf("writing %s: %w", c.File, err)
	}
	fmt.Printf("%s has %d keys; the new one seals in %s\n", c.File, ring.Len(), c.Delay)
	return nil
}

type keysShowCommand struct {
	File string `arg:"" help:"The file of the ring." type:"path"`
}

// Run lists the ring's keys.
func (c keysShowCommand) Run() error {
	ring, err := token.Load(c.File)
	if err != nil {
		return usageError{err}
	}
	sealing, _ := ring.Sealing(time.Now())
	for _, k := range ring.Keys() {
		role := "opens"
		if k.ID == sealing.ID {
			role = "seals and opens"
		}
		fmt.Printf("%s  made %s  seals from %s  %s\n", k.ID, k.Created.Format(time.RFC3339), k.SealsFrom.Format(time.RFC3339), role)
	}
	return nil
}

// replaceFile replaces a file whole, so that a gateway that reloads it never sees half of it.
func replaceFile(file string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
