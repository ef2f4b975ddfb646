package clientip

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// The objects of nft's JSON, as far as they matter. libnftables-json(5) describes them.
type nftObject struct {
	Set  *nftSet  `json:"set"`
	Map  *nftSet  `json:"map"`
	Rule *nftRule `json:"rule"`
}

type nftSet struct {
	Family  string            `json:"family"`
	Table   string            `json:"table"`
	Name    string            `json:"name"`
	Size    int               `json:"size"`
	Timeout int64             `json:"timeout"` // seconds
	Elem    []json.RawMessage `json:"elem"`
}

type nftRule struct {
	Family string            `json:"family"`
	Table  string            `json:"table"`
	Chain  string            `json:"chain"`
	Handle int               `json:"handle"`
	Expr   []json.RawMessage `json:"expr"`
}

// An nftExpr is a statement of a rule: one of its fields is set.
type nftExpr struct {
	Match *struct {
		Left struct {
			Payload struct {
				Field string `json:"field"`
			} `json:"payload"`
		} `json:"left"`
		Right json.RawMessage `json:"right"`
	} `json:"match"`
	Goto *nftTarget `json:"goto"`
	Vmap *nftDraw   `json:"vmap"`
	DNAT *struct {
		Addr json.RawMessage `json:"addr"`
		Port json.RawMessage `json:"port"`
	} `json:"dnat"`
}

type nftTarget struct {
	Target string `json:"target"`
}

// An nftDraw is a map with a random number for a key.
type nftDraw struct {
	Key struct {
		Numgen *struct {
			Mode string `json:"mode"`
			Mod  int    `json:"mod"`
		} `json:"numgen"`
	} `json:"key"`
	Data json.RawMessage `json:"data"` // a name, or {"set": [[number, value]...]}
}

func (d *nftDraw) entries() [][2]json.RawMessage {
	var data struct {
		Set [][2]json.RawMessage `json:"set"`
	}
	if d.Key.Numgen == nil || d.Key.Numgen.Mode != "random" || json.Unmarshal(d.Data, &data) != nil {
		return nil
	}
	return data.Set
}

// nftables collects what the tables of kube-proxy have.
type nftables struct {
	source string
	rules  map[nftName][]nftRule
	fronts []nftFront
	sets   map[nftName]*nftSet
	count  int

	clusterIPs map[netip.Addr]bool
}

// An nftName is the name of a chain or a set: both tables of kube-proxy, for IPv4 and IPv6, may have it.
type nftName struct{ family, name string }

type nftFront struct {
	front  Front
	family string
	port   ServicePort // of Services without endpoints
	proto  string
	chain  string // empty if packets are refused
}

// ParseNFTables reads what nft -j list ruleset printed and returns the Services that kube-proxy's rules serve, and their lists of
// clients by name of the set.
func ParseNFTables(source string, r io.Reader) ([]Service, map[string]List, error) {
	in := &bounded{r, maxInput}
	dec := json.NewDecoder(in)
	p := &nftables{source: source, rules: map[nftName][]nftRule{}, sets: map[nftName]*nftSet{}, clusterIPs: map[netip.Addr]bool{}}
	err := p.read(dec)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // a file that ends too early, which is no end to be content with
	}
	var syntax *SyntaxError
	if err != nil && !errors.As(err, &syntax) {
		return nil, nil, p.fault("at byte %d: %s; expected the JSON of nft -j list ruleset", dec.InputOffset(), err)
	}
	if err != nil {
		return nil, nil, err
	}
	services, err := p.services()
	if err != nil {
		return nil, nil, err
	}
	lists, err := p.lists()
	return services, lists, err
}

func (p *nftables) fault(format string, args ...any) error {
	return &SyntaxError{Source: p.source, Reason: fmt.Sprintf(format, args...)}
}

// read goes through the objects one by one, so that what other tables have is not held.
func (p *nftables) read(dec *json.Decoder) error {
	for _, want := range []any{json.Delim('{'), "nftables", json.Delim('[')} {
		if got, err := dec.Token(); err != nil {
			return err
		} else if got != want {
			return fmt.Errorf("got %v, expected %v", clip(fmt.Sprint(got)), want)
		}
	}
	for dec.More() {
		var o nftObject
		if err := dec.Decode(&o); err != nil {
			return err
		}
		if err := p.add(o); err != nil {
			return err
		}
	}
	for range 2 { // ] and }, without which the file is cut off
		if _, err := dec.Token(); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("got more after the end")
	}
	return nil
}

func isKubeProxy(family, table string) bool {
	return table == "kube-proxy" && (family == "ip" || family == "ip6")
}

func (p *nftables) add(o nftObject) error {
	if p.count++; p.count > maxRules {
		return p.fault("got more than %d objects, expected fewer", maxRules)
	}
	switch {
	case o.Set != nil && isKubeProxy(o.Set.Family, o.Set.Table) && o.Set.Name == "cluster-ips":
		return p.addClusterIPs(o.Set)
	case o.Set != nil && isKubeProxy(o.Set.Family, o.Set.Table) && strings.HasPrefix(o.Set.Name, nftAffinity):
		if len(o.Set.Elem) > maxOthers {
			return p.fault("set %s: got %d elements, expected at most %d", clip(o.Set.Name), len(o.Set.Elem), maxOthers)
		}
		p.sets[nftName{o.Set.Family, o.Set.Name}] = o.Set
	case o.Map != nil && isKubeProxy(o.Map.Family, o.Map.Table):
		return p.addFronts(o.Map)
	case o.Rule != nil && isKubeProxy(o.Rule.Family, o.Rule.Table) && strings.Contains(o.Rule.Chain, "/"):
		name := nftName{o.Rule.Family, o.Rule.Chain}
		p.rules[name] = append(p.rules[name], *o.Rule)
	}
	return nil
}

// addClusterIPs reads the set that tells ClusterIPs from other addresses of Services.
func (p *nftables) addClusterIPs(set *nftSet) error {
	for _, raw := range set.Elem {
		a, err := parseJSONAddress(raw)
		if err != nil {
			return p.fault("set cluster-ips: %s", err)
		}
		p.clusterIPs[a] = true
	}
	return nil
}

// addFronts reads the maps that lead from addresses to chains.
func (p *nftables) addFronts(m *nftSet) error {
	switch m.Name {
	case "service-ips", "service-nodeports", "no-endpoint-services":
	default:
		return nil
	}
	for _, raw := range m.Elem {
		f, err := parseFront(raw)
		if err != nil {
			return p.fault("map %s: %s", m.Name, err)
		}
		f.family = m.Family
		p.fronts = append(p.fronts, f)
	}
	return nil
}

// An nftKey is the key of an element: a value, or an elem with a value and what belongs to it.
type nftKey struct {
	Concat []json.RawMessage `json:"concat"`
	Elem   *struct {
		Val     json.RawMessage `json:"val"`
		Comment string          `json:"comment"`
		Expires *int64          `json:"expires"` // seconds
	} `json:"elem"`
}

// parseFront reads [{"concat": [address, protocol, port]}, verdict], without the address for a node port.
func parseFront(raw json.RawMessage) (f nftFront, err error) {
	var pair [2]json.RawMessage
	var key nftKey
	var verdict nftExpr
	if err := json.Unmarshal(raw, &pair); err != nil {
		return f, errors.New("expected elements [key, verdict]")
	}
	if err := json.Unmarshal(pair[0], &key); err != nil {
		return f, errors.New("expected a key of address, protocol and port")
	}
	if key.Elem != nil {
		f.port, _ = ParseServicePort(key.Elem.Comment)
		if err := json.Unmarshal(key.Elem.Val, &key); err != nil {
			return f, errors.New("expected a key of address, protocol and port")
		}
	}
	if json.Unmarshal(pair[1], &verdict) == nil && verdict.Goto != nil {
		f.chain = verdict.Goto.Target
	}
	f.front, f.proto, err = parseTuple(key.Concat)
	f.port.Protocol = f.proto
	return f, err
}

func parseTuple(concat []json.RawMessage) (f Front, protocol string, err error) {
	f.Kind = "node port"
	if len(concat) == 3 {
		f.Kind = "service IP"
		if f.Address, err = parseJSONAddress(concat[0]); err != nil {
			return f, "", err
		}
		concat = concat[1:]
	}
	if len(concat) != 2 || json.Unmarshal(concat[0], &protocol) != nil || !isProtocol(protocol) ||
		json.Unmarshal(concat[1], &f.Port) != nil || f.Port == 0 {
		return f, "", errors.New("expected a key of address, protocol and port")
	}
	return f, protocol, nil
}

func parseJSONAddress(raw json.RawMessage) (netip.Addr, error) {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return netip.Addr{}, fmt.Errorf("got %s, expected an IP address", clip(string(raw)))
	}
	return parseAddress(s)
}

// lists reads the elements of the sets.
func (p *nftables) lists() (map[string]List, error) {
	lists := make(map[string]List, len(p.sets))
	for name, set := range p.sets {
		l := List{Limit: set.Size, Entries: make([]Entry, 0, len(set.Elem))}
		for _, raw := range set.Elem {
			e, err := parseElement(raw, set.Timeout)
			if err != nil {
				return nil, p.fault("set %s: %s", clip(name.name), err)
			}
			l.Entries = append(l.Entries, e)
		}
		lists[name.name] = l
	}
	return lists, nil
}

// parseElement reads {"elem": {"val": address, "expires": seconds}}, or an address alone.
func parseElement(raw json.RawMessage, timeout int64) (Entry, error) {
	var key nftKey
	if json.Unmarshal(raw, &key) == nil && key.Elem != nil {
		raw = key.Elem.Val
		if key.Elem.Expires != nil {
			timeout = *key.Elem.Expires
		}
	}
	client, err := parseJSONAddress(raw)
	if err != nil {
		return Entry{}, err
	}
	if timeout < 0 || timeout > int64(1<<62/time.Second) {
		return Entry{}, fmt.Errorf("expires: got %d, expected seconds", timeout)
	}
	return Entry{Client: client, ends: time.Duration(timeout) * time.Second}, nil
}
