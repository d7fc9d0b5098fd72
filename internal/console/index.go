package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"wxtoken/client"
	"wxtoken/internal/services"
)

// index is what the page knows of all keys without asking: enough to count, to search and to sort a
// million of them. It holds no token and no text of an error; what a page shows of a few keys is
// read from NATS.
type index struct {
	mu      sync.RWMutex
	rows    []row
	places  map[place]uint32 // where in rows
	free    []uint32         // of rows that are gone
	appids  names[uint16]    // of components
	states  names[uint8]
	reasons names[uint8]
	grants  names[uint32]             // lists of permission sets, as "1,2,18"
	whole   map[string]wxtoken.Status // of components, by appid
	read    [2]reading
	ticks   map[string]tick // what processes did, by process and time
	served  map[servedAt]services.Served

	process  string // this one: marks of others say nothing here
	revision uint64 // counts changes
	changed  chan struct{}
	awaited  bool // a stream waits on changed
}

// place names a key in the index.
type place struct {
	appid     string // of the account; of the component, where the key is one's own
	component uint16
	kind      uint8
}

// row is what is known of one key: some 280 bytes with its texts and its place.
type row struct {
	text       string // what a search looks through, in small letters
	appid      string
	expires    uint32 // of the token, in seconds since 1970; 0: there is none
	renews     uint32
	since      uint32 // of the condition Ready
	granted    uint32 // in grants; 0: not known
	generation uint32
	errcode    int32 // of the last error; noErrcode: none, 0: an error without a code
	failures   uint16
	component  uint16 // in appids
	kind       uint8
	state      uint8    // in states; 0: not known
	reason     uint8    // of the condition Ready, in reasons
	seen       [2]uint8 // the reading that brought the token, and the status; 0: there is none
}

// noErrcode says that there is no last error.
const noErrcode = math.MinInt32

// The buckets.
const (
	ofTokens = iota
	ofStatus
)

// reading is how far a bucket is read.
type reading struct {
	number  uint8 // of the reading, 1 to 255: what it did not bring is gone
	done    bool  // at least once
	alive   bool  // the bucket is being followed
	pending int   // left of the first reading
	read    int
}

// kinds of keys, as a row has them.
var kinds = []wxtoken.Kind{wxtoken.KindComponent, wxtoken.KindAuthorizer, wxtoken.KindJSAPITicket, wxtoken.KindWxCardTicket}

// names keeps each text once.
type names[N uint8 | uint16 | uint32] struct {
	texts []string
	known map[string]N
}

// number returns the number of a text; that of "" is 0, and so is that of one too many.
func (n *names[N]) number(text string) N {
	if text == "" {
		return 0
	}
	if n.known == nil {
		n.known, n.texts = map[string]N{}, []string{""}
	}
	i, ok := n.known[text]
	if !ok && uint64(len(n.texts)) <= uint64(^N(0)) {
		i = N(len(n.texts))
		text = strings.Clone(text)
		n.texts, n.known[text] = append(n.texts, text), i
	}
	return i
}

// text returns the text of a number.
func (n *names[N]) text(i N) string {
	if int(i) < len(n.texts) {
		return n.texts[i]
	}
	return ""
}

func newIndex() *index {
	x := &index{
		places: map[place]uint32{}, whole: map[string]wxtoken.Status{}, ticks: map[string]tick{},
		process: nuid.Next()[:8], changed: make(chan struct{}),
	}
	for _, state := range known {
		x.states.number(string(state))
	}
	return x
}

// news returns a mark of what is known now, and a channel that is closed when that changes.
func (x *index) news() (mark string, changed <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.awaited = true
	return x.mark(), x.changed
}

// mark returns what news would. The caller holds mu.
func (x *index) mark() string { return fmt.Sprintf("%s-%d", x.process, x.revision) }

// current returns the mark of what is known.
func (x *index) current() string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.mark()
}

// touch says that something changed. The caller holds mu.
func (x *index) touch() {
	x.revision++
	if x.awaited {
		close(x.changed)
		x.changed, x.awaited = make(chan struct{}), false
	}
}

// loading returns how much is read, nil once all is.
func (x *index) loading() *loading {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.read[ofTokens].done && x.read[ofStatus].done {
		return nil
	}
	l := &loading{}
	for _, r := range x.read {
		l.Read += r.read
		l.Pending += r.pending
	}
	return l
}

// alive reports whether both buckets are followed.
func (x *index) alive() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.read[ofTokens].alive && x.read[ofStatus].alive
}

// begin notes that a bucket is read from its beginning.
func (x *index) begin(bucket, pending int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &x.read[bucket]
	if r.number++; r.number == 0 {
		r.number = 1
	}
	r.alive, r.pending, r.read = true, pending, 0
	x.touch()
}

// end notes that a bucket is read to its end: what was not in it is gone.
func (x *index) end(bucket int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &x.read[bucket]
	r.done, r.pending = true, 0
	for i := range x.rows {
		if s := x.rows[i].seen[bucket]; s != 0 && s != r.number {
			x.forget(uint32(i), bucket)
		}
	}
	x.touch()
}

// silence notes that a bucket is no longer followed.
func (x *index) silence(bucket int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.read[bucket].alive = false
	x.touch()
}

// counted notes that one message of a bucket was read. The caller holds mu.
func (x *index) counted(bucket int) {
	r := &x.read[bucket]
	r.read++
	r.pending = max(r.pending-1, 0)
}

// at returns the row of a key, which it makes. The caller holds mu.
func (x *index) at(key wxtoken.Key) *row {
	p := x.placeOf(key)
	i, ok := x.places[p]
	if !ok {
		p.appid = strings.Clone(p.appid) // of a message that can be let go
		fresh := row{appid: p.appid, component: p.component, kind: p.kind, errcode: noErrcode, text: strings.ToLower(p.appid)}
		if n := len(x.free); n > 0 {
			i, x.free = x.free[n-1], x.free[:n-1]
			x.rows[i] = fresh
		} else {
			i = uint32(len(x.rows))
			x.rows = append(x.rows, fresh)
		}
		x.places[p] = i
	}
	return &x.rows[i]
}

func (x *index) placeOf(key wxtoken.Key) place {
	p := place{appid: key.Authorizer, component: x.appids.number(key.Component), kind: uint8(slices.Index(kinds, key.Kind))}
	if key.Kind == wxtoken.KindComponent {
		p.appid = key.Component
	}
	return p
}

// forget takes what a bucket told out of a row, and the row with the last of it. The caller holds
// mu.
func (x *index) forget(i uint32, bucket int) {
	r := &x.rows[i]
	r.seen[bucket] = 0
	if bucket == ofTokens {
		r.expires, r.renews, r.generation = 0, 0, 0
	} else {
		r.state, r.reason, r.since, r.granted, r.failures, r.errcode, r.text = 0, 0, 0, 0, 0, noErrcode, strings.ToLower(r.appid)
		if kinds[r.kind] == wxtoken.KindComponent {
			delete(x.whole, r.appid)
		}
	}
	if r.seen == [2]uint8{} {
		delete(x.places, place{appid: r.appid, component: r.component, kind: r.kind})
		x.rows[i] = row{}
		x.free = append(x.free, i)
	}
}

// token takes what is said of a token: when it expires, never what it is. No data: it was deleted.
func (x *index) token(key wxtoken.Key, data []byte) {
	var t struct {
		Generation uint64    `json:"generation"`
		ExpiresAt  time.Time `json:"expires_at"`
		RenewAt    time.Time `json:"renew_at"`
	}
	gone := len(data) == 0 || json.Unmarshal(data, &t) != nil
	x.mu.Lock()
	defer x.mu.Unlock()
	x.counted(ofTokens)
	if i, ok := x.places[x.placeOf(key)]; gone {
		if ok {
			x.forget(i, ofTokens)
			x.touch()
		}
		return
	}
	r := x.at(key)
	r.seen[ofTokens] = x.read[ofTokens].number
	r.expires, r.renews, r.generation = seconds(t.ExpiresAt), seconds(t.RenewAt), uint32(t.Generation)
	x.touch()
}

// told is what the index takes out of a status.
type told struct {
	State      wxtoken.State `json:"state"`
	Conditions []struct {
		Type   wxtoken.ConditionType `json:"type"`
		Reason string                `json:"reason"`
		Since  time.Time             `json:"since"`
	} `json:"conditions"`
	Failures  int `json:"failures"`
	LastError *struct {
		Code int `json:"code"`
	} `json:"last_error"`
	Authorizer *struct {
		NickName      json.RawMessage `json:"nick_name"` // WeChat's: it may be anything
		PrincipalName json.RawMessage `json:"principal_name"`
		Ref           string          `json:"ref"`
		FuncInfo      []int           `json:"func_info"`
	} `json:"authorizer"`
}

// status takes what is said of a key. No data: it was deleted.
func (x *index) status(key wxtoken.Key, data []byte) {
	var s told
	gone := len(data) == 0 || json.Unmarshal(data, &s) != nil
	var whole wxtoken.Status
	if !gone && key.Kind == wxtoken.KindComponent {
		gone = json.Unmarshal(data, &whole) != nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.counted(ofStatus)
	if i, ok := x.places[x.placeOf(key)]; gone {
		if ok && x.rows[i].seen[ofStatus] != 0 {
			x.forget(i, ofStatus)
			x.touch()
		}
		return
	}
	r := x.at(key)
	r.seen[ofStatus] = x.read[ofStatus].number
	r.state, r.failures, r.errcode = x.states.number(string(s.State)), uint16(min(s.Failures, math.MaxUint16)), noErrcode
	if s.LastError != nil {
		r.errcode = int32(s.LastError.Code)
	}
	r.reason, r.since = 0, 0
	for _, c := range s.Conditions {
		if c.Type == wxtoken.ConditionReady {
			r.reason, r.since = x.reasons.number(c.Reason), seconds(c.Since)
		}
	}
	if key.Kind == wxtoken.KindComponent {
		whole.Key = key
		x.whole[key.Component] = whole
	}
	if a := s.Authorizer; a != nil {
		text := strings.ToLower(strings.Join([]string{key.Authorizer, quoted(a.NickName), quoted(a.PrincipalName), a.Ref}, "\n"))
		if r.text != text {
			r.text = text
		}
		r.granted = x.grants.number(granted(a.FuncInfo))
	}
	x.touch()
}

// quoted returns a string of JSON; "" if it is none.
func quoted(data json.RawMessage) (text string) {
	_ = json.Unmarshal(data, &text) // WeChat's; no name is no fault
	return text
}

// granted writes a list of permission sets as the index keeps it: ",1,18,". Houses have few
// different ones.
func granted(ids []int) string {
	if ids == nil {
		return ""
	}
	sorted := slices.Clone(ids)
	slices.Sort(sorted)
	var out strings.Builder
	out.WriteByte(',')
	for _, id := range slices.Compact(sorted) {
		fmt.Fprintf(&out, "%d,", id)
	}
	return out.String()
}

// seconds returns a time as a row keeps it.
func seconds(t time.Time) uint32 {
	if t.IsZero() || t.Unix() < 0 || t.Unix() > math.MaxUint32 {
		return 0
	}
	return uint32(t.Unix())
}

// moment is the other way round.
func moment(s uint32) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// key returns the key of a row.
func (x *index) key(r *row) wxtoken.Key {
	k := wxtoken.Key{Kind: kinds[r.kind], Component: x.appids.text(r.component), Authorizer: r.appid}
	if k.Kind == wxtoken.KindComponent {
		k.Authorizer = ""
	}
	return k
}

// known are the states that have numbers of their own in each index, from 1 on: rows are judged
// without a look at texts.
var known = []wxtoken.State{wxtoken.StateActive, wxtoken.StateRenewingFailed, wxtoken.StateNeedsAuthorization, wxtoken.StateRevoked, wxtoken.StateWaitingForTicket, wxtoken.StateOperator}

// The numbers of some of them.
const (
	stateActive  = 1
	stateFailed  = 2
	stateRevoked = 4
)

// standing returns the state of a row by its record and the clock, as a number: a token that has
// expired is never active, as wxtoken.Status.StateAt says. A token without a status is one whose
// status is about to be written.
func (r *row) standing(now uint32) uint8 {
	switch {
	case r.state == stateActive && !r.valid(now):
		return stateFailed
	case r.state == 0 && r.valid(now):
		return stateActive
	}
	return r.state
}

// valid reports whether there is a token that lives.
func (r *row) valid(now uint32) bool { return r.expires > now }

// there reports whether a row is of a key of that kind.
func (r *row) there(kind uint8) bool { return r.kind == kind && r.seen != [2]uint8{} }

// The numbers of kinds.
const (
	kindComponent  = 0
	kindAuthorizer = 1
)

// Tally counts accounts.
type Tally struct {
	Accounts int                   `json:"accounts"` // all, the cancelled ones too
	States   map[wxtoken.State]int `json:"states"`   // by state, "" where none is known yet
	Serving  int                   `json:"serving"`  // in force, with a token that lives
	Dead     int                   `json:"dead"`     // in force, without one
	AtRisk   int                   `json:"at_risk"`  // serving, and not renewed as it should be
	// Errcodes counts the dead by the errcode that WeChat answered last, 0: it gave none; Reasons
	// counts those without an error, by the reason of their condition Ready.
	Reasons  map[wxtoken.Reason]int `json:"dead_reasons,omitempty"`
	Errcodes map[int]int            `json:"dead_errcodes,omitempty"`
	// FirstDies is when the first of those at risk loses its token.
	FirstDies time.Time `json:"first_dies,omitzero"`
}

// sums is a Tally in the making, by numbers.
type sums struct {
	states        [256]int
	reasons       [256]int // of the dead without an error
	dead, atRisk  int
	serving, dies uint32
	errcodes      map[int32]int
}

func (s *sums) count(x *index, r *row, now uint32) {
	state := r.standing(now)
	s.states[state]++
	switch {
	case state == stateRevoked:
	case !r.valid(now):
		s.dead++
		if r.errcode == noErrcode || x.reasons.text(r.reason) == string(wxtoken.ReasonNoAPIPermission) {
			s.reasons[r.reason]++
			break
		}
		if s.errcodes == nil {
			s.errcodes = map[int32]int{}
		}
		s.errcodes[r.errcode]++
	default:
		s.serving++
		if state != stateActive {
			s.atRisk++
			if s.dies == 0 || r.expires < s.dies {
				s.dies = r.expires
			}
		}
	}
}

// add adds what was counted to a tally.
func (s *sums) add(t *Tally, x *index) {
	for i, n := range s.states {
		if n > 0 {
			t.States[wxtoken.State(x.states.text(uint8(i)))] += n
			t.Accounts += n
		}
	}
	for i, n := range s.reasons {
		if n > 0 {
			t.Reasons[wxtoken.Reason(x.reasons.text(uint8(i)))] += n
		}
	}
	for code, n := range s.errcodes {
		t.Errcodes[int(code)] += n
	}
	t.Serving, t.Dead, t.AtRisk = t.Serving+int(s.serving), t.Dead+s.dead, t.AtRisk+s.atRisk
	if dies := moment(s.dies); s.dies != 0 && (t.FirstDies.IsZero() || dies.Before(t.FirstDies)) {
		t.FirstDies = dies
	}
}

func newTally() *Tally {
	return &Tally{States: map[wxtoken.State]int{}, Reasons: map[wxtoken.Reason]int{}, Errcodes: map[int]int{}}
}

// tally counts the accounts: all of them, and those of each component. It goes through all rows,
// whenever it is asked: counts that were kept would be wrong as soon as a token expires.
func (x *index) tally(at time.Time) (all *Tally, of map[string]*Tally) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	now, byComponent := seconds(at), make([]*sums, len(x.appids.texts)+1)
	for i := range x.rows {
		r := &x.rows[i]
		if !r.there(kindAuthorizer) {
			continue
		}
		if byComponent[r.component] == nil {
			byComponent[r.component] = &sums{}
		}
		byComponent[r.component].count(x, r, now)
	}
	all, of = newTally(), map[string]*Tally{}
	for component, s := range byComponent {
		if s != nil {
			t := newTally()
			s.add(t, x)
			s.add(all, x)
			of[x.appids.text(uint16(component))] = t
		}
	}
	return all, of
}

// held returns what keeps the tokens of a component from being renewed.
func (x *index) held(component string) (wxtoken.Condition, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.whole[component].Held()
}

// components returns the statuses of the components, by appid; one without a status has only its
// key.
func (x *index) components() (out []wxtoken.Status) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	listed := map[string]bool{}
	for appid, s := range x.whole {
		out, listed[appid] = append(out, s), true
	}
	for i, appid := range x.appids.texts {
		at, ok := x.places[place{appid: appid, component: uint16(i), kind: kindComponent}]
		if ok && !listed[appid] && x.rows[at].there(kindComponent) {
			out = append(out, wxtoken.Status{Key: x.key(&x.rows[at])})
		}
	}
	slices.SortFunc(out, func(a, b wxtoken.Status) int { return cmp.Compare(a.Key.Component, b.Key.Component) })
	return out
}
