package main

import (
	"fmt"
	"log/slog"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/proxy"
)

// checkCommand checks a configuration as serve would.
type checkCommand struct {
	File string `arg:"" help:"The configuration file."`
}

// Run prints every problem, or what the file configures.
func (c checkCommand) Run() error {
	loaded, err := loadConfig(c.File)
	if err != nil {
		return err
	}
	if err := checkContents(loaded); err != nil {
		return err
	}
	endpoints := 0
	for _, s := range loaded.Services {
		for _, r := range s.Revisions {
			endpoints += len(r.Endpoints)
		}
	}
	fmt.Printf("%s is right: %d listeners, %d routes, %d services, %d endpoints\n",
		c.File, len(loaded.Listeners), len(loaded.Routes), len(loaded.Services), endpoints)
	return nil
}

// loadConfig reads a configuration whole: the file and the files that it names.
func loadConfig(file string) (*config.Config, error) {
	c, err := config.Load(file)
	if err == nil {
		_, err = c.Proxy() // reads the certificates of authorities
	}
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// checkContents reads the files that a configuration names as a start would: authorities, certificates, secrets, passwords.
func checkContents(c *config.Config) error {
	routes, err := c.Proxy()
	if err != nil {
		return usageError{err}
	}
	gateway := proxy.New(nil, nil) // asked for nothing, so it picks nothing
	defer gateway.Close()
	if err := gateway.Swap(routes); err != nil {
		return usageError{fmt.Errorf("%s: %w", c.File(), err)}
	}
	for i, l := range c.Listeners {
		if l.TLS == nil {
			continue
		}
		if _, err := certificates(l.TLS); err != nil {
			return fmt.Errorf("%s: listeners[%d].tls: %w", c.File(), i, err)
		}
	}
	if _, err := readSecrets(string(c.Secrets.DigestFile), string(c.Secrets.TokenKeysFile)); err != nil {
		return fmt.Errorf("%s: secrets: %w", c.File(), err)
	}
	if r := c.Store.Redis; r != nil {
		if _, err := redisOptions(r, slog.New(slog.DiscardHandler)); err != nil {
			return fmt.Errorf("%s: store.redis: %w", c.File(), err)
		}
	}
	return nil
}
