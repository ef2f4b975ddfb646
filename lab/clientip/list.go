package clientip

import (
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A List remembers the clients of one endpoint: a list of xt_recent or a set of nftables.
type List struct {
	Limit   int // it holds at most so many; 0 if that is unknown
	Entries []Entry
}

// An Entry is a client in a List.
type Entry struct {
	Client netip.Addr
	seen   uint64        // xt_recent: when it connected last, in jiffies
	ends   time.Duration // nftables: it ends in so long
}

// DefaultListTotal is how many clients a list of xt_recent remembers unless its module's parameter ip_list_tot says otherwise. The one
// that was seen longest ago has to go when another comes.
const DefaultListTotal = 100

// A Clock relates jiffies, the kernel's ticks by which xt_recent remembers, to time. The zero Clock knows nothing.
type Clock struct {
	Jiffies uint64 // at the moment when the lists were read
	HZ      int    // ticks in a second
}

// age returns how long ago a tick was, and whether the Clock knows. A tick after the Clock was read is now. Jiffies have 64 bits or 32,
// which wrap five minutes after the start and then every 49 days at 1000 HZ.
func (c Clock) age(seen uint64) (time.Duration, bool) {
	if c.HZ <= 0 {
		return 0, false
	}
	ticks := int64(c.Jiffies - seen)
	if c.Jiffies>>32 == 0 && seen>>32 == 0 {
		ticks = int64(int32(uint32(c.Jiffies) - uint32(seen)))
	}
	if ticks <= 0 {
		return 0, true
	}
	seconds, rest := uint64(ticks)/uint64(c.HZ), uint64(ticks)%uint64(c.HZ)
	const longest = uint64(1<<62) / uint64(time.Second)
	return time.Duration(min(seconds, longest))*time.Second + time.Duration(rest)*time.Second/time.Duration(c.HZ), true
}

// left returns how long a rule with such a timeout keeps the client, below 0 if no longer, and whether that is known.
func (e Entry) left(mode Mode, clock Clock, timeout time.Duration) (time.Duration, bool) {
	if mode == NFTables {
		return e.ends, true
	}
	age, known := clock.age(e.seen)
	return timeout - age, known
}

// ParseRecent reads a list of xt_recent, as /proc/net/xt_recent has it.
func ParseRecent(source string, r io.Reader) ([]Entry, error) {
	lines := newLineReader(source, &bounded{r, maxInput})
	var entries []Entry
	for lines.next() {
		if len(entries) == maxOthers {
			return nil, lines.fail("expected at most %d clients", maxOthers)
		}
		e, err := parseRecentLine(lines.text)
		if err != nil {
			return nil, lines.fail("%s", err)
		}
		entries = append(entries, e)
	}
	return entries, lines.err()
}

// parseRecentLine reads "src=ADDRESS ttl: N last_seen: JIFFIES oldest_pkt: N JIFFIES, JIFFIES...". What follows are the times of
// earlier connections.
func parseRecentLine(text string) (Entry, error) {
	const form = "src=ADDRESS ttl: N last_seen: JIFFIES"
	f := strings.Fields(text)
	if len(f) < 5 || !strings.HasPrefix(f[0], "src=") || f[3] != "last_seen:" {
		return Entry{}, fmt.Errorf("got %q, expected %s", clip(text), form)
	}
	client, err := parseAddress(f[0][len("src="):])
	if err != nil {
		return Entry{}, err
	}
	seen, err := strconv.ParseUint(f[4], 10, 64)
	if err != nil {
		return Entry{}, fmt.Errorf("last_seen: got %q, expected a number", clip(f[4]))
	}
	return Entry{Client: client, seen: seen}, nil
}

// ParseTimerList finds the jiffies in what /proc/timer_list printed.
func ParseTimerList(source string, r io.Reader) (uint64, error) {
	lines := newLineReader(source, &bounded{r, maxInput})
	for lines.next() {
		if number, ok := strings.CutPrefix(lines.text, "jiffies: "); ok {
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				return 0, lines.fail("jiffies: got %q, expected a number", clip(number))
			}
			return n, nil
		}
	}
	if err := lines.err(); err != nil {
		return 0, err
	}
	return 0, &SyntaxError{Source: source, Reason: `expected a line "jiffies: N", as in /proc/timer_list`}
}

// ParseUptime reads the first number of /proc/uptime.
func ParseUptime(source string, r io.Reader) (time.Duration, error) {
	lines := newLineReader(source, &bounded{r, maxLine})
	if !lines.next() && lines.err() != nil {
		return 0, lines.err()
	}
	first, _, _ := strings.Cut(lines.text, " ")
	s, err := strconv.ParseFloat(first, 64)
	if err != nil || !(s >= 0 && s < 1e9) {
		return 0, lines.fail("got %q, expected the seconds since the start, as in /proc/uptime", clip(first))
	}
	return time.Duration(s * float64(time.Second)), nil
}

// rates are the HZ that kernels are built with, by architecture and distribution.
var rates = []int{100, 250, 300, 1000, 24, 32, 48, 64, 128, 256, 512, 1024, 1200}

// FindHZ works out how many jiffies make a second from the jiffies after an uptime: a kernel starts to count five minutes before 32
// bits overflow. It returns 0 if no rate fits, as on a machine that slept, or if more than one does, in the sixth minute after the
// start.
func FindHZ(jiffies uint64, uptime time.Duration) int {
	const tolerance = 2.0 // seconds, between reading the two files
	found := 0
	for _, hz := range rates {
		start := 1<<32 - 300*uint64(hz)
		ticks := jiffies - start
		if bits.Len64(jiffies) <= 32 { // 32 bits may have wrapped, once
			ticks = uint64(uint32(jiffies) - uint32(start))
		}
		if d := float64(ticks)/float64(hz) - uptime.Seconds(); d > -tolerance && d < tolerance {
			if found != 0 {
				return 0
			}
			found = hz
		}
	}
	return found
}
