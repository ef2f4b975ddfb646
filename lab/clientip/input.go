package clientip

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// Bounds of what is read, so that a file's size does not become this process's.
const (
	maxInput  = 256 << 20 // of one file whose contents are kept; 100,000 rules are about 20 MiB
	maxLine   = 64 << 10
	maxRules  = 1 << 20
	maxPorts  = 1 << 17 // ServicePorts
	maxOthers = 1 << 20 // entries of a list, elements of a set, endpoints
)

// A SyntaxError says where an input is not what it should be.
type SyntaxError struct {
	Source string
	Line   int // from 1; 0 if lines mean nothing there
	Reason string
}

// Error returns the place and what was expected.
func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return e.Source + ": " + e.Reason
	}
	return fmt.Sprintf("%s:%d: %s", e.Source, e.Line, e.Reason)
}

// clip returns s fit to be printed in a sentence: short, and without control characters.
func clip(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most] + "…"
	}
	return printable(s)
}

// printable replaces what could steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

var errTooLarge = errors.New("larger than this reads")

// A bounded reader fails, rather than ends, after so many bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// A lineReader goes through the lines of a source and knows where it is.
type lineReader struct {
	source string
	scan   *bufio.Scanner
	line   int
	text   string
}

func newLineReader(source string, r io.Reader) *lineReader {
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 0, 4096), maxLine)
	return &lineReader{source: source, scan: scan}
}

func (l *lineReader) next() bool {
	l.line++
	if !l.scan.Scan() {
		return false
	}
	l.text = l.scan.Text()
	return true
}

// err says why next returned false, or nil at the end of the source.
func (l *lineReader) err() error {
	switch err := l.scan.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return l.fail("got a line of more than %d bytes, expected a shorter one", maxLine)
	case errors.Is(err, errTooLarge):
		return l.fail("expected at most %d bytes", maxInput)
	case err != nil:
		return fmt.Errorf("reading %s: %w", l.source, err)
	}
	return nil
}

func (l *lineReader) fail(format string, args ...any) error {
	return &SyntaxError{Source: l.source, Line: l.line, Reason: fmt.Sprintf(format, args...)}
}

// parseAddress reads an address without a zone, which no rule or list has.
func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("got %q, expected an IP address", clip(s))
	}
	return a, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("got %q, expected a port from 1 to 65535", clip(s))
	}
	return uint16(n), nil
}
