package refresher

import (
	"cmp"
	"container/heap"
	"slices"

	"wxtoken/client"
	"wxtoken/internal/store"
)

// missed is a key that the sweep found overdue.
type missed struct {
	key   wxtoken.Key
	entry store.Entry
}

// compare orders those first that die first, and of those that never had a token the oldest
// authorization.
func (m missed) compare(other missed) int {
	a, b := m.entry, other.entry
	return cmp.Or(a.Token.ExpiresAt().Compare(b.Token.ExpiresAt()), a.Credential.AuthorizedAt().Compare(b.Credential.AuthorizedAt()))
}

// firsts are the keys that die first of all that were missed, so many at most. After an hour
// without refreshers that is every key: those that are not among the first are due all the same,
// and the sweep has them before it when their time comes.
//
// It is a heap with the last of them on top, so that a million keys cost a comparison each, and
// memory only for those that are kept.
type firsts struct {
	most int
	heap []missed // the last of them on top
}

func (f *firsts) add(m missed) {
	switch {
	case len(f.heap) < f.most:
		heap.Push(f, m)
	case m.compare(f.heap[0]) < 0:
		f.heap[0] = m
		heap.Fix(f, 0)
	}
}

// inOrder returns them, the first one first.
func (f *firsts) inOrder() []missed {
	return slices.SortedFunc(slices.Values(f.heap), missed.compare)
}

// Len, Less, Swap, Push and Pop are heap.Interface.
func (f *firsts) Len() int           { return len(f.heap) }
func (f *firsts) Less(i, j int) bool { return f.heap[i].compare(f.heap[j]) > 0 }
func (f *firsts) Swap(i, j int)      { f.heap[i], f.heap[j] = f.heap[j], f.heap[i] }
func (f *firsts) Push(x any)         { f.heap = append(f.heap, x.(missed)) }
func (f *firsts) Pop() any {
	last := f.heap[len(f.heap)-1]
	f.heap = f.heap[:len(f.heap)-1]
	return last
}

const (
	// leastSwept and mostSwept bound how many keys of a component one sweep makes due. The first is
	// for small rates, where the sweep would otherwise need many rounds; the second bounds what one
	// sweep publishes.
	leastSwept = 1_000
	mostSwept  = 50_000
)

// sweptAtMost is how many keys of a component one sweep makes due: twice what can be renewed until
// the next. More would only lie in the stream, in the order of this sweep, while a later one would
// know better which of them die first (TestSweepOrder).
func (c Config) sweptAtMost() int {
	return int(min(max(2*c.APIRate*c.SweepEvery.Seconds(), leastSwept), mostSwept))
}
