package redis_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/redis"
	"github.com/limpet-project/limpet/redis/redistest"
)

// commands returns how often the server ran a command, the ones in scripts included.
func commands(server *redistest.Server, name string) int {
	for line := range strings.Lines(server.Do("INFO", "commandstats")) {
		rest, ok := strings.CutPrefix(line, "cmdstat_"+name+":calls=")
		if ok {
			n, _ := strconv.Atoi(rest[:strings.Index(rest, ",")])
			return n
		}
	}
	return 0
}

func TestDefect10AMissAndABindingTakeOneRoundTripEach(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	bind(t, s, session(0), pod1) // the server now knows the script
	// The keeper's TIME and the client's own PING come by the clock and are left out.
	sent := func() int {
		total := 0
		for line := range strings.Lines(server.Do("INFO", "commandstats")) {
			name, rest, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
			switch name {
			case "get", "eval", "evalsha", "set", "script|load", "multi", "exec", "watch":
				n, _ := strconv.Atoi(rest[:strings.Index(rest, ",")])
				total += n
			}
		}
		return total
	}
	before, gets := sent(), commands(server, "get")
	for i := 1; i <= 20; i++ {
		wants(t, s, session(i), binding.Binding{})
	}
	if n := sent() - before; n != 20 || commands(server, "get")-gets != 20 {
		t.Errorf("commands of 20 misses = %d, want 20 GETs", n)
	}
	before = commands(server, "evalsha")
	for i := 1; i <= 20; i++ {
		bind(t, s, session(i), pod1)
	}
	if n := commands(server, "evalsha") - before; n != 20 || commands(server, "eval") != 1 {
		t.Errorf("EVALSHA of 20 bindings = %d and EVAL ever = %d, want 20 and 1", n, commands(server, "eval"))
	}
}

func TestDefect9EveryKeyHasATimeToLive(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	_, writes := calls(t.Context(), s)
	all(t, "well", writes, nil, "")
	for _, d := range []endpoint.Drain{
		{Service: cart, Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-x2x7k"},
		{Service: cart, Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-q8m4d", Until: time.Now().Add(time.Hour)},
	} {
		if err := s.SetDrain(t.Context(), d); err != nil {
			t.Fatalf("SetDrain(%+v) = %v, want no error", d, err)
		}
	}
	names := strings.Split(server.Do("KEYS", "*"), "\n")
	if len(names) < 6 {
		t.Errorf("KEYS * = %q, want bindings, indexes, drains, fingerprint and ping", names)
	}
	for _, name := range names {
		if ms, _ := strconv.Atoi(server.Do("PTTL", name)); ms <= 0 {
			t.Errorf("PTTL %s = %d, want a time to live", name, ms)
		}
		if !strings.HasPrefix(name, "limpet:1:") {
			t.Errorf("key %q, want the prefix limpet:1:", name)
		}
	}
}

func TestDefect13PrefixesAndServicesShareNothing(t *testing.T) {
	server := redistest.Start(t)
	shop, blog := open(t, server), open(t, server, func(o *redis.Options) { o.Prefix = "blog" })
	b := bind(t, shop, session(1), pod1)
	wants(t, blog, session(1), binding.Binding{})
	other := session(1)
	other.Scope.Service.Namespace = "blog"
	wants(t, shop, other, binding.Binding{})
	wants(t, shop, session(1), b)
}

func TestDefect6AddressPasswordUserDatabaseAndTLSAreConfigured(t *testing.T) {
	server := redistest.Start(t, redistest.TLS(), redistest.Password("correct-horse"),
		redistest.User("limpet", "battery-staple", "~limpet:*", "resetchannels", "-@all", "+@connection", "+@scripting",
			"+get", "+set", "+del", "+exists", "+pttl", "+pexpire", "+time", "+select", "+@sortedset", "+@hash"))
	s := open(t, server, func(o *redis.Options) { o.Username, o.Password, o.DB = "limpet", "battery-staple", 3 })
	w := watched(t, s)
	b := bind(t, s, session(1), pod1)
	wants(t, s, session(1), b)
	reads, writes := calls(t.Context(), s)
	all(t, "used with few permissions", reads, nil, "")
	all(t, "used with few permissions", writes, nil, "")
	if size := server.Do("INFO", "keyspace"); !strings.Contains(size, "db3:") {
		t.Errorf("INFO keyspace = %q, want database 3 in use", size)
	}
	if !w.isLive() {
		t.Error("watching with few permissions = not live, want live")
	}
}

func TestCredentialsAreAskedForAtEachConnection(t *testing.T) {
	server := redistest.Start(t, redistest.User("limpet", "monday", "~*", "+@all"))
	current := make(chan string, 1)
	current <- "monday"
	s := open(t, server, func(o *redis.Options) {
		o.Credentials = func() (string, string, error) {
			password := <-current
			current <- password
			return "limpet", password, nil
		}
	})
	<-current
	current <- "tuesday"
	server.Do("ACL", "SETUSER", "limpet", "resetpass", ">tuesday")
	server.Do("CLIENT", "KILL", "USER", "limpet")
	eventually(t, "connection with the new password", func() bool { return s.Ping(t.Context()) == nil })
}

func TestVersionsGrowWhenTheServersClockStepsBack(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	// A binding that was made an hour ahead of the server's clock is as one from before a step back.
	ahead := binding.Version{Made: time.Now().Add(time.Hour).UnixMicro(), Nonce: 7}
	future := binding.Entry{Key: session(1), Binding: binding.Binding{Target: pod1, Version: ahead}, Life: hour}
	if _, err := s.Restore(t.Context(), []binding.Entry{future}); err != nil {
		t.Fatalf("Restore = %v, want no error", err)
	}
	b, err := s.Swap(t.Context(), session(1), ahead, pod2, hour)
	if err != nil || b.Version.Made != ahead.Made+1 {
		t.Errorf("Swap after a step back = %+v, %v, want Made %d", b, err, ahead.Made+1)
	}
}

func TestValuesOfLaterFormatsAreLeftAlone(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	bind(t, s, session(1), pod1)
	name := bindingKey(t, server)
	later := "\x02what a later version wrote here"
	server.Do("SET", name, later, "PX", "60000")
	wants(t, s, session(1), binding.Binding{})
	if _, err := s.Swap(t.Context(), session(1), unbound, pod2, hour); !errors.Is(err, binding.ErrFull) {
		t.Errorf("Swap of a later format = %v, want ErrFull", err)
	}
	mine := binding.Binding{Target: pod1, Version: binding.Version{Made: 1 << 52, Nonce: 1}}
	if got, err := s.Restore(t.Context(), []binding.Entry{{Key: session(1), Binding: mine, Life: hour}}); err != nil || got[0].Bound() {
		t.Errorf("Restore over a later format = %+v, %v, want nothing in force", got, err)
	}
	if got := server.Do("GET", name); got != later {
		t.Errorf("value of a later format = %q, want %q", got, later)
	}
}

func TestTheSecretsFingerprintMustAgree(t *testing.T) {
	server := redistest.Start(t)
	first, second := open(t, server), open(t, server)
	for range 2 {
		if err := first.CheckFingerprint(t.Context(), "5a1e"); err != nil {
			t.Errorf("CheckFingerprint of the first gateway = %v, want no error", err)
		}
	}
	if err := second.CheckFingerprint(t.Context(), "0ff0"); !errors.Is(err, redis.ErrSecretMismatch) {
		t.Errorf("CheckFingerprint with another secret = %v, want ErrSecretMismatch", err)
	}
	if err := second.CheckFingerprint(t.Context(), "5a1e"); err != nil {
		t.Errorf("CheckFingerprint with the same secret = %v, want no error", err)
	}
}

func TestDrainsAreSharedCancelledAndForgotten(t *testing.T) {
	server := redistest.Start(t)
	here, there := open(t, server), open(t, server)
	order := func(endpointName string, until time.Time) endpoint.Drain {
		return endpoint.Drain{Service: cart, Revision: "demo-00001", Endpoint: endpointName, Until: until}
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	open_, soon, past := order("pod-1", time.Time{}), order("pod-2", now.Add(time.Hour)), order("pod-3", now.Add(-time.Hour))
	for _, d := range []endpoint.Drain{open_, soon, past, order("pod-4", now.Add(-25*time.Hour))} {
		if err := here.SetDrain(t.Context(), d); err != nil {
			t.Fatalf("SetDrain(%+v) = %v, want no error", d, err)
		}
	}
	sees := func(want ...endpoint.Drain) {
		t.Helper()
		got, err := there.Drains(t.Context())
		if err != nil {
			t.Fatalf("Drains() = %v, want no error", err)
		}
		byName := map[string]endpoint.Drain{}
		for _, d := range got {
			byName[d.Endpoint] = d
		}
		wanted := map[string]endpoint.Drain{}
		for _, d := range want {
			wanted[d.Endpoint] = d
		}
		if diff := cmp.Diff(wanted, byName); diff != "" || len(got) != len(want) {
			t.Errorf("Drains() (-want +got):\n%s", diff)
		}
	}
	sees(open_, soon, past)
	cancel := soon
	cancel.Cancel = true
	if err := there.SetDrain(t.Context(), cancel); err != nil {
		t.Fatalf("SetDrain(%+v) = %v, want no error", cancel, err)
	}
	open_.Until = now.Add(2 * time.Hour)
	if err := there.SetDrain(t.Context(), open_); err != nil {
		t.Fatalf("SetDrain(%+v) = %v, want no error", open_, err)
	}
	sees(open_, past)
}

func TestListGoesOnWhereItsCursorSays(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	for i := range 3000 {
		bind(t, s, session(i), affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d", i%7)})
	}
	seen, pages := map[affinity.Key]bool{}, 0
	for cursor := ""; ; pages++ {
		entries, next, err := s.List(t.Context(), cart, cursor, 100)
		if err != nil {
			t.Fatalf("List(%q) = %v, want no error", cursor, err)
		}
		for _, e := range entries {
			seen[e.Key] = true
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(seen) != 3000 || pages < 5 {
		t.Errorf("List of 3000 bindings = %d in %d pages, want all in several", len(seen), pages+1)
	}
	if _, _, err := s.List(t.Context(), cart, "elsewhere", 100); err == nil {
		t.Error("List with a foreign cursor = no error, want one")
	}
}

func TestTheIndexForgetsWhatEndedAndKeepsWhatWasRenewed(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	// All of one shard: equal first bytes of the digest.
	key := func(n int) affinity.Key { k := session(n << 8); k.Digest[0] = 3; return k }
	soon := binding.Life{Idle: 5 * time.Second} // long enough for the renewal to come before
	var renewed binding.Binding
	for i := range 10 {
		b, err := s.Swap(t.Context(), key(i), unbound, pod1, soon)
		if err != nil {
			t.Fatalf("Swap = %v, want no error", err)
		}
		if i == 0 {
			renewed = b
		}
	}
	if err := s.Touch(t.Context(), []binding.Renewal{{Key: key(0), Version: renewed.Version, Life: hour}}); err != nil {
		t.Fatalf("Touch = %v, want no error", err)
	}
	eventually(t, "end of nine", func() bool {
		b, err := s.Get(t.Context(), key(9))
		return err == nil && !b.Bound()
	})
	for i := 10; i < 20; i++ {
		if _, err := s.Swap(t.Context(), key(i), unbound, pod1, hour); err != nil {
			t.Fatalf("Swap = %v, want no error", err)
		}
	}
	if n := server.Do("ZCARD", server.Do("KEYS", "limpet:1:i:*")); n != "11" {
		t.Errorf("members of the index = %s, want 11: ten new ones and the one renewed", n)
	}
	wants(t, s, key(0), renewed)
}

func TestOffsetIsTheServersClockLessThisOne(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	eventually(t, "measurement", func() bool { return s.Offset() != 0 })
	// Both are the same clock here, read within a round trip.
	if off := s.Offset().Abs(); off > 5*time.Second {
		t.Errorf("Offset() = %v, want about 0", off)
	}
}
