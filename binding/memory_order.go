package binding

import (
	"math"

	"github.com/limpet-project/limpet/affinity"
)

// useLists keep the bindings of each service of a shard in the order of their use.
type useLists struct {
	numbers map[affinity.ServiceName]uint32
	lists   []useList
	free    []uint32
}

// A useList is a doubly linked list of cells: held.older and held.newer are the links.
type useList struct {
	oldest, newest uint32
	count          int
}

// number returns the number of a service, a new one if it has none.
func (u *useLists) number(service affinity.ServiceName) uint32 {
	if n, ok := u.numbers[service]; ok {
		return n
	}
	if u.numbers == nil {
		u.numbers = map[affinity.ServiceName]uint32{}
	}
	n := uint32(len(u.lists))
	if last := len(u.free) - 1; last >= 0 {
		n, u.free = u.free[last], u.free[:last]
	} else {
		u.lists = append(u.lists, useList{})
	}
	u.numbers[service] = n
	return n
}

// release frees the number of a service whose list is empty.
func (u *useLists) release(n uint32, service affinity.ServiceName) {
	if u.lists[n].count == 0 {
		delete(u.numbers, service)
		u.free = append(u.free, n)
	}
}

// append makes a cell the one used last.
func (u *useLists) append(t *table[held], id uint32) {
	v := &t.at(id).value
	l := &u.lists[v.service]
	v.older, v.newer = l.newest, 0
	if l.newest != 0 {
		t.at(l.newest).value.newer = id
	} else {
		l.oldest = id
	}
	l.newest = id
	l.count++
}

// remove takes a cell out of its list.
func (u *useLists) remove(t *table[held], id uint32) {
	v := &t.at(id).value
	l := &u.lists[v.service]
	if v.older != 0 {
		t.at(v.older).value.newer = v.newer
	} else {
		l.oldest = v.newer
	}
	if v.newer != 0 {
		t.at(v.newer).value.older = v.older
	} else {
		l.newest = v.older
	}
	l.count--
}

// most returns the number of the service with most bindings.
func (u *useLists) most() uint32 {
	most := 0
	for n := range u.lists {
		if u.lists[n].count > u.lists[most].count {
			most = n
		}
	}
	return uint32(most)
}

// The heap of ends is a binary heap in byEnd; held.rank is a cell's place in it. container/heap would box every cell.

func (s *memoryShard) pushEnd(id uint32) {
	s.byEnd = append(s.byEnd, id)
	s.place(uint32(len(s.byEnd)-1), id)
	s.fixEnd(uint32(len(s.byEnd) - 1))
}

func (s *memoryShard) removeEnd(rank uint32) {
	last := uint32(len(s.byEnd) - 1)
	moved := s.byEnd[last]
	s.byEnd = s.byEnd[:last]
	if rank != last {
		s.place(rank, moved)
		s.fixEnd(rank)
	} else {
		s.noteDue()
	}
}

// fixEnd restores the order of the heap after the end of the cell at rank changed.
func (s *memoryShard) fixEnd(rank uint32) {
	id := s.byEnd[rank]
	for rank > 0 && s.ends(s.byEnd[(rank-1)/2]) > s.ends(id) {
		s.place(rank, s.byEnd[(rank-1)/2])
		rank = (rank - 1) / 2
	}
	for {
		child := 2*rank + 1
		if child >= uint32(len(s.byEnd)) {
			break
		}
		if other := child + 1; other < uint32(len(s.byEnd)) && s.ends(s.byEnd[other]) < s.ends(s.byEnd[child]) {
			child = other
		}
		if s.ends(s.byEnd[child]) >= s.ends(id) {
			break
		}
		s.place(rank, s.byEnd[child])
		rank = child
	}
	s.place(rank, id)
	s.noteDue()
}

func (s *memoryShard) ends(id uint32) int64 { return s.table.at(id).value.ends }

func (s *memoryShard) place(rank, id uint32) {
	s.byEnd[rank] = id
	s.table.at(id).value.rank = rank
}

// noteDue publishes when the first binding ends.
func (s *memoryShard) noteDue() {
	due := int64(math.MaxInt64)
	if len(s.byEnd) > 0 {
		due = s.ends(s.byEnd[0])
	}
	if s.due.Load() != due {
		s.due.Store(due)
	}
}
