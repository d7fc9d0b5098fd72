package console

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
	"wxtoken/internal/wechat"
)

// filter says which keys a list shows, and in which order. Zero fields let all keys through.
type filter struct {
	kind      wxtoken.Kind
	state     wxtoken.State
	unknown   bool          // only keys without a known state
	token     string        // tokenValid, tokenDead (authorized, without a valid one), or "": any
	component string        // its appid
	lacks     string        // ",18,": only accounts that did not grant permission set 18
	within    time.Duration // only valid tokens that expire within that time
	errcode   int32         // noErrcode: any
	words     []string      // in lower case; each must be found
	sort      string
}

// The orders of a list.
const (
	byWorst   = "worst"   // those that need a person first
	byExpires = "expires" // the next to expire first
	bySince   = "since"   // those that changed last first
	byAppID   = "appid"
)

var orders = []string{byWorst, byExpires, bySince, byAppID}

// The values of filter.token.
const (
	tokenValid = "valid"
	tokenDead  = "dead"
)

// hit is a row that a filter lets through, with its rank in the list.
type hit struct {
	rank uint64 // the smaller the earlier
	row  uint32
}

// find returns the keys from..from+limit of a list, in order, and how many there are in all. It
// searches on all cores: with the texts of a million accounts, one core waits for memory.
func (x *index) find(f filter, at time.Time, from, limit int) (keys []wxtoken.Key, total int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := x.numeric(f, at)
	var ranks map[rankKey]uint64
	if f.sort == byWorst {
		ranks, _ = x.ranks(n.kind, n.now)
	}
	order := func(a, b hit) int {
		one, other := &x.rows[a.row], &x.rows[b.row]
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(one.appid, other.appid), cmp.Compare(one.component, other.component))
	}
	parts := make([]topHits, runtime.GOMAXPROCS(0))
	share := len(x.rows)/len(parts) + 1
	var looking sync.WaitGroup
	for p := range parts {
		part := &parts[p]
		part.most, part.order = from+limit, order
		looking.Go(func() {
			for i := p * share; i < min((p+1)*share, len(x.rows)); i++ {
				r := &x.rows[i]
				if !r.isOf(n.kind) {
					continue
				}
				if state := r.stateAt(n.now); x.matches(&f, &n, r, state) {
					part.add(hit{rankOf(f.sort, r, state, n.now, ranks), uint32(i)})
				}
			}
		})
	}
	looking.Wait()
	list := parts[0]
	for _, other := range parts[1:] {
		list.join(other)
	}
	total = list.all
	shown := list.first()
	shown = shown[min(from, len(shown)):]
	keys = make([]wxtoken.Key, len(shown))
	for i, h := range shown {
		keys[i] = x.key(&x.rows[h.row])
	}
	return keys, total
}

// topHits keeps the first hits of a list. Sorting a million for a page of fifty would take a second:
// instead, hits are gathered, sorted and cut off again and again.
type topHits struct {
	most  int
	order func(a, b hit) int
	kept  []hit
	full  bool // kept[:most] is sorted: a hit behind its last one is none
	all   int  // hits that were added
}

// gatherRounds is how many times most hits are gathered before they are sorted and cut off.
const gatherRounds = 4

func (b *topHits) add(h hit) {
	b.all++
	if b.full && b.order(h, b.kept[b.most-1]) >= 0 {
		return
	}
	if b.kept = append(b.kept, h); len(b.kept) >= b.most*gatherRounds {
		b.kept = b.first()
		b.full = true
	}
}

// join adds the hits of another one.
func (b *topHits) join(other topHits) {
	b.kept, b.full, b.all = append(b.kept, other.first()...), false, b.all+other.all
}

// first returns the first hits, in order.
func (b *topHits) first() []hit {
	slices.SortFunc(b.kept, b.order)
	return b.kept[:min(b.most, len(b.kept))]
}

// numericFilter is a filter in the index's numbers.
type numericFilter struct {
	now, until uint32
	kind       uint8
	state      int // -1: any
	component  uint16
	lacking    map[uint32]bool // the lists of permission sets that lack the one asked for
}

// numeric translates a filter. The caller holds mu.
func (x *index) numeric(f filter, at time.Time) numericFilter {
	n := numericFilter{now: seconds(at), kind: uint8(slices.Index(kinds, f.kind)), state: -1, component: x.appids.known[f.component]}
	n.until = n.now + uint32(f.within.Seconds())
	if f.state != "" {
		n.state = int(x.states.known[string(f.state)])
	}
	if f.unknown {
		n.state = 0
	}
	if f.lacks != "" {
		n.lacking = map[uint32]bool{}
		for i, list := range x.grants.texts {
			n.lacking[uint32(i)] = i > 0 && !strings.Contains(list, f.lacks)
		}
	}
	return n
}

// matches reports whether a filter lets a row through.
func (x *index) matches(f *filter, n *numericFilter, r *row, state uint8) bool {
	switch {
	case n.state >= 0 && int(state) != n.state,
		f.token == tokenValid && (!r.valid(n.now) || state == stateRevoked),
		f.token == tokenDead && (r.valid(n.now) || state == stateRevoked),
		f.component != "" && (n.component == 0 || r.component != n.component),
		f.lacks != "" && !n.lacking[r.granted],
		f.within > 0 && (!r.valid(n.now) || r.expires > n.until),
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

// rankKey is what ranks an account by byWorst, in the index's numbers.
type rankKey struct {
	state, reason uint8
	dead          bool
	errcode       int32 // of a renewal that failed since the last successful one
}

func (r *row) rankKey(state uint8, now uint32) rankKey {
	p := rankKey{state, r.reason, !r.valid(now), r.errcode}
	if r.failures == 0 {
		p.errcode = noErrcode
	}
	return p
}

// cause says what is wrong with rows of a rankKey.
func (x *index) cause(p rankKey) (cause wxtoken.Reason, e *wxtoken.LastError) {
	if p.errcode != noErrcode {
		e = &wxtoken.LastError{Code: int(p.errcode), API: string(wechat.APIAuthorizerToken)}
	}
	return truth.OfAccount(wxtoken.State(x.states.text(p.state)), wxtoken.Reason(x.reasons.text(p.reason)), e, p.dead), e
}

// The ranks of rows with which nothing is wrong: behind all that have a trouble.
const (
	rankUnknown = 1<<16 + iota // no status yet
	rankActive
	rankRevoked
)

// ranks ranks the rows of a kind in truth's order, and returns their troubles in that order. The
// caller holds mu.
func (x *index) ranks(kind uint8, now uint32) (ranks map[rankKey]uint64, troubles []accountTrouble) {
	byKey := map[rankKey]*accountTrouble{}
	for i := range x.rows {
		r := &x.rows[i]
		if !r.isOf(kind) {
			continue
		}
		if state := r.stateAt(now); state != stateActive && state != stateRevoked {
			p := r.rankKey(state, now)
			of := byKey[p]
			if of == nil {
				of = &accountTrouble{row: r}
				byKey[p] = of
			}
			of.add(1, r)
		}
	}
	ranks = map[rankKey]uint64{}
	type causeAndCode struct {
		cause wxtoken.Reason
		code  int32 // decides who can end it
	}
	sums, of := map[causeAndCode]*accountTrouble{}, map[rankKey]*accountTrouble{}
	for p, all := range byKey {
		cause, e := x.cause(p)
		if cause == "" {
			ranks[p] = rankUnknown
			continue
		}
		s := causeAndCode{cause, p.errcode}
		if sums[s] == nil {
			sums[s] = &accountTrouble{Trouble: truth.Trouble{Cause: cause, Error: e}, row: all.row}
		}
		if sums[s].add(all.Accounts, all.row); p.dead {
			sums[s].Dead += all.Accounts
		}
		of[p] = sums[s]
	}
	order := slices.SortedFunc(maps.Values(sums), func(a, b *accountTrouble) int {
		return cmp.Or(a.Compare(b.Trouble), cmp.Compare(code(a), code(b)))
	})
	for _, t := range order {
		t.first = x.key(t.row)
		troubles = append(troubles, *t)
	}
	for p, t := range of {
		ranks[p] = uint64(slices.Index(order, t))
	}
	return ranks, troubles
}

// accountTrouble is a trouble of accounts, with the one among them whose token expires first.
type accountTrouble struct {
	truth.Trouble
	first wxtoken.Key
	row   *row // of first, while mu is held
}

// add adds n accounts; r is the one of them whose token expires first.
func (s *accountTrouble) add(n int, r *row) {
	if s.Accounts += n; cmp.Or(cmp.Compare(r.expires, s.row.expires), cmp.Compare(r.appid, s.row.appid)) < 0 {
		s.row = r
	}
}

// troubles returns the first troubles of accounts, in truth's order.
func (x *index) troubles(at time.Time, most int) []accountTrouble {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, troubles := x.ranks(kindAuthorizer, seconds(at))
	return troubles[:min(len(troubles), most)]
}

// code is the errcode of a trouble.
func code(t *accountTrouble) int {
	if t.Error == nil {
		return noErrcode
	}
	return t.Error.Code
}

// rankOf returns the rank of a row in an order. The lower half breaks ties: the token that expires
// first comes first.
func rankOf(sort string, r *row, state uint8, now uint32, ranks map[rankKey]uint64) uint64 {
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
	rank := uint64(rankActive)
	switch state {
	case stateActive:
	case stateRevoked:
		rank = rankRevoked
	default:
		rank = ranks[r.rankKey(state, now)]
	}
	return rank<<32 | uint64(r.expires)
}

// lackCount is how many accounts did not grant a permission set that others granted.
type lackCount struct {
	ID    int    `json:"id"`
	Name  string `json:"name"` // in the language of the request
	Count int    `json:"lacking"`
}

// choices returns what a list can be filtered by: the errcodes of last errors, the most frequent
// first, and the permission sets that some accounts granted and others did not, by id.
func (x *index) choices(l lang.Language) ([]errcodeCount, []lackCount) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	codes, lists := map[int32]int{}, make([]int, len(x.grants.texts)+1)
	for i := range x.rows {
		r := &x.rows[i]
		if !r.isOf(kindAuthorizer) {
			continue
		}
		lists[r.granted]++
		if r.errcode != noErrcode {
			codes[r.errcode]++
		}
	}
	errcodes := []errcodeCount{}
	for code, n := range codes {
		errcodes = append(errcodes, errcodeCount{int(code), n})
	}
	slices.SortFunc(errcodes, func(a, b errcodeCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code))
	})
	return errcodes, x.lacks(lists, l)
}

// lacks counts, for each permission set that not all accounts granted, those that did not. lists is how
// many accounts have each list of permission sets; element 0 counts those whose list is unknown.
func (x *index) lacks(lists []int, l lang.Language) []lackCount {
	out, all := []lackCount{}, 0
	have := map[int]int{}
	for list, n := range lists[1:] {
		all += n
		for _, id := range permissionIDs(x.grants.text(uint32(list + 1))) {
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

// errcodeCount is how many accounts have an errcode as their last error.
type errcodeCount struct {
	Code  int `json:"code"`
	Count int `json:"count"`
}
