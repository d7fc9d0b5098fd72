package wxtoken

import (
	"cmp"
	"slices"
)

// trail holds the keys of a bucket in the order in which they last changed, so that the changes
// since a revision are found without looking at the other keys. The Client's lock guards it. The
// zero trail is empty.
type trail struct {
	steps []step // by ascending revision
	stale int    // steps whose key has a later one
}

// step is the last change of a key.
type step struct {
	revision uint64
	key      *Key // nil once the key has a later step
}

// add adds the change of a key from one revision, 0 if it had none, to another.
func (t *trail) add(from, to uint64, key *Key) {
	t.remove(from, *key)
	if n := len(t.steps); n > 0 && to <= t.steps[n-1].revision {
		*t = trail{} // a bucket that was made anew counts from 1
	}
	t.steps = append(t.steps, step{to, key})
}

// remove removes the step of a key at a revision.
func (t *trail) remove(revision uint64, key Key) {
	i, found := t.find(revision)
	if !found || t.steps[i].key == nil || *t.steps[i].key != key {
		return
	}
	t.steps[i].key = nil
	if t.stale++; t.stale > len(t.steps)/2 {
		t.steps = slices.DeleteFunc(t.steps, func(s step) bool { return s.key == nil })
		t.stale = 0
	}
}

// repoint makes the step at a revision point to another copy of the same key, so that the old one
// can be freed.
func (t *trail) repoint(revision uint64, key *Key) {
	if i, found := t.find(revision); found && t.steps[i].key != nil && *t.steps[i].key == *key {
		t.steps[i].key = key
	}
}

// find returns the index of a revision, or where it would be.
func (t *trail) find(revision uint64) (int, bool) {
	return slices.BinarySearchFunc(t.steps, revision, func(s step, revision uint64) int {
		return cmp.Compare(s.revision, revision)
	})
}

// after returns up to most keys that changed after a revision, in the order of their changes, and
// the revision of the last of them, or end if there are no more.
func (t *trail) after(revision uint64, most int, end uint64) ([]Key, uint64) {
	var keys []Key
	i, found := t.find(revision)
	if found {
		i++
	}
	for _, s := range t.steps[i:] {
		if s.key == nil {
			continue
		}
		if len(keys) == most {
			return keys, revision
		}
		keys, revision = append(keys, *s.key), s.revision
	}
	return keys, end
}
