package binding

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unique"

	"github.com/limpet-project/limpet/affinity"
)

// pageCells is the number of cells that a table allocates at once: about 12 KiB of them, so that a store with little in it
// stays small and nothing is copied when it grows.
const pageCells = 128

// A cell is one key with its value. A free cell has the zero scope.
type cell[V any] struct {
	digest [16]byte
	scope  unique.Handle[affinity.Scope]
	value  V
	next   uint32 // the next cell of the bucket, or the next free one
}

func (c *cell[V]) used() bool { return c.scope != unique.Handle[affinity.Scope]{} }

func (c *cell[V]) key() affinity.Key { return affinity.Key{Scope: c.scope.Value(), Digest: c.digest} }

// A table finds cells by key and names them by numbers that stay the same while the key is in it; 0 names none. It costs about
// 6 bytes for each cell beside the cell. It is not safe for concurrent use.
type table[V any] struct {
	pages []*[pageCells]cell[V]
	heads []uint32 // first cell of each bucket; the length is a power of two
	last  uint32   // highest number ever given out
	free  uint32   // first free cell at or below last
	count int
}

// hash mixes a digest, so that its upper bits choose a shard and its lower bits a bucket. Digests are random already; the
// multiplication (the finaliser of splitmix64) is for those that are not.
func hash(k *affinity.Key) uint64 {
	h := binary.LittleEndian.Uint64(k.Digest[:8]) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(k.Digest[8:]), 32)
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// at returns the cell with a number between 1 and last.
func (t *table[V]) at(id uint32) *cell[V] { return &t.pages[(id-1)/pageCells][(id-1)%pageCells] }

// find returns k's cell and its number, or nil and 0.
func (t *table[V]) find(h uint64, k *affinity.Key) (*cell[V], uint32) {
	if len(t.heads) == 0 {
		return nil, 0
	}
	for id := t.heads[t.bucket(h)]; id != 0; {
		c := t.at(id)
		if c.digest == k.Digest && c.scope.Value() == k.Scope {
			return c, id
		}
		id = c.next
	}
	return nil, 0
}

func (t *table[V]) bucket(h uint64) uint64 { return h & uint64(len(t.heads)-1) }

// add makes a cell for k, which must not have one. Its value is the zero V.
func (t *table[V]) add(h uint64, k *affinity.Key) (*cell[V], uint32) {
	if t.count == len(t.heads) {
		t.grow()
	}
	id := t.free
	if id == 0 {
		t.last++
		id = t.last
		if int(id) > len(t.pages)*pageCells {
			t.pages = append(t.pages, new([pageCells]cell[V]))
		}
	}
	c := t.at(id)
	if id == t.free {
		t.free = c.next
	}
	head := &t.heads[t.bucket(h)]
	c.digest, c.scope, c.next = k.Digest, unique.Make(k.Scope), *head
	*head = id
	t.count++
	return c, id
}

// grow doubles the buckets. Cells stay where they are.
func (t *table[V]) grow() {
	t.heads = make([]uint32, max(16, 2*len(t.heads)))
	for id := uint32(1); id <= t.last; id++ {
		if c := t.at(id); c.used() {
			k := affinity.Key{Digest: c.digest}
			head := &t.heads[t.bucket(hash(&k))]
			c.next, *head = *head, id
		}
	}
}

// remove frees the cell of a number.
func (t *table[V]) remove(id uint32) {
	c := t.at(id)
	k := affinity.Key{Digest: c.digest}
	link := &t.heads[t.bucket(hash(&k))]
	for *link != id {
		link = &t.at(*link).next
	}
	*link = c.next
	*c = cell[V]{next: t.free}
	t.free = id
	t.count--
}

// A cursor is a place in a walk over the cells of several tables: the index of a table and a number in it.
type cursor struct {
	shard int
	id    uint32
}

// String returns the form that parseCursor reads; the admin API hands it to clients, so it is plain text.
func (c cursor) String() string {
	return fmt.Sprintf("%d.%d", c.shard, c.id)
}

// parseCursor reads a cursor; "" is the beginning.
func parseCursor(s string) (c cursor, err error) {
	if s == "" {
		return cursor{}, nil
	}
	if n, err := fmt.Sscanf(s, "%d.%d", &c.shard, &c.id); n != 2 || err != nil || c.shard < 0 {
		return cursor{}, fmt.Errorf("cursor %q is not one that List returned", s)
	}
	return c, nil
}

// walk collects up to n entries of some shards from a cursor on, at least one of them, and returns the next cursor, zero at the end.
// page appends entries of one shard from a number on, stops when there are n or when it held the shard's lock for long enough,
// and returns the next number, 0 at the shard's end.
func walk(shards int, at cursor, n int, page func(shard int, entries []Entry, from uint32, n int) ([]Entry, uint32)) ([]Entry, cursor) {
	var entries []Entry
	for n = max(n, 1); at.shard < shards; {
		entries, at.id = page(at.shard, entries, at.id, n)
		if at.id == 0 {
			at.shard++
		}
		if len(entries) >= n {
			break
		}
	}
	if at.shard >= shards {
		return entries, cursor{}
	}
	return entries, at
}
