package console

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// filter is which keys a list shows. Zero fields ask for nothing.
type filter struct {
	kind      wxtoken.Kind
	state     wxtoken.State
	unknown   bool          // no state is known
	token     string        // "valid", "dead" (in force, without one that lives)
	component string        // its appid
	lacks     string        // a permission set, ",18,", that was not granted
	within    time.Duration // the token lives, and ends so soon
	errcode   int32         // noErrcode: any
	words     []string      // in small letters, all of them
	sort      string
}

// The orders of a list.
const (
	byWorst   = "worst"   // what a person has to look at first
	byExpires = "expires" // the next to end first
	bySince   = "since"   // changed last first
	byAppID   = "appid"
)

var orders = []string{byWorst, byExpires, bySince, byAppID}

// The tokens that a filter asks for.
const (
	tokenValid = "valid"
	tokenDead  = "dead"
)

// urgency ranks states, the worst first.
var urgency = map[wxtoken.State]int{
	wxtoken.StateOperator: 1, wxtoken.StateNeedsAuthorization: 2, wxtoken.StateRenewingFailed: 3, wxtoken.StateWaitingForTicket: 4,
	wxtoken.StateActive: 7, wxtoken.StateRevoked: 8,
}

// hit is a row that a filter lets through, and where it stands in the list.
type hit struct {
	rank uint64 // the smaller the earlier
	row  uint32
}

// find returns the keys from..from+limit of a list, in order, and how many there are in all.
func (x *index) find(f filter, now time.Time, from, limit int) (keys []wxtoken.Key, total int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var hits []hit
	for i := range x.rows {
		if r := &x.rows[i]; r.seen != [2]uint8{} {
			if state := x.standing(r, now); x.wanted(f, r, state, now) {
				hits = append(hits, hit{rankOf(f.sort, r, state, now), uint32(i)})
			}
		}
	}
	total = len(hits)
	order := func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(x.rows[a.row].appid, x.rows[b.row].appid), cmp.Compare(x.rows[a.row].component, x.rows[b.row].component))
	}
	from = min(from, total)
	shown := first(hits, from+limit, order)[from:]
	keys = make([]wxtoken.Key, len(shown))
	for i, h := range shown {
		keys[i] = x.key(&x.rows[h.row])
	}
	return keys, total
}

// first returns the first n hits in order. Sorting a million for one page of fifty would take a second: what can't be
// among them is thrown away first, in rounds.
func first(hits []hit, n int, order func(a, b hit) int) []hit {
	const room = 4 // of what is kept between two rounds
	if n*room >= len(hits) {
		slices.SortFunc(hits, order)
		return hits[:min(n, len(hits))]
	}
	kept := slices.Clone(hits[:n*room])
	slices.SortFunc(kept, order)
	kept = kept[:n]
	for _, h := range hits[n*room:] {
		if len(kept) >= n && order(h, kept[n-1]) >= 0 {
			continue
		}
		if kept = append(kept, h); len(kept) == n*room {
			slices.SortFunc(kept, order)
			kept = kept[:n]
		}
	}
	slices.SortFunc(kept, order)
	return kept[:n]
}

// wanted reports whether a filter lets a row through.
func (x *index) wanted(f filter, r *row, state wxtoken.State, now time.Time) bool {
	switch {
	case kinds[r.kind] != f.kind,
		f.state != "" && state != f.state,
		f.unknown && state != "",
		f.token == tokenValid && (!r.valid(now) || state == wxtoken.StateRevoked),
		f.token == tokenDead && (r.valid(now) || state == wxtoken.StateRevoked),
		f.component != "" && x.appids.text(r.component) != f.component,
		f.lacks != "" && (r.granted == 0 || strings.Contains(x.grants.text(r.granted), f.lacks)),
		f.within > 0 && (!r.valid(now) || moment(r.expires).Sub(now) > f.within),
		f.errcode != noErrcode && r.errcode != f.errcode:
		return false
	}
	for _, word := range f.words {
		if !strings.Contains(r.text, word) {
			return false
		}
	}
	return true
}

// rankOf returns where a row stands in an order. The lower half breaks ties: the token that ends first.
func rankOf(sort string, r *row, state wxtoken.State, now time.Time) uint64 {
	switch sort {
	case byExpires:
		if r.expires == 0 {
			return 1 << 32
		}
		return uint64(r.expires)
	case bySince:
		return uint64(^r.since)
	case byAppID:
		return 0
	}
	rank := urgency[state]
	if rank == 0 {
		rank = 5 // not known yet
	}
	if state != wxtoken.StateRevoked && r.valid(now) && rank < 7 {
		rank = 6 // it still serves
	}
	return uint64(rank)<<32 | uint64(r.expires)
}

// errcodes returns the codes of last errors, each with how many accounts have it, the most frequent first.
func (x *index) errcodes() (out []errcodeCount) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	counts := map[int32]int{}
	for i := range x.rows {
		if r := &x.rows[i]; r.seen != [2]uint8{} && r.errcode != noErrcode && kinds[r.kind] == wxtoken.KindAuthorizer {
			counts[r.errcode]++
		}
	}
	for code, n := range counts {
		out = append(out, errcodeCount{int(code), n})
	}
	slices.SortFunc(out, func(a, b errcodeCount) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code)) })
	return out
}

// lackCount is how many accounts did not grant a permission set that others did.
type lackCount struct {
	ID    int    `json:"id"`
	Name  string `json:"name"` // in the language of the request
	Count int    `json:"lacking"`
}

// lacks returns the permission sets that some accounts granted and others did not, by id.
func (x *index) lacks(l lang.Language) (out []lackCount) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	lists, all := map[uint32]int{}, 0
	for i := range x.rows {
		if r := &x.rows[i]; r.seen != [2]uint8{} && r.granted != 0 {
			lists[r.granted]++
			all++
		}
	}
	have := map[int]int{}
	for list, n := range lists {
		for _, id := range permissionIDs(x.grants.text(list)) {
			have[id] += n
		}
	}
	for id, n := range have {
		if n < all {
			out = append(out, lackCount{id, wechat.NamePermissionSet(id).Name.In(l), all - n})
		}
	}
	slices.SortFunc(out, func(a, b lackCount) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// permissionIDs reads a list of permission sets as the index keeps it.
func permissionIDs(list string) (ids []int) {
	for part := range strings.SplitSeq(strings.Trim(list, ","), ",") {
		if id, err := strconv.Atoi(part); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// errcodeCount is how many accounts met an errcode last.
type errcodeCount struct {
	Code  int `json:"code"`
	Count int `json:"count"`
}
