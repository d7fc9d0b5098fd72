package wxtoken

import (
	"hash/maphash"
	"iter"
	"sync/atomic"
	"time"
)

// view is what a Client has of the bucket "tokens". Readers use it without a lock: a look-up writes
// nothing, so any number of concurrent readers don't slow each other down. Writers hold the
// Client's lock. The zero view is empty.
//
// It is a hash table with open addressing: a key's entry is at the place of its digest, or at one
// of the next. No entry is ever taken out (a removed token leaves an entry that says so), so a
// search may end at the first empty place.
type view struct {
	seed   maphash.Seed
	places atomic.Pointer[[]place] // a power of two of them, a quarter of them empty; replaced when it grows
	keys   int                     // entries; guarded by Client.mu
	tokens int                     // entries with a token; guarded by Client.mu
}

// place holds one entry. Entries are replaced, never changed.
type place = atomic.Pointer[entry]

// minPlaces is the size of the smallest table.
const minPlaces = 8

// entry is what the bucket holds for one key. After a deletion its token has only Key and Revision.
type entry struct{ token Token }

func (e *entry) revoked() bool { return e.token.Value.IsZero() }

// revision returns the revision of e, 0 if e is nil.
func (e *entry) revision() uint64 {
	if e == nil {
		return 0
	}
	return e.token.Revision
}

// usable reports whether e holds a token that has not expired.
func (e *entry) usable(now time.Time) bool {
	return e != nil && !e.revoked() && now.Before(e.token.ExpiresAt)
}

// find returns the entry of a key, or nil.
func (v *view) find(key Key) *entry {
	places := v.places.Load()
	if places == nil {
		return nil
	}
	for i := v.digest(key); ; i++ {
		e := (*places)[i&uint64(len(*places)-1)].Load()
		if e == nil || e.is(key) {
			return e
		}
	}
}

func (e *entry) is(key Key) bool {
	its := &e.token.Key
	return its.Authorizer == key.Authorizer && its.Component == key.Component && its.Kind == key.Kind
}

// placeOf returns the place where the entry of a key is or would be.
func (v *view) placeOf(places []place, key Key) *place {
	for i := v.digest(key); ; i++ {
		p := &places[i&uint64(len(places)-1)]
		if e := p.Load(); e == nil || e.is(key) {
			return p
		}
	}
}

// digest hashes the appid alone, which costs a third of hashing the whole key. Few components share
// an account, so few keys collide; an account's tickets are placed next to its token.
func (v *view) digest(key Key) uint64 {
	appID := key.Authorizer
	if appID == "" {
		appID = key.Component
	}
	return maphash.String(v.seed, appID) + uint64(len(key.Kind))
}

// set stores an entry, and replaces that of the same key. The Client's lock is held.
func (v *view) set(e *entry) {
	old := v.find(e.token.Key)
	if old == nil {
		v.keys++
		v.grow()
	} else if !old.revoked() {
		v.tokens--
	}
	if !e.revoked() {
		v.tokens++
	}
	v.placeOf(*v.places.Load(), e.token.Key).Store(e)
}

// grow makes room for v.keys entries. Readers use the old table until the new one is complete.
func (v *view) grow() {
	var old []place
	if places := v.places.Load(); places != nil {
		old = *places
	}
	if v.keys <= len(old)-len(old)/4 {
		return
	}
	if old == nil {
		v.seed = maphash.MakeSeed()
	}
	next := make([]place, max(minPlaces, 2*len(old)))
	for i := range old {
		if e := old[i].Load(); e != nil {
			v.placeOf(next, e.token.Key).Store(e)
		}
	}
	v.places.Store(&next)
}

// all yields all entries. The Client's lock is held.
func (v *view) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		places := v.places.Load()
		if places == nil {
			return
		}
		for i := range *places {
			if e := (*places)[i].Load(); e != nil && !yield(e) {
				return
			}
		}
	}
}

// clear forgets everything. The Client's lock is held.
func (v *view) clear() {
	v.places.Store(nil)
	v.keys, v.tokens = 0, 0
}
