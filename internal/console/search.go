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

// hit is a row that a filter lets through, and where it stands in the list.
type hit struct {
	rank uint64 // the smaller the earlier
	row  uint32
}

// find returns the keys from..from+limit of a list, in order, and how many there are in all. All
// cores look: to search the texts of a million accounts is to wait for memory.
func (x *index) find(f filter, at time.Time, from, limit int) (keys []wxtoken.Key, total int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := x.numbers(f, at)
	var ranks map[plight]uint64
	if f.sort == byWorst {
		ranks, _ = x.ranks(n.kind, n.now)
	}
	order := func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(x.rows[a.row].appid, x.rows[b.row].appid), cmp.Compare(x.rows[a.row].component, x.rows[b.row].component))
	}
	parts := make([]best, runtime.GOMAXPROCS(0))
	share := len(x.rows)/len(parts) + 1
	var looking sync.WaitGroup
	for p := range parts {
		part := &parts[p]
		part.most, part.order = from+limit, order
		looking.Go(func() {
			for i := p * share; i < min((p+1)*share, len(x.rows)); i++ {
				r := &x.rows[i]
				if !r.there(n.kind) {
					continue
				}
				if state := r.standing(n.now); x.wanted(&f, &n, r, state) {
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

// best keeps the first hits of a list. Sorting a million for one page of fifty would take a second:
// what can't be among them is thrown away in rounds.
type best struct {
	most  int
	order func(a, b hit) int
	kept  []hit
	full  bool // kept[most-1] is the last of the first
	all   int  // that were added
}

// room is how many rounds of hits are gathered before they are sorted.
const room = 4

func (b *best) add(h hit) {
	b.all++
	if b.full && b.order(h, b.kept[b.most-1]) >= 0 {
		return
	}
	if b.kept = append(b.kept, h); len(b.kept) >= b.most*room {
		b.kept = b.first()
		b.full = true
	}
}

// join adds what another has.
func (b *best) join(other best) {
	b.kept, b.full, b.all = append(b.kept, other.first()...), false, b.all+other.all
}

// first returns the first of what was added, in order.
func (b *best) first() []hit {
	slices.SortFunc(b.kept, b.order)
	return b.kept[:min(b.most, len(b.kept))]
}

// numbers is a filter in the numbers of an index.
type numbers struct {
	now, until uint32
	kind       uint8
	state      int // -1: any, or one that no row has
	component  uint16
	lacking    map[uint32]bool // lists of permission sets without the one that is asked for
}

func (x *index) numbers(f filter, at time.Time) numbers {
	n := numbers{now: seconds(at), kind: uint8(slices.Index(kinds, f.kind)), state: -1, component: x.appids.known[f.component]}
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

// wanted reports whether a filter lets a row through.
func (x *index) wanted(f *filter, n *numbers, r *row, state uint8) bool {
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

// plight is what ranks an account among others, in the numbers of an index.
type plight struct {
	state, reason uint8
	dead          bool
	errcode       int32 // of a renewal that failed since the last good one
}

func (r *row) plight(state uint8, now uint32) plight {
	p := plight{state, r.reason, !r.valid(now), r.errcode}
	if r.failures == 0 {
		p.errcode = noErrcode
	}
	return p
}

// cause says what is wrong with rows of a plight.
func (x *index) cause(p plight) (cause wxtoken.Reason, e *wxtoken.LastError) {
	if p.errcode != noErrcode {
		e = &wxtoken.LastError{Code: int(p.errcode), API: string(wechat.APIAuthorizerToken)}
	}
	return truth.OfAccount(wxtoken.State(x.states.text(p.state)), wxtoken.Reason(x.reasons.text(p.reason)), e, p.dead), e
}

// The ranks of rows with which nothing is wrong, behind all that have a trouble.
const (
	rankUnknown = 1<<16 + iota // no status yet
	rankActive
	rankRevoked
)

// ranks ranks the plights of rows of a kind by truth's rule, and returns the troubles in that
// order. The caller holds mu.
func (x *index) ranks(kind uint8, now uint32) (ranks map[plight]uint64, troubles []suffering) {
	plights := map[plight]*suffering{}
	for i := range x.rows {
		r := &x.rows[i]
		if !r.there(kind) {
			continue
		}
		if state := r.standing(now); state != stateActive && state != stateRevoked {
			p := r.plight(state, now)
			of := plights[p]
			if of == nil {
				of = &suffering{row: r}
				plights[p] = of
			}
			of.add(1, r)
		}
	}
	ranks = map[plight]uint64{}
	type suffered struct {
		cause wxtoken.Reason
		code  int32 // decides who can end it
	}
	sums, of := map[suffered]*suffering{}, map[plight]*suffering{}
	for p, all := range plights {
		cause, e := x.cause(p)
		if cause == "" {
			ranks[p] = rankUnknown
			continue
		}
		s := suffered{cause, p.errcode}
		if sums[s] == nil {
			sums[s] = &suffering{Trouble: truth.Trouble{Cause: cause, Error: e}, row: all.row}
		}
		if sums[s].add(all.Accounts, all.row); p.dead {
			sums[s].Dead += all.Accounts
		}
		of[p] = sums[s]
	}
	order := slices.SortedFunc(maps.Values(sums), func(a, b *suffering) int { return cmp.Or(a.Compare(b.Trouble), cmp.Compare(code(a), code(b))) })
	for _, t := range order {
		t.first = x.key(t.row)
		troubles = append(troubles, *t)
	}
	for p, t := range of {
		ranks[p] = uint64(slices.Index(order, t))
	}
	return ranks, troubles
}

// suffering is a trouble, and the account that suffers from it whose token ends first.
type suffering struct {
	truth.Trouble
	first wxtoken.Key
	row   *row // of first, while mu is held
}

// add adds n accounts, with the one of them whose token ends first.
func (s *suffering) add(n int, r *row) {
	if s.Accounts += n; cmp.Or(cmp.Compare(r.expires, s.row.expires), cmp.Compare(r.appid, s.row.appid)) < 0 {
		s.row = r
	}
}

// troubles returns the first of what accounts suffer from.
func (x *index) troubles(at time.Time, most int) []suffering {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, troubles := x.ranks(kindAuthorizer, seconds(at))
	return troubles[:min(len(troubles), most)]
}

// code is the errcode of a trouble.
func code(t *suffering) int {
	if t.Error == nil {
		return noErrcode
	}
	return t.Error.Code
}

// rankOf returns where a row stands in an order. The lower half breaks ties: the token that ends
// first.
func rankOf(sort string, r *row, state uint8, now uint32, ranks map[plight]uint64) uint64 {
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
		rank = ranks[r.plight(state, now)]
	}
	return rank<<32 | uint64(r.expires)
}

// lackCount is how many accounts did not grant a permission set that others did.
type lackCount struct {
	ID    int    `json:"id"`
	Name  string `json:"name"` // in the language of the request
	Count int    `json:"lacking"`
}

// choices returns what a list can be made of: the codes of last errors, each with how many accounts
// have it, the most frequent first; and the permission sets that some accounts granted and others
// did not, by id.
func (x *index) choices(l lang.Language) ([]errcodeCount, []lackCount) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	codes, lists := map[int32]int{}, make([]int, len(x.grants.texts)+1)
	for i := range x.rows {
		r := &x.rows[i]
		if !r.there(kindAuthorizer) {
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
	slices.SortFunc(errcodes, func(a, b errcodeCount) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code)) })
	return errcodes, x.lacks(lists, l)
}

// lacks counts who did not grant what others did, by how many accounts have each list; the first is
// of those whose list is not known.
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

// errcodeCount is how many accounts met an errcode last.
type errcodeCount struct {
	Code  int `json:"code"`
	Count int `json:"count"`
}
