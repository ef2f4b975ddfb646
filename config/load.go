package config

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"

	"github.com/limpet-project/limpet/affinity"
)

// MaxBytes bounds the size of a configuration: 16 MiB, some 100,000 endpoints.
const MaxBytes = 16 << 20

// origin is where a Config came from and what was made of it once.
type origin struct {
	file     string
	sum      [sha256.Size]byte
	paths    map[string]int                            // line of each file named, by field
	policies map[affinity.ServiceName]*affinity.Policy // with defaults; one for all routes of a service
	bare     Problems                                  // listeners with TLS that name no certificate
}

// Load reads the configuration in file and checks that the files that it names can be read. The error is of type [Problems],
// unless file itself cannot be read.
func Load(file string) (*Config, error) {
	data, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	if err := c.CheckFiles(); err != nil {
		return nil, err
	}
	return c, nil
}

// Parse reads a configuration. The name is that of the file, for messages and for relative paths. It performs no I/O. The error is
// of type [Problems] and tells all that is wrong.
func Parse(name string, data []byte) (*Config, error) {
	c := &Config{origin: origin{file: name, sum: sha256.Sum256(data)}}
	d := newDecoder(name)
	k := checker{decoder: d, root: d.decode(data, c)}
	if len(c.Listeners) == 0 {
		c.Listeners = []Listener{defaultListener()}
	}
	c.origin.paths = d.paths
	c.origin.policies = k.policies(c)
	c.origin.bare = k.bare(c)
	// A check of how fields agree says nothing useful about fields that could not be read.
	if len(d.problems) == 0 {
		k.config(c)
	}
	if err := d.problems.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// ParsePolicy reads an affinity policy alone and fills in its defaults. An empty one is session and revision affinity with all
// defaults. The error is of type [Problems].
func ParsePolicy(name string, data []byte) (*affinity.Policy, error) {
	var p affinity.Policy
	d := newDecoder(name)
	k := checker{decoder: d, root: d.decode(data, &p)}
	filled := k.policy(nil, &p)
	if err := d.problems.err(); err != nil {
		return nil, err
	}
	return filled, nil
}

// Defaults returns the configuration that an empty file means.
func Defaults() *Config {
	c, err := Parse("defaults", nil)
	if err != nil {
		panic(err) // the defaults are this package's
	}
	return c
}

// CheckFiles reports, as [Problems], the files named in c that cannot be opened.
func (c *Config) CheckFiles() error {
	var problems Problems
	for _, f := range c.files() {
		if err := checkFile(string(f.path)); err != nil {
			problems = append(problems, c.problem(f.field, err.Error()))
		}
	}
	return problems.err()
}

// CheckCertificates reports, as [Problems], the listeners with TLS that name no certificate. They are right only for a gateway that
// has certificates from elsewhere.
func (c *Config) CheckCertificates() error { return c.origin.bare.err() }

// problem returns a problem with a field that names a file.
func (c *Config) problem(field, reason string) *Problem {
	return &Problem{File: c.origin.file, Line: c.origin.paths[field], Field: field, Reason: reason}
}

func newDecoder(name string) *decoder {
	return &decoder{file: name, dir: filepath.Dir(name), paths: make(map[string]int)}
}

func defaultListener() Listener {
	var l Listener
	setDefaults(reflect.ValueOf(&l).Elem())
	l.Name, l.Address = "http", ":8080"
	return l
}

// read returns at most a byte more than MaxBytes, which Parse refuses.
func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxBytes+1))
}

func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if s, err := f.Stat(); err != nil || s.IsDir() {
		return fmt.Errorf("%s is a directory, expected a file", path)
	}
	return nil
}
