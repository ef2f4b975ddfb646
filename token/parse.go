package token

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// maxRingBytes bounds a key file: MaxKeys lines of some 100 bytes, and room for comments.
const maxRingBytes = 64 << 10

// fileHeader begins every file that Format writes.
const fileHeader = `# Limpet token keys, the newest first. Keep this file secret.
# id       secret (base64, 32 bytes)                    created              seals from
`

// ParseRing reads a key file. Each line is one key, the newest first:
//
//	3f9a01c2 q83v…32 bytes in base64…= 2026-01-02T15:04:05Z 2026-01-02T15:09:05Z
//
// The fields are an id of eight hexadecimal digits, the secret, the time of its making, and optionally the time from which it
// seals, by default [SealDelay] after its making. Times are RFC 3339. Empty lines and lines that begin with # are left out.
// A file without a key is an error. Errors name the line and never quote it.
func ParseRing(data []byte) (*Ring, error) {
	if len(data) > maxRingBytes {
		return nil, fmt.Errorf("longer than %d bytes", maxRingBytes)
	}
	var keys []*key
	lineOf := make(map[KeyID]int)
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxRingBytes+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if first := lineOf[k.ID]; first != 0 {
			return nil, fmt.Errorf("line %d: id %s is that of line %d too", n, k.ID, first)
		}
		lineOf[k.ID] = n
		keys = append(keys, k)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it")
	}
	return newRing(keys)
}

// Load reads the key file at path; see [ParseRing].
func Load(path string) (*Ring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading token keys: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRingBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading token keys: %w", err)
	}
	r, err := ParseRing(data)
	if err != nil {
		return nil, fmt.Errorf("token keys in %s: %w", path, err)
	}
	return r, nil
}

// Format returns the ring as a key file, secrets and all; [ParseRing] reads it back.
func (r *Ring) Format() []byte {
	out := []byte(fileHeader)
	for i := range r.Len() {
		k := r.keys[i]
		out = fmt.Appendf(out, "%s %s %s %s\n", k.ID, base64.StdEncoding.EncodeToString(k.secret[:]),
			k.Created.UTC().Format(time.RFC3339), k.SealsFrom.UTC().Format(time.RFC3339))
	}
	return out
}

// parseKey never quotes a field: a secret may stand where another one was expected.
func parseKey(line string) (*key, error) {
	fields := strings.Fields(line)
	if len(fields) < 3 || len(fields) > 4 {
		return nil, fmt.Errorf("%d fields, expected an id, a secret, the time of its making and perhaps the time from which it seals",
			len(fields))
	}
	var k Key
	if n, err := hex.Decode(k.ID[:], []byte(fields[0])[:min(len(fields[0]), 8)]); err != nil || n != len(k.ID) || len(fields[0]) != 8 {
		return nil, errors.New("id: expected eight hexadecimal digits")
	}
	raw, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(raw) != secretSize {
		return nil, fmt.Errorf("secret: expected %d bytes in base64", secretSize)
	}
	if k.Created, err = parseTime(fields[2]); err != nil {
		return nil, errors.New("created: expected a time such as 2026-01-02T15:04:05Z")
	}
	k.SealsFrom = k.Created.Add(SealDelay)
	if len(fields) == 4 {
		if k.SealsFrom, err = parseTime(fields[3]); err != nil {
			return nil, errors.New("seals from: expected a time such as 2026-01-02T15:09:05Z")
		}
	}
	return newKey(k, [secretSize]byte(raw))
}

// parseTime refuses years that RFC 3339 cannot write again in UTC or with SealDelay added.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err == nil && t.Year() > 9000 {
		err = errors.New("after the year 9000")
	}
	return t.UTC(), err
}
