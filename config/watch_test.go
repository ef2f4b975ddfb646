package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

const oneService = "services: [{name: demo, revisions: [{name: demo-00001, endpoints: [{name: demo-00001-a, address: '10.1.0.7:8080'}]}]}]\n"

// A told is what Watch called back with, as text.
type told struct {
	mu    sync.Mutex
	calls []string
}

func (t *told) changed(c *Config, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.calls = append(t.calls, "error: "+err.Error())
		return
	}
	t.calls = append(t.calls, "admin: "+c.Admin.Address)
}

func (t *told) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls := t.calls
	t.calls = nil
	return calls
}

// watched runs Watch on a file in a bubble of virtual time; step writes a content ("" leaves it) and tells what was called within
// three looks.
func watched(t *testing.T, first string, test func(file string, step func(text string, want ...string))) {
	file := filepath.Join(t.TempDir(), "limpet.yaml")
	mustWrite(t, file, first)
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var calls told
		var wg sync.WaitGroup
		wg.Go(func() { Watch(ctx, c, 0, calls.changed) })
		test(file, func(text string, want ...string) {
			t.Helper()
			if text != "" {
				mustWrite(t, file, text)
			}
			time.Sleep(3 * WatchInterval)
			synctest.Wait()
			if got := calls.take(); !slices.Equal(got, want) {
				t.Errorf("after %q: told %q, want %q", text, got, want)
			}
		})
		cancel()
		wg.Wait()
	})
}

func mustWrite(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatchTellsEachChangeOnce(t *testing.T) {
	watched(t, "admin: {address: ':9901'}\n", func(file string, step func(string, ...string)) {
		step("")
		step("admin: {address: ':9902'}\n", "admin: :9902")
		step("admin: {address: ':9902'}\n")
		step("admin: {address: 9902}\n", "error: "+file+`:1: admin.address: got "9902", expected an address such as 127.0.0.1:9901, or off: write it in quotes`)
		step("")
		step("admin: {address: ':9902'}\n", "admin: :9902")
	})
}

func TestWatchOutlivesAFileThatIsAwayForAWhile(t *testing.T) {
	watched(t, "admin: {address: ':9901'}\n", func(file string, step func(string, ...string)) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		step("", "error: open "+file+": no such file or directory")
		step("")
		step("admin: {address: ':9903'}\n", "admin: :9903")
	})
}

func TestWatchTriesAgainWhenAFileThatWasMissingAppears(t *testing.T) {
	watched(t, "admin: {address: ':9901'}\n", func(file string, step func(string, ...string)) {
		digest := filepath.Join(filepath.Dir(file), "digest")
		step("secrets: {digestFile: digest}\n", "error: "+file+":1: secrets.digestFile: open "+digest+": no such file or directory")
		mustWrite(t, digest, "secret")
		step("", "admin: 127.0.0.1:9901")
	})
}

func TestWatchFollowsTheLinksOfAConfigMap(t *testing.T) {
	dir := t.TempDir()
	for version, address := range map[string]string{"..1": ":9901", "..2": ":9902"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, filepath.Join(dir, version, "limpet.yaml"), "admin: {address: '"+address+"'}\n")
	}
	link := func(target, name string) {
		t.Helper()
		temporary := filepath.Join(dir, "..tmp")
		if err := os.Symlink(target, temporary); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temporary, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/limpet.yaml", "limpet.yaml")
	c, err := Load(filepath.Join(dir, "limpet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var calls told
		var wg sync.WaitGroup
		wg.Go(func() { Watch(ctx, c, 0, calls.changed) })
		link("..2", "..data")
		time.Sleep(3 * WatchInterval)
		if got, want := calls.take(), []string{"admin: :9902"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		cancel()
		wg.Wait()
	})
}

func TestWatchFileTellsTheNewContent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	mustWrite(t, file, "one")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		contents := make(chan string, 10)
		var wg sync.WaitGroup
		wg.Go(func() {
			WatchFile(ctx, file, time.Minute, []byte("one"), func(data []byte, err error) { contents <- string(data) })
		})
		time.Sleep(time.Hour)
		mustWrite(t, file, "two")
		if got := <-contents; got != "two" {
			t.Errorf("told %q, want two", got)
		}
		cancel()
		wg.Wait()
	})
}

func TestASourcePublishesEachConfigurationWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		table := endpoint.NewTable(endpoint.Options{})
		s := NewSource(mustParse(t, oneService))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Run(ctx, table); err != nil {
				t.Errorf("Run = %v, want nil at the end of its context", err)
			}
		})
		synctest.Wait()
		demo := affinity.ServiceName{Name: "demo"}
		snapshot := table.Snapshot(demo)
		if snapshot == nil || !snapshot.Synced || len(snapshot.Revisions) != 1 || len(snapshot.Revisions[0].Pool.Endpoints) != 1 {
			t.Fatalf("Snapshot(demo) = %+v, want demo-00001 with one endpoint, synchronised", snapshot)
		}
		next := strings.ReplaceAll(oneService, "demo-00001", "demo-00002")
		if err := s.Apply(mustParse(t, next), func() error { return nil }); err != nil {
			t.Fatalf("Apply = %v", err)
		}
		for _, r := range table.Snapshot(demo).Revisions {
			removed := r.State == affinity.RevisionRemoved
			if want := r.Name == "demo-00001"; removed != want {
				t.Errorf("revision %s removed: %v, want %v", r.Name, removed, want)
			}
		}
		if err := s.Apply(Defaults(), func() error { return nil }); err != nil {
			t.Fatalf("Apply = %v", err)
		}
		if got := table.Snapshot(demo); got != nil {
			t.Errorf("Snapshot(demo) = %+v, want none", got)
		}
		cancel()
		wg.Wait()
	})
}

func TestRoutesNeverNameAServiceThatIsNotPublished(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	table := endpoint.NewTable(endpoint.Options{})
	s := NewSource(mustParse(t, oneService))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.Run(ctx, table) })
	old, next := affinity.ServiceName{Name: "demo"}, affinity.ServiceName{Name: "shop"}
	for changed := table.Changed(); table.Snapshot(old) == nil; changed = table.Changed() {
		<-changed
	}
	both := func() error {
		if table.Snapshot(old) == nil || table.Snapshot(next) == nil {
			t.Error("while the routes are replaced one of the services is not published")
		}
		return nil
	}
	shop := mustParse(t, strings.ReplaceAll(oneService, "demo", "shop"))
	if err := s.Apply(shop, both); err != nil {
		t.Fatalf("Apply = %v", err)
	}
	if table.Snapshot(old) != nil || table.Snapshot(next) == nil {
		t.Error("afterwards demo is still published, or shop is not")
	}
	refused := errors.New("routes refused")
	if err := s.Apply(Defaults(), func() error { return refused }); !errors.Is(err, refused) {
		t.Errorf("Apply = %v, want %v", err, refused)
	}
	if table.Snapshot(next) == nil {
		t.Error("a refused configuration took shop away")
	}
}
