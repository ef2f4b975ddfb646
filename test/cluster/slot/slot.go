// Package slot gives each cluster of a machine a number, and with it addresses, names and folders of its own.
//
// Clusters of different slots share no address, no cgroup and no folder but the cache of binaries and images. A slot is taken by
// a file lock, which ends with the process that holds it, however that process ends.
package slot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Count is the number of slots of a machine.
const Count = 100

// A Slot is the place of one cluster on this machine. Its addresses exist only in the cluster's own network namespace.
type Slot struct {
	// Number is 0 to Count-1.
	Number int
	// Cache is the folder of binaries and images, in which the slots have theirs.
	Cache string
}

// New returns a slot of the cache.
func New(cache string, number int) (Slot, error) {
	if number < 0 || number >= Count {
		return Slot{}, fmt.Errorf("slot %d: want 0 to %d", number, Count-1)
	}
	return Slot{Number: number, Cache: cache}, nil
}

func (s Slot) prefix() string { return "10." + strconv.Itoa(250-s.Number) + "." }

// Node returns the node's address.
func (s Slot) Node() string { return s.prefix() + "0.1" }

// NodeNet returns the network of the node's address.
func (s Slot) NodeNet() string { return s.prefix() + "0.0/24" }

// Gateway returns the address that the node's default route goes to. Nothing is there.
func (s Slot) Gateway() string { return s.prefix() + "0.254" }

// Pods returns the network of the pods.
func (s Slot) Pods() string { return s.prefix() + "16.0/20" }

// Services returns the network of the Services.
func (s Slot) Services() string { return s.prefix() + "128.0/17" }

// APIService returns the address of the Service of the API server.
func (s Slot) APIService() string { return s.prefix() + "128.1" }

// DNS returns the address of the Service of the name server.
func (s Slot) DNS() string { return s.prefix() + "128.10" }

// Registry returns host and port of the image registry.
func (s Slot) Registry() string { return s.Node() + ":5000" }

// Cgroup returns the name of the cgroup that pods run in. Slots of another cache have other names.
func (s Slot) Cgroup() string {
	sum := sha256.Sum256([]byte(s.Cache))
	return fmt.Sprintf("limpet-%d-%x", s.Number, sum[:3])
}

// Dir returns the slot's folder.
func (s Slot) Dir() string { return filepath.Join(s.Cache, "slots", strconv.Itoa(s.Number)) }

// State returns the path of a file of the running cluster. All of them go when it ends.
func (s Slot) State(name ...string) string {
	return filepath.Join(append([]string{s.Dir(), "state"}, name...)...)
}

// Log returns the path of the log of a component. Logs stay until the slot is used again.
func (s Slot) Log(component string) string { return filepath.Join(s.Dir(), "logs", component+".log") }

// ErrTaken says that a slot is in use.
var ErrTaken = errors.New("the slot is in use")

// A Lock keeps a slot for this process.
type Lock struct{ file *os.File }

// Take locks the slot and writes this process's id into the lock. It returns ErrTaken if another process holds it.
func (s Slot) Take() (*Lock, error) {
	if err := os.MkdirAll(s.Dir(), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of slot %d: %w", s.Number, err)
	}
	f, err := os.OpenFile(filepath.Join(s.Dir(), "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of slot %d: %w", s.Number, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("slot %d: %w by process %d", s.Number, ErrTaken, s.Holder())
		}
		return nil, fmt.Errorf("locking slot %d: %w", s.Number, err)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the lock of slot %d: %w", s.Number, err)
	}
	return &Lock{f}, nil
}

// TakeFree takes the first free slot from a number on.
func TakeFree(cache string, from int) (Slot, *Lock, error) {
	for n := from; n < Count; n++ {
		s, err := New(cache, n)
		if err != nil {
			return Slot{}, nil, err
		}
		l, err := s.Take()
		if !errors.Is(err, ErrTaken) {
			return s, l, err
		}
	}
	return Slot{}, nil, fmt.Errorf("no slot from %d to %d is free", from, Count-1)
}

// Release gives the slot back.
func (l *Lock) Release() { l.file.Close() }

// Holder returns the process that wrote the lock last, which may have ended since, or 0.
func (s Slot) Holder() int {
	text, err := os.ReadFile(filepath.Join(s.Dir(), "lock"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text))) // 0 when it is being written
	return pid
}

// TakeWithin takes the slot, waiting for its holder for up to a time.
func (s Slot) TakeWithin(limit time.Duration) (*Lock, error) {
	deadline := time.Now().Add(limit)
	for {
		l, err := s.Take()
		if !errors.Is(err, ErrTaken) || time.Now().After(deadline) {
			return l, err
		}
		time.Sleep(20 * time.Millisecond) // a lock that is waited for cannot be given up
	}
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
