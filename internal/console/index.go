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

// index holds what the page knows of all keys without asking NATS: enough to count, search and sort
// a million of them. It holds no token and no text of an error; a page reads those of the few keys
// that it shows from NATS.
type index struct {
	mu              sync.RWMutex
	rows            []row
	places          map[place]uint32 // where in rows
	free            []uint32         // places of deleted rows, used again
	appids          names[uint16]    // of components
	states          names[uint8]
	reasons         names[uint8]
	grants          names[uint32]             // lists of permission sets, as "1,2,18"
	componentStatus map[string]wxtoken.Status // of components, by appid
	read            [2]reading
	ticks           map[string]tick // what processes did, by subject and time
	served          map[servedAt]services.Served

	process  string // names this process: marks of other processes say nothing here
	revision uint64 // counts changes
	changed  chan struct{}
	awaited  bool // a stream waits on changed: without one, touch makes no new channel
}

// place is a key in the index's numbers.
type place struct {
	appid     string // of the account, or of the component for its own key
	component uint16
	kind      uint8
}

// row is what is known of one key: some 280 bytes with its texts and its place in the map.
type row struct {
	text      string // what a search looks through, in lower case
	appid     string
	expires   uint32 // of the token, in seconds since 1970; 0: there is none
	renews    uint32
	since     uint32 // of the condition Ready
	granted   uint32 // in grants; 0: not known
	errcode   int32  // of the last error; noErrcode: no error, 0: an error without a code
	failures  uint16
	component uint16 // in appids
	kind      uint8
	state     uint8    // in states; 0: not known
	reason    uint8    // of the condition Ready, in reasons
	seen      [2]uint8 // the reading in which the token, and the status, last came; 0: there is none
}

// noErrcode stands for no last error.
const noErrcode = math.MinInt32

// The buckets, as indices of row.seen and index.read.
const (
	bucketTokens = iota
	bucketStatus
)

// reading is how far a bucket has been read.
type reading struct {
	number  uint8 // of the reading, 1 to 255: a record that did not come with it was deleted
	done    bool  // read to its end at least once
	alive   bool  // the bucket is being followed, and was read to its end since
	pending int   // records that are still to come
	read    int
}

// kinds of keys, by their number in a row.
var kinds = []wxtoken.Kind{wxtoken.KindComponent, wxtoken.KindAuthorizer, wxtoken.KindJSAPITicket, wxtoken.KindWxCardTicket}

// names stores each text once and gives it a number.
type names[N uint8 | uint16 | uint32] struct {
	texts []string
	known map[string]N
}

// number returns the number of a text: 0 for "", and for a new text when all numbers are taken.
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
		places: map[place]uint32{}, componentStatus: map[string]wxtoken.Status{}, ticks: map[string]tick{},
		process: nuid.Next()[:8], changed: make(chan struct{}),
	}
	for _, state := range numberedStates {
		x.states.number(string(state))
	}
	return x
}

// watch returns a mark of what is known now, and a channel that is closed when that changes.
func (x *index) watch() (mark string, changed <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.awaited = true
	return x.mark(), x.changed
}

// mark names the present state of the index. The caller holds mu.
func (x *index) mark() string { return fmt.Sprintf("%s-%d", x.process, x.revision) }

// currentMark returns the mark of the present state.
func (x *index) currentMark() string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.mark()
}

// touch counts a change and wakes the streams that wait for one. The caller holds mu.
func (x *index) touch() {
	x.revision++
	if x.awaited {
		close(x.changed)
		x.changed, x.awaited = make(chan struct{}), false
	}
}

// loading returns how much has been read; nil once everything has.
func (x *index) loading() *loading {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.read[bucketTokens].done && x.read[bucketStatus].done {
		return nil
	}
	l := &loading{}
	for _, r := range x.read {
		l.Read += r.read
		l.Pending += r.pending
	}
	return l
}

// alive reports whether both buckets are followed, and all that they held at its beginning was read.
func (x *index) alive() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.read[bucketTokens].alive && x.read[bucketStatus].alive
}

// beginReading notes that a bucket is being read from its beginning.
func (x *index) beginReading(bucket, pending int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &x.read[bucket]
	if r.number++; r.number == 0 {
		r.number = 1
	}
	r.alive, r.pending, r.read = false, pending, 0 // till then, what is known is that of before
	x.touch()
}

// endReading notes that a bucket was read to its end, and forgets what was not in it.
func (x *index) endReading(bucket int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &x.read[bucket]
	r.done, r.alive, r.pending = true, true, 0
	for i := range x.rows {
		if s := x.rows[i].seen[bucket]; s != 0 && s != r.number {
			x.forget(uint32(i), bucket)
		}
	}
	x.touch()
}

// stopReading notes that a bucket is no longer followed.
func (x *index) stopReading(bucket int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.read[bucket].alive = false
	x.touch()
}

// countRead counts one message of a bucket. The caller holds mu.
func (x *index) countRead(bucket int) {
	r := &x.read[bucket]
	r.read++
	r.pending = max(r.pending-1, 0)
}

// rowFor returns the row of a key, and makes it if there is none. The caller holds mu.
func (x *index) rowFor(key wxtoken.Key) *row {
	p := x.placeOf(key)
	i, ok := x.places[p]
	if !ok {
		p.appid = strings.Clone(p.appid) // or it would keep the whole message in memory
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

// forget clears what a row knows from a bucket, and deletes the row when nothing is left of it. The
// caller holds mu.
func (x *index) forget(i uint32, bucket int) {
	r := &x.rows[i]
	r.seen[bucket] = 0
	if bucket == bucketTokens {
		r.expires, r.renews = 0, 0
	} else {
		r.state, r.reason, r.since, r.granted, r.failures, r.errcode, r.text = 0, 0, 0, 0, 0, noErrcode, strings.ToLower(r.appid)
		if kinds[r.kind] == wxtoken.KindComponent {
			delete(x.componentStatus, r.appid)
		}
	}
	if r.seen == [2]uint8{} {
		delete(x.places, place{appid: r.appid, component: r.component, kind: r.kind})
		x.rows[i] = row{}
		x.free = append(x.free, i)
	}
}

// setToken takes over the record of a token: when it expires, never its value. Without data it was
// deleted.
func (x *index) setToken(key wxtoken.Key, data []byte) {
	var t struct {
		ExpiresAt time.Time `json:"expires_at"`
		RenewAt   time.Time `json:"renew_at"`
	}
	gone := len(data) == 0 || json.Unmarshal(data, &t) != nil
	x.mu.Lock()
	defer x.mu.Unlock()
	x.countRead(bucketTokens)
	if i, ok := x.places[x.placeOf(key)]; gone {
		if ok {
			x.forget(i, bucketTokens)
			x.touch()
		}
		return
	}
	r := x.rowFor(key)
	r.seen[bucketTokens] = x.read[bucketTokens].number
	r.expires, r.renews = seconds(t.ExpiresAt), seconds(t.RenewAt)
	x.touch()
}

// statusFields is what the index takes out of a status.
type statusFields struct {
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
		NickName      json.RawMessage `json:"nick_name"` // WeChat's, of any type
		PrincipalName json.RawMessage `json:"principal_name"`
		Ref           string          `json:"ref"`
		FuncInfo      []int           `json:"func_info"`
	} `json:"authorizer"`
}

// setStatus takes over the status of a key. Without data it was deleted.
func (x *index) setStatus(key wxtoken.Key, data []byte) {
	var s statusFields
	gone := len(data) == 0 || json.Unmarshal(data, &s) != nil
	var full wxtoken.Status
	if !gone && key.Kind == wxtoken.KindComponent {
		gone = json.Unmarshal(data, &full) != nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.countRead(bucketStatus)
	if i, ok := x.places[x.placeOf(key)]; gone {
		if ok && x.rows[i].seen[bucketStatus] != 0 {
			x.forget(i, bucketStatus)
			x.touch()
		}
		return
	}
	r := x.rowFor(key)
	r.seen[bucketStatus] = x.read[bucketStatus].number
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
		full.Key = key
		x.componentStatus[key.Component] = full
	}
	if a := s.Authorizer; a != nil {
		text := strings.ToLower(strings.Join([]string{key.Authorizer, jsonString(a.NickName), jsonString(a.PrincipalName), a.Ref}, "\n"))
		if r.text != text {
			r.text = text
		}
		r.granted = x.grants.number(grantList(a.FuncInfo))
	}
	x.touch()
}

// jsonString decodes a JSON string; "" for anything else.
func jsonString(data json.RawMessage) (text string) {
	_ = json.Unmarshal(data, &text) // an account without a name is in order
	return text
}

// grantList writes a list of permission sets as the index keeps it: ",1,18,". Accounts have few
// different ones.
func grantList(ids []int) string {
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

// seconds returns a time as a row keeps it: in seconds since 1970, 0 for none.
func seconds(t time.Time) uint32 {
	if t.IsZero() || t.Unix() < 0 || t.Unix() > math.MaxUint32 {
		return 0
	}
	return uint32(t.Unix())
}

// moment returns the time that seconds stand for.
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

// numberedStates have the same numbers in each index, from 1 on, so that rows are judged without
// looking at texts.
var numberedStates = []wxtoken.State{
	wxtoken.StateActive, wxtoken.StateRenewingFailed, wxtoken.StateNeedsAuthorization,
	wxtoken.StateRevoked, wxtoken.StateWaitingForTicket, wxtoken.StateOperator,
}

// The numbers of some of them.
const (
	stateActive  = 1
	stateFailed  = 2
	stateRevoked = 4
)

// stateAt returns the state of a row by its record and the clock, as a number: a key whose token has
// expired is never active, as in wxtoken.Status.StateAt. The status of a token without one is about
// to be written.
func (r *row) stateAt(now uint32) uint8 {
	switch {
	case r.state == stateActive && !r.valid(now):
		return stateFailed
	case r.state == 0 && r.valid(now):
		return stateActive
	}
	return r.state
}

// valid reports whether there is a token that has not expired.
func (r *row) valid(now uint32) bool { return r.expires > now }

// isOf reports whether a row holds a key of that kind; deleted rows hold none.
func (r *row) isOf(kind uint8) bool { return r.kind == kind && r.seen != [2]uint8{} }

// The numbers of kinds.
const (
	kindComponent  = 0
	kindAuthorizer = 1
)

// Tally counts accounts.
type Tally struct {
	Accounts int                   `json:"accounts"` // all, including the cancelled ones
	States   map[wxtoken.State]int `json:"states"`   // by state, "" where none is known yet
	Serving  int                   `json:"serving"`  // authorized, with a valid token
	Dead     int                   `json:"dead"`     // authorized, without one
	AtRisk   int                   `json:"at_risk"`  // serving, but not renewed as it should be
	// Errcodes counts the dead by WeChat's last errcode (0: an error without one); Reasons counts
	// those without an error, by the reason of their condition Ready.
	Reasons  map[wxtoken.Reason]int `json:"dead_reasons,omitempty"`
	Errcodes map[int]int            `json:"dead_errcodes,omitempty"`
	// FirstDies is when the first token of those at risk expires.
	FirstDies time.Time `json:"first_dies,omitzero"`
}

// sums is a Tally in the making, in the index's numbers.
type sums struct {
	states        [256]int
	reasons       [256]int // of the dead without an error
	dead, atRisk  int
	serving, dies uint32
	errcodes      map[int32]int
}

func (s *sums) count(x *index, r *row, now uint32) {
	state := r.stateAt(now)
	s.states[state]++
	switch {
	case state == stateRevoked:
	case !r.valid(now):
		s.dead++
		// Where WeChat answered that there is none, the reason tells more than an error without a code.
		reason := wxtoken.Reason(x.reasons.text(r.reason))
		if r.errcode == noErrcode || reason == wxtoken.ReasonNoAPIPermission || reason == wxtoken.ReasonNoRefreshToken && r.errcode == 0 {
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

// addTo adds the sums to a tally.
func (s *sums) addTo(t *Tally, x *index) {
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

// tally counts the accounts: all of them, and those of each component. It goes through all rows each
// time: a stored count would be wrong as soon as a token expires.
func (x *index) tally(at time.Time) (all *Tally, byAppID map[string]*Tally) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	now, byComponent := seconds(at), make([]*sums, len(x.appids.texts)+1)
	for i := range x.rows {
		r := &x.rows[i]
		if !r.isOf(kindAuthorizer) {
			continue
		}
		if byComponent[r.component] == nil {
			byComponent[r.component] = &sums{}
		}
		byComponent[r.component].count(x, r, now)
	}
	all, byAppID = newTally(), map[string]*Tally{}
	for component, s := range byComponent {
		if s != nil {
			t := newTally()
			s.addTo(t, x)
			s.addTo(all, x)
			byAppID[x.appids.text(uint16(component))] = t
		}
	}
	return all, byAppID
}

// held returns what holds the renewals of a component back.
func (x *index) held(component string) (wxtoken.Condition, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.componentStatus[component].Held()
}

// components returns the statuses of the components, sorted by appid. Where none is stored, it has
// only the key.
func (x *index) components() (out []wxtoken.Status) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	listed := map[string]bool{}
	for appid, s := range x.componentStatus {
		out, listed[appid] = append(out, s), true
	}
	for i, appid := range x.appids.texts {
		at, ok := x.places[place{appid: appid, component: uint16(i), kind: kindComponent}]
		if ok && !listed[appid] && x.rows[at].isOf(kindComponent) {
			out = append(out, wxtoken.Status{Key: x.key(&x.rows[at])})
		}
	}
	slices.SortFunc(out, func(a, b wxtoken.Status) int { return cmp.Compare(a.Key.Component, b.Key.Component) })
	return out
}
