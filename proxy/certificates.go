package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificatePoll is how often certificate files are looked at. A mounted Secret is replaced by renaming links, which notifications
// of the file system report in many ways; reading small files once a second is simpler and misses nothing.
const certificatePoll = time.Second

// CertificateFiles names the PEM files of one certificate with its chain, and of its key.
type CertificateFiles struct {
	Certificate string
	Key         string
}

// A CertificateSource chooses the certificate that a TLS listener shows. It is called concurrently, once for each handshake, and does
// not wait for anything. With an error the handshake fails; no certificate and no error is none for this name, which the client is
// told. A source that also has Run(context.Context, *slog.Logger) is run by a [Listener] while it serves, and returns when the context
// ends.
type CertificateSource interface {
	Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Certificates are a [CertificateSource] of files, by the name that a client asks for. They follow their files: while Run runs a change
// is noticed within seconds, and a change that cannot be used leaves the old ones in force. They belong to one Listener, which
// runs them. A nil *Certificates has no certificate.
type Certificates struct {
	files []CertificateFiles
	seen  [sha256.Size]byte // of the files as last read; Run's alone
	now   atomic.Pointer[[]tls.Certificate]
}

// LoadCertificates reads the files. The first certificate is shown to clients that ask for no name or one that none fits.
func LoadCertificates(files []CertificateFiles) (*Certificates, error) {
	if len(files) == 0 {
		return nil, errors.New("loading certificates: no files named")
	}
	c := &Certificates{files: files}
	sum, err := c.reload()
	if err != nil {
		return nil, err
	}
	c.seen = sum
	return c, nil
}

var _ CertificateSource = (*Certificates)(nil)

// Run looks at the files until ctx ends. What was wrong with a change is logged, once per change.
func (c *Certificates) Run(ctx context.Context, log *slog.Logger) {
	if c == nil {
		return
	}
	tick := time.NewTicker(certificatePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.poll(log)
		}
	}
}

// poll reloads if the files changed.
func (c *Certificates) poll(log *slog.Logger) {
	_, sum, err := c.read()
	if err == nil && sum == c.seen {
		return
	}
	if err == nil {
		sum, err = c.reload()
	} else {
		sum = sha256.Sum256([]byte(err.Error()))
	}
	if sum == c.seen {
		return
	}
	c.seen = sum
	if log == nil {
		return
	}
	if err != nil {
		log.Warn("certificates changed and cannot be used; the old ones stay", "error", err)
		return
	}
	log.Info("certificates reloaded")
}

// reload puts what the files hold in force, all or nothing. It returns the files' sum also if they cannot be used.
func (c *Certificates) reload() ([sha256.Size]byte, error) {
	contents, sum, err := c.read()
	if err != nil {
		return sum, err
	}
	certs := make([]tls.Certificate, len(c.files))
	for i, f := range c.files {
		if certs[i], err = tls.X509KeyPair(contents[i][0], contents[i][1]); err != nil {
			return sum, fmt.Errorf("loading certificate %s with key %s: %w", f.Certificate, f.Key, err)
		}
	}
	c.now.Store(&certs)
	return sum, nil
}

// read returns the contents of all files and a sum of them.
func (c *Certificates) read() (contents [][2][]byte, sum [sha256.Size]byte, err error) {
	var all bytes.Buffer
	contents = make([][2][]byte, len(c.files))
	for i, f := range c.files {
		for j, name := range []string{f.Certificate, f.Key} {
			content, err := os.ReadFile(name)
			if err != nil {
				return nil, sum, fmt.Errorf("loading certificates: %w", err)
			}
			contents[i][j] = content
			part := sha256.Sum256(content)
			all.Write(part[:])
		}
	}
	return contents, sha256.Sum256(all.Bytes()), nil
}

// Certificate returns the first certificate that fits the name and the algorithms of a client, else the first.
func (c *Certificates) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c == nil {
		return nil, nil
	}
	certs := *c.now.Load()
	for i := range certs {
		if hello.SupportsCertificate(&certs[i]) == nil {
			return &certs[i], nil
		}
	}
	return &certs[0], nil
}
