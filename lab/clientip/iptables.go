package clientip

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A saved rule is what is understood of a line of iptables-save.
type saved struct {
	line        int
	text        string
	chain       string
	target      string // of -j or -g
	comment     string
	protocol    string
	dst         netip.Addr // the zero Addr matches all
	port        uint16     // of --dport
	list        string     // of -m recent
	set, rcheck bool
	seconds     int
	lot         float64 // of -m statistic; 0 if there is none
	to          netip.AddrPort
	conditional bool // matches on something that is not understood here
}

// iptables collects the rules of one output of iptables-save, by chain.
type iptables struct {
	source string
	table  string
	nat    map[string][]saved
	reject []saved // rules of the filter table for Services without endpoints
	rules  int
	open   bool // a table has begun and not ended
	names  map[string]string
}

// ParseIPTables reads what iptables-save or ip6tables-save printed and returns the Services that kube-proxy's rules serve. The nat
// table is enough; with the filter table, Services without endpoints are known too.
func ParseIPTables(source string, r io.Reader) ([]Service, error) {
	lines := newLineReader(source, &bounded{r, maxInput})
	p := &iptables{source: source, nat: map[string][]saved{}, names: map[string]string{}}
	for lines.next() {
		if err := p.parseLine(lines); err != nil {
			return nil, err
		}
	}
	if err := lines.err(); err != nil {
		return nil, err
	}
	if p.open {
		return nil, lines.fail("got the end of the file in table %s, expected COMMIT: is it cut off?", p.table)
	}
	return p.services()
}

func (p *iptables) parseLine(lines *lineReader) error {
	text := lines.text
	switch {
	case text == "" || text[0] == '#':
	case text[0] == '*':
		if p.open {
			return lines.fail("got a new table in table %s, expected COMMIT", p.table)
		}
		p.table, p.open = strings.Clone(clip(text[1:])), true
	case text == "COMMIT":
		if !p.open {
			return lines.fail("got COMMIT outside a table, expected *nat or another table first")
		}
		p.open = false
	case !p.open:
		return lines.fail("got %q outside a table, expected *nat or another table first", clip(text))
	case text[0] == ':':
		return p.parseChain(lines)
	case text[0] == '-' || text[0] == '[':
		return p.parseRule(lines)
	default:
		return lines.fail("got %q, expected a chain, a rule or COMMIT", clip(text))
	}
	return nil
}

// parseChain reads ":NAME POLICY [packets:bytes]".
func (p *iptables) parseChain(lines *lineReader) error {
	name, _, ok := strings.Cut(lines.text[1:], " ")
	if !ok || name == "" {
		return lines.fail("got %q, expected :CHAIN POLICY", clip(lines.text))
	}
	if p.table == "nat" && strings.HasPrefix(name, "KUBE-") {
		p.names[strings.Clone(name)] = ""
		if len(p.names) > maxRules {
			return lines.fail("expected at most %d chains", maxRules)
		}
	}
	return nil
}

// wanted reports whether the rules of a chain matter, and whether their text does.
func (p *iptables) wanted(chain string) bool {
	if p.table == "filter" {
		return chain == "KUBE-SERVICES" || chain == "KUBE-EXTERNAL-SERVICES"
	}
	return p.table == "nat" && (chain == "KUBE-SERVICES" || chain == "KUBE-NODEPORTS" || isServiceChain(chain) ||
		strings.HasPrefix(chain, prefixEndpoint))
}

func isServiceChain(chain string) bool {
	return chooses(chain) || strings.HasPrefix(chain, prefixExternal)
}

// chooses reports whether a chain is one that chooses an endpoint.
func chooses(chain string) bool {
	return strings.HasPrefix(chain, prefixCluster) || strings.HasPrefix(chain, prefixLocal)
}

func (p *iptables) parseRule(lines *lineReader) error {
	w := words{rest: lines.text}
	if strings.HasPrefix(w.rest, "[") { // counters, of iptables-save -c
		w.next()
	}
	if w.next() != "-A" {
		return lines.fail("got %q, expected -A CHAIN", clip(lines.text))
	}
	chain := w.next()
	if chain == "" {
		return lines.fail("got a rule without a chain, expected -A CHAIN")
	}
	if !p.wanted(chain) {
		return nil
	}
	if p.rules++; p.rules > maxRules {
		return lines.fail("expected at most %d rules", maxRules)
	}
	rule := saved{line: lines.line, chain: p.intern(chain)}
	if err := p.parseOptions(&rule, &w); err != nil {
		return lines.fail("%s", err)
	}
	if chooses(chain) {
		rule.text = printable(lines.text)
	}
	p.keep(rule)
	return nil
}

func (p *iptables) keep(r saved) {
	switch {
	case p.table == "filter" && strings.HasSuffix(r.comment, noEndpoints):
		p.reject = append(p.reject, r)
	case p.table == "nat" && !strings.HasPrefix(r.target, "KUBE-MARK-"):
		p.nat[r.chain] = append(p.nat[r.chain], r)
	}
}

// intern returns the one copy of a name, which occurs in several rules.
func (p *iptables) intern(name string) string {
	if !strings.HasPrefix(name, "KUBE-") {
		return strings.Clone(name)
	}
	if one := p.names[name]; one != "" {
		return one
	}
	one := strings.Clone(name)
	p.names[one] = one
	return one
}

var errOpenQuote = errors.New(`got an opening ", expected a closing one`)

func (p *iptables) parseOptions(r *saved, w *words) error {
	not := false
	for {
		word := w.next()
		if word == "" && w.rest == "" {
			break
		}
		if word == "!" {
			not = true
			continue
		}
		if err := p.parseOption(r, w, word, not); err != nil {
			return err
		}
		not = false
	}
	if w.open {
		return errOpenQuote
	}
	return nil
}

// parseOption reads the value of an option. Options that are not known here make the rule conditional.
func (p *iptables) parseOption(r *saved, w *words, option string, not bool) (err error) {
	r.conditional = r.conditional || not
	switch option {
	case "-j", "-g":
		r.target = p.intern(w.next())
	case "-p":
		r.protocol = strings.Clone(w.next())
	case "-d":
		r.dst, err = parseHost(w.next())
	case "--dport":
		r.port, err = parsePort(w.next())
	case "--comment":
		r.comment = strings.Clone(w.next())
	case "--to-destination":
		if r.to, err = netip.ParseAddrPort(w.next()); err != nil {
			err = errors.New("--to-destination: expected ADDRESS:PORT")
		}
	case "-m", "--mask", "--rsource", "--reap", "--mode":
		return p.parseModule(option, w)
	case "--name":
		r.list = p.intern(w.next())
	case "--set":
		r.set = true
	case "--rcheck":
		r.rcheck = true
	case "--seconds":
		r.seconds, err = parseSeconds(w.next())
	case "--probability":
		r.lot, err = parseProbability(w.next())
	default:
		r.conditional = r.conditional || strings.HasPrefix(option, "-")
	}
	return err
}

// parseModule reads options that change nothing in what the rule decides, as kube-proxy uses them.
func (p *iptables) parseModule(option string, w *words) error {
	switch value := ""; option {
	case "-m":
		w.next()
	case "--mask":
		if value = w.next(); value != "255.255.255.255" && value != "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" {
			return fmt.Errorf("--mask: got %q, expected one that keeps the whole address", clip(value))
		}
	case "--mode":
		if value = w.next(); value != "random" {
			return fmt.Errorf("--mode: got %q, expected random", clip(value))
		}
	}
	return nil
}

// parseHost reads an address, with /32 or /128 if any.
func parseHost(s string) (netip.Addr, error) {
	host, bits, masked := strings.Cut(s, "/")
	a, err := parseAddress(host)
	if err != nil || !masked || bits == strconv.Itoa(a.BitLen()) {
		return a, err
	}
	if n, err := strconv.Atoi(bits); err != nil || n < 0 || n > a.BitLen() {
		return netip.Addr{}, fmt.Errorf("got %q, expected an IP address with a prefix length", clip(s))
	}
	return netip.Addr{}, nil // a network: no Service's address
}

func parseSeconds(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || time.Duration(n) > 10*365*24*time.Hour/time.Second {
		return 0, fmt.Errorf("--seconds: got %q, expected a number from 1", clip(s))
	}
	return n, nil
}

func parseProbability(s string) (float64, error) {
	p, err := strconv.ParseFloat(s, 64)
	if err != nil || !(p > 0 && p <= 1) {
		return 0, fmt.Errorf("--probability: got %q, expected a number above 0, at most 1", clip(s))
	}
	return p, nil
}

// words splits a line as a shell would, as far as iptables-save quotes.
type words struct {
	rest string
	open bool // a quote was not closed
}

// next returns the next word, or "" at the end. A word that is quoted loses its quotes and its backslashes.
func (w *words) next() string {
	w.rest = strings.TrimLeft(w.rest, " ")
	if w.rest == "" || w.rest[0] != '"' {
		var word string
		word, w.rest, _ = strings.Cut(w.rest, " ")
		return word
	}
	for i := 1; i < len(w.rest); i++ {
		switch w.rest[i] {
		case '\\':
			i++
		case '"':
			word := w.rest[1:i]
			w.rest = w.rest[i+1:]
			if strings.IndexByte(word, '\\') >= 0 {
				word = unescape(word)
			}
			return word
		}
	}
	w.rest, w.open = "", true
	return ""
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
