package wxtoken

import (
	"cmp"
	"slices"
)

// trail is the keys of a bucket in the order in which they changed, so that what changed since a revision is found without a look at the
// rest. The Client's lock guards it. The zero trail is empty.
type trail struct {
	steps []step // their revisions ascend
	left  int    // of them those whose key went on to a later one
}

// step is the last change of a key.
type step struct {
	revision uint64
	key      *Key // nil once the key went on
}

// step notes that a key went from one revision, 0 if it had none, to another.
func (t *trail) step(from, to uint64, key *Key) {
	t.leave(from, *key)
	if n := len(t.steps); n > 0 && to <= t.steps[n-1].revision {
		*t = trail{} // a bucket that was made anew counts from 1
	}
	t.steps = append(t.steps, step{to, key})
}

// leave forgets the change of a key at a revision.
func (t *trail) leave(revision uint64, key Key) {
	i, found := t.find(revision)
	if !found || t.steps[i].key == nil || *t.steps[i].key != key {
		return
	}
	t.steps[i].key = nil
	if t.left++; t.left > len(t.steps)/2 {
		t.steps = slices.DeleteFunc(t.steps, func(s step) bool { return s.key == nil })
		t.left = 0
	}
}

// hold has a step point to the same key elsewhere.
func (t *trail) hold(revision uint64, key *Key) {
	if i, found := t.find(revision); found && t.steps[i].key != nil && *t.steps[i].key == *key {
		t.steps[i].key = key
	}
}

// find returns where a revision is, or would be.
func (t *trail) find(revision uint64) (int, bool) {
	return slices.BinarySearchFunc(t.steps, revision, func(s step, revision uint64) int { return cmp.Compare(s.revision, revision) })
}

// after returns the first keys that changed after a revision, in the order in which they did, and the revision of the last of them; end if
// those are all.
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
