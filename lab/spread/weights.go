package spread

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// The limits of a weight: there the shares of a hundred thousand clients are still told apart.
const (
	minWeight   = 1e-18
	maxWeight   = 1e12
	weightRange = "a number from 1e-18 to 1e12"
)

// Equal returns n clients of equal weight on one node.
func Equal(n int) []Client { return Zipf(n, 0) }

// Zipf returns n clients on one node, of which the i-th has the weight 1/i^exponent.
func Zipf(n int, exponent float64) []Client {
	n = max(0, min(n, MaxClients+1)) // one too many is refused by Validate
	clients := make([]Client, n)
	for i := range clients {
		clients[i] = Client{Name: fmt.Sprintf("client-%05d", i+1), Weight: math.Pow(float64(i+1), -exponent)}
	}
	return clients
}

// Distribute puts clients on nodes in turn, and nodes in zones in turn.
func Distribute(clients []Client, nodes, zones int) {
	for i := range clients {
		clients[i].Node = i % max(1, nodes)
		clients[i].Zone = clients[i].Node % max(1, zones)
	}
}

// An InputError says where in an input something is wrong, and what was expected.
type InputError struct {
	File  string
	Line  int
	Field string
	Got   string
	Want  string
}

// Error returns "file:line: field: got x, expected y".
func (e *InputError) Error() string {
	return fmt.Sprintf("%s:%d: %s: got %q, expected %s", e.File, e.Line, e.Field, e.Got, e.Want)
}

// wrong makes an InputError; what was read is cut, as it may be anything.
func wrong(file string, line int, field, got, want string) error {
	if len(got) > 60 {
		got = got[:60] + "…"
	}
	return &InputError{file, line, field, got, want}
}

// A Placement says what a weights file says about places.
type Placement struct{ Nodes, Zones int } // how many it names; 0 if it names none

// ReadWeights reads one client a line: its name, its weight, and, in all lines or in none, the names of its node and its zone, apart by
// spaces, tabs or commas. Empty lines and what follows a # are left out. File is the name to give in errors, which are *[InputError]
// where a line is wrong.
func ReadWeights(r io.Reader, file string) ([]Client, Placement, error) {
	w := weightsReader{file: file, names: map[string]int{}, nodes: map[string]int{}, zones: map[string]int{}, zoneOf: map[string]string{}}
	err := eachLine(r, file, func(line int, text string) error {
		text, _, _ = strings.Cut(text, "#")
		fields := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == '\r' })
		if len(fields) == 0 {
			return nil
		}
		return w.add(line, fields)
	})
	if err == nil && len(w.clients) == 0 {
		err = wrong(file, 1, "client", "", "a line such as: client-00001 1.5")
	}
	return w.clients, Placement{len(w.nodes), len(w.zones)}, err
}

type weightsReader struct {
	file         string
	clients      []Client
	names        map[string]int // line
	nodes, zones map[string]int
	zoneOf       map[string]string // of a node
	columns      int
}

func (w *weightsReader) add(line int, fields []string) error {
	if len(fields) < 2 {
		return wrong(w.file, line, "weight", "", weightRange)
	}
	if w.columns == 0 {
		w.columns = len(fields)
	}
	if len(fields) != w.columns || len(fields) > 4 {
		return wrong(w.file, line, "fields", strconv.Itoa(len(fields)), "client, weight, and in all lines or none node and zone")
	}
	name := fields[0]
	if first, twice := w.names[name]; twice {
		return wrong(w.file, line, "client", name, fmt.Sprintf("another name than that of line %d", first))
	}
	weight, err := strconv.ParseFloat(fields[1], 64)
	if err != nil || !(weight >= minWeight && weight <= maxWeight) {
		return wrong(w.file, line, "weight", fields[1], weightRange)
	}
	if len(w.clients) == MaxClients {
		return wrong(w.file, line, "client", name, fmt.Sprintf("at most %d clients", MaxClients))
	}
	c := Client{Name: name, Weight: weight}
	if w.columns > 2 {
		c.Node = number(w.nodes, fields[2])
	}
	if w.columns > 3 {
		if zone, known := w.zoneOf[fields[2]]; known && zone != fields[3] {
			return wrong(w.file, line, "zone", fields[3], fmt.Sprintf("the zone that node %s has above: %s", fields[2], zone))
		}
		w.zoneOf[fields[2]] = fields[3]
		c.Zone = number(w.zones, fields[3])
	}
	w.names[name] = line
	w.clients = append(w.clients, c)
	return nil
}

// number returns the number of a name, counted from 0 in the order of their appearance.
func number(names map[string]int, name string) int {
	n, known := names[name]
	if !known {
		n = len(names)
		names[name] = n
	}
	return n
}

// eachLine calls f for every line; a line may have 64 KiB.
func eachLine(r io.Reader, file string, f func(line int, text string) error) error {
	scan := bufio.NewScanner(r)
	line := 0
	for scan.Scan() {
		line++
		if err := f(line, scan.Text()); err != nil {
			return err
		}
	}
	if err := scan.Err(); errors.Is(err, bufio.ErrTooLong) {
		return wrong(file, line+1, "line", "", "at most 65536 bytes")
	} else if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	return nil
}
