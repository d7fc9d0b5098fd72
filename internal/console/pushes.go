package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/client/document"
	"wxtoken/internal/counts"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// The lists of the page of pushes.
const (
	showCame    = "came"    // messages and notices, from MESSAGES
	showRefused = "refused" // and odd, repeated or late ones: the records of ingest
	showDead    = "dead"    // dead letters, from DEAD
)

// pushesPage is the list of what WeChat pushed.
func (c *Console) pushesPage() Page {
	return Page{
		Path: "/pushes", Name: "pushes", Nav: lang.T("Pushes", "推送"), Title: lang.T("Pushes", "推送"),
		Params: []string{"show", "q", "component", "appid", "kind", "result", "before", "limit"},
		Data:   func(ctx context.Context, q *Request) (any, error) { return c.pushes(ctx, q) },
	}
}

// Pushes is what the list shows.
type Pushes struct {
	At      time.Time      `json:"at"`
	Figures PushCounts     `json:"last_24_h"`
	Show    string         `json:"show"`
	Came    []StoredPush   `json:"came,omitempty"`
	Refused []RecordedPush `json:"refused,omitempty"`
	Dead    []DeadLetter   `json:"dead,omitempty"`
	Before  uint64         `json:"before,omitempty"` // sequence before which there may be older ones; 0: there are none

	Components []string `json:"components"`
	filter     pushFilter
}

// PushCounts is what all ingests did in a day, and what waits in NATS now.
type PushCounts struct {
	Taken    int64      `json:"taken"`
	Refused  int64      `json:"refused"`
	Repeated int64      `json:"repeated"`
	Answered []Answered `json:"answered_within"`   // how long WeChat waited for the answers to those taken
	Waiting  *uint64    `json:"waiting,omitempty"` // tickets, codes and cancellations that no refresher has processed; sealed, so only counted
	Dead     *uint64    `json:"dead_letters,omitempty"`
}

// Answered is how many pushes were answered within a time.
type Answered struct {
	Name  string `json:"name"`
	Label string `json:"label"`
	Count int64  `json:"count"`
}

// pushFilter says which pushes are asked for.
type pushFilter struct {
	show, text, component, appid, kind, result string
	before                                     uint64
	limit                                      int
}

// maxPushes bounds what a list shows.
const maxPushes = 200

// readPushFilter reads which pushes are asked for.
func readPushFilter(q *Request) (w pushFilter, err error) {
	get := func(name string) string { return strings.TrimSpace(q.Query.Get(name)) }
	w = pushFilter{
		show: cmp.Or(get("show"), showCame), text: strings.ToLower(get("q")), component: get("component"), appid: get("appid"),
		kind: get("kind"), result: get("result"), limit: defaultLimit,
	}
	switch {
	case !slices.Contains([]string{showCame, showRefused, showDead}, w.show):
		return w, badRequest(lang.T("show: want came, refused or dead", "show：只能是 came、refused 或 dead"))
	case len(w.text) > maxQuery:
		return w, badRequest(lang.T("q: want %d bytes at most", "q：最多 %d 字节", maxQuery))
	case w.component != "" && !wxtoken.ValidAppID(w.component),
		w.appid != "" && !wxtoken.ValidAppID(w.appid),
		w.kind != "" && !wxtoken.ValidAppID(w.kind):
		return w, badRequest(lang.T("component, appid and kind: want letters, digits, - and _", "component、appid、kind：只能包含字母、数字、- 和 _"))
	case w.result != "" && !slices.ContainsFunc(pushResults, func(r choice) bool { return r.Param == w.result }):
		return w, badRequest(lang.T("result: there is no such result", "result：没有这种结果"))
	}
	if text := get("before"); text != "" {
		if w.before, err = strconv.ParseUint(text, 10, 64); err != nil {
			return w, badRequest(lang.T("before: want a number", "before：应为数字"))
		}
	}
	if text := get("limit"); text != "" {
		if w.limit, err = strconv.Atoi(text); err != nil || w.limit < 1 || w.limit > maxPushes {
			return w, badRequest(lang.T("limit: want 1 to %d", "limit：1 到 %d", maxPushes))
		}
	}
	return w, nil
}

// pushes makes the page.
func (c *Console) pushes(ctx context.Context, q *Request) (Pushes, error) {
	w, err := readPushFilter(q)
	if err != nil {
		return Pushes{}, err
	}
	p := Pushes{At: q.Now, Show: w.show, Figures: c.pushCounts(ctx, q), Components: c.componentAppIDs(), filter: w}
	switch w.show {
	case showRefused:
		p.Refused = []RecordedPush{}
		p.Before, err = list(ctx, c, events.StreamTraffic, []string{events.JournalFilter(events.JournalPush)}, w, recordedPush, &p.Refused)
	case showDead:
		p.Dead = []DeadLetter{}
		read := func(m *jetstream.RawStreamMsg) DeadLetter { return deadLetter(m, q) }
		p.Before, err = list(ctx, c, events.StreamDead, []string{events.DeadSubject(">")}, w, read, &p.Dead)
	default:
		p.Came = []StoredPush{}
		p.Before, err = list(ctx, c, events.StreamMessages, w.filters(), w, storedPush, &p.Came)
	}
	return p, err
}

// componentAppIDs returns the appids of the components.
func (c *Console) componentAppIDs() []string {
	all := []string{}
	for _, s := range c.index.components() {
		all = append(all, s.Key.Component)
	}
	return all
}

// filters returns the subjects of the messages and notices that are asked for.
func (w pushFilter) filters() []string {
	all := events.Kind{Component: cmp.Or(w.component, "*"), AppID: cmp.Or(w.appid, "*"), MsgType: cmp.Or(w.kind, "*")}
	notices := events.Kind{Component: all.Component, AppID: "*", MsgType: events.MsgTypeNotice}.Filters()
	if w.kind == "" {
		return append(all.Filters(), notices...)
	}
	return all.Filters()
}

// listEntry is an entry of a list.
type listEntry interface {
	matches(w pushFilter) bool
	sequence() uint64
}

// list reads the newest entries that match into out. before is the sequence before which there may be
// older ones; 0: there are none.
func list[T listEntry](ctx context.Context, c *Console, stream string, filters []string, w pushFilter,
	read func(*jetstream.RawStreamMsg) T, out *[]T) (before uint64, err error) {
	until := time.Now().Add(searchWithin)
	var seen uint64 // the oldest sequence that all filters have reached
	more := false
	for i, filter := range filters {
		found, oldest := 0, uint64(0)
		// Each filter has its share of the time: the first could leave the others none.
		searching, cancel := context.WithTimeout(ctx, time.Until(until)/time.Duration(len(filters)-i))
		left, err := c.newest(searching, stream, filter, w.before, func(m *jetstream.RawStreamMsg) bool {
			oldest = m.Sequence
			if one := read(m); one.matches(w) {
				*out = append(*out, one)
				found++
			}
			return found == w.limit
		})
		late := searching.Err() != nil
		cancel()
		switch {
		case err != nil && late && oldest > 0: // show what was found in time
			left = true
		case err != nil:
			return 0, err
		}
		if left {
			more, seen = true, max(seen, oldest)
		}
	}
	// Entries that are older than seen wait for the next page: another filter may have some between.
	*out = slices.DeleteFunc(*out, func(one T) bool { return one.sequence() < seen })
	slices.SortFunc(*out, func(a, b T) int { return cmp.Compare(b.sequence(), a.sequence()) })
	if len(*out) > w.limit {
		*out, more = (*out)[:w.limit], true
	}
	if !more {
		return 0, nil
	}
	if len(*out) == w.limit {
		return (*out)[w.limit-1].sequence(), nil
	}
	return seen, nil
}

// searchWithin bounds a search: then the page shows what was found so far.
const searchWithin = 2500 * time.Millisecond

// pushCounts adds up what ingests did.
func (c *Console) pushCounts(ctx context.Context, q *Request) PushCounts {
	sums := map[string]int64{}
	for _, t := range c.index.history() {
		if q.Now.Sub(t.To) < keptTicks {
			for name, n := range t.Counts {
				sums[name] += n
			}
		}
	}
	p := PushCounts{Taken: sums[counts.Pushes], Refused: sums[counts.Refused], Repeated: sums[counts.Repeated], Answered: []Answered{}}
	for _, b := range answerTimes {
		p.Answered = append(p.Answered, Answered{b.Param, q.Say(b.Text), sums[b.Param]})
	}
	p.Waiting, p.Dead = c.countOn(ctx, events.StreamAuth), c.countOn(ctx, events.StreamDead)
	return p
}

// countOn returns the number of messages on a stream; nil where NATS does not answer.
func (c *Console) countOn(ctx context.Context, stream string) *uint64 {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil
	}
	return &s.CachedInfo().State.Msgs
}

// answerTimes are the buckets in which answers are counted, by their time.
var answerTimes = []choice{
	{counts.Within10ms, lang.T("10 ms or less", "10 毫秒以内")},
	{counts.Within100ms, lang.T("up to 100 ms", "100 毫秒以内")},
	{counts.Within1s, lang.T("up to 1 s", "1 秒以内")},
	{counts.Within3s, lang.T("up to 3 s", "3 秒以内")},
	{counts.Later, lang.T("longer (WeChat waits 5 s)", "更久（微信只等 5 秒）")},
}

// StoredPush is a message or a notice that was stored for services.
type StoredPush struct {
	Sequence  uint64    `json:"sequence"`
	At        time.Time `json:"at"`                  // when it was stored
	CreatedAt time.Time `json:"created_at,omitzero"` // WeChat's CreateTime
	Component string    `json:"component"`
	AppID     string    `json:"appid,omitempty"`
	Kind      string    `json:"kind"`            // MsgType, or notice
	Event     string    `json:"event,omitempty"` // Event, or InfoType
	EventID   string    `json:"event_id,omitempty"`
	Bytes     int       `json:"bytes"`
	Gist      string    `json:"gist,omitempty"`

	searched string
}

// storedPush reads a message of MESSAGES.
func storedPush(m *jetstream.RawStreamMsg) StoredPush {
	kind, _ := events.ParseKind(m.Subject)
	one := StoredPush{
		Sequence: m.Sequence, At: m.Time.UTC(), Component: kind.Component,
		AppID: cmp.Or(kind.AppID, m.Header.Get("ce-subject")), Kind: kind.MsgType, Event: kind.Event,
		EventID: m.Header.Get("ce-id"), Bytes: len(m.Data),
	}
	one.CreatedAt, _ = time.Parse(time.RFC3339, m.Header.Get("ce-time"))
	document := decode(m.Data)
	one.Gist, one.searched = document.gist(), strings.ToLower(m.Subject+" "+one.AppID+" "+one.EventID+" "+document.Text)
	return one
}

func (one StoredPush) sequence() uint64 { return one.Sequence }

func (one StoredPush) matches(w pushFilter) bool {
	return (w.component == "" || one.Component == w.component) && (w.appid == "" || one.AppID == w.appid) &&
		strings.Contains(one.searched, w.text)
}

// Href leads to its page.
func (one StoredPush) Href() string {
	return "/pushes/messages/" + strconv.FormatUint(one.Sequence, 10)
}

// AccountHref leads to its account; "" where it has none.
func (one StoredPush) AccountHref() string {
	if !wxtoken.ValidAppID(one.Component) || !wxtoken.ValidAppID(one.AppID) {
		return ""
	}
	return Row{Key: wxtoken.AuthorizerKey(one.Component, one.AppID)}.Href()
}

// AppIDText is the appid as it can be shown.
func (one StoredPush) AppIDText() string { return printable(one.AppID) }

// EventIDText is the id of the event as it can be shown.
func (one StoredPush) EventIDText() string { return printable(one.EventID) }

// DisplayName is its kind, in WeChat's words.
func (one StoredPush) DisplayName() string {
	if one.Event == "" {
		return printable(one.Kind)
	}
	return printable(one.Kind + " · " + one.Event)
}

// RecordedPush is a push of which ingest left a record.
type RecordedPush struct {
	Sequence uint64 `json:"sequence"`
	events.Push

	searched string
}

// recordedPush reads a record of ingest. One that can't be parsed has no Result, and matches no filter.
func recordedPush(m *jetstream.RawStreamMsg) RecordedPush {
	one := RecordedPush{Sequence: m.Sequence, searched: strings.ToLower(string(m.Data))}
	if json.Unmarshal(m.Data, &one.Push) != nil {
		one.Push = events.Push{}
	}
	return one
}

func (one RecordedPush) sequence() uint64 { return one.Sequence }

func (one RecordedPush) matches(w pushFilter) bool {
	return one.Result != "" && (w.result == "" || one.Result == w.result) && (w.component == "" || one.Component == w.component) &&
		(w.appid == "" || one.AppID == w.appid) && (w.kind == "" || one.Kind == w.kind) && strings.Contains(one.searched, w.text)
}

// pushResults are the results that ingest records.
var pushResults = []choice{
	{"rejected", lang.T("refused", "已拒绝")},
	{"stale", lang.T("too old", "过旧")},
	{"nats_unavailable", lang.T("not stored", "未能存储")},
	{"odd", lang.T("odd, but stored", "异常但已存储")},
	{"duplicate", lang.T("repeated", "重复")},
	{"slow", lang.T("answered late", "应答过慢")},
}

// ResultText is the result in words.
func (one RecordedPush) ResultText() lang.Text {
	if i := slices.IndexFunc(pushResults, func(r choice) bool { return r.Param == one.Result }); i >= 0 {
		return pushResults[i].Text
	}
	return lang.Same(printable(one.Result))
}

// Tone is the class of its badge: that of a state with the same colour.
func (one RecordedPush) Tone() string {
	switch one.Result {
	case "rejected", "nats_unavailable":
		return "operator"
	case "duplicate":
		return ""
	}
	return "renewing_failed"
}

// What is method and path as they can be shown.
func (one RecordedPush) What() string { return printable(one.Method + " " + one.Path) }

// DetailText says why: the reason, spelled as in the log so that it can be searched there, and what was
// odd.
func (one RecordedPush) DetailText(q *Request) string {
	parts := []string{one.Reason, one.Detail}
	for _, oddity := range one.Oddities {
		kind, detail, _ := strings.Cut(oddity, ": ")
		if word, ok := oddityWords[document.Kind(kind)]; ok {
			kind = q.Say(word)
		}
		parts = append(parts, kind+": "+detail)
	}
	return printable(strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " · "))
}

// Why says what the reason means and what to do; a zero text where that is plain.
func (one RecordedPush) Why() lang.Text {
	if text, ok := pushReasons[one.Reason]; ok {
		return text
	}
	if one.Result == "slow" {
		return lang.T("a service that replies to messages is slow, or NATS is: WeChat hangs up after 5 s and pushes again", "回复消息的业务服务或 NATS 响应慢：微信 5 秒后断开并重推")
	}
	return lang.Text{}
}

// oddityWords say what was odd about a document that was stored all the same.
var oddityWords = map[document.Kind]lang.Text{
	document.Markup:     lang.T("markup that WeChat does not write", "微信不会写的标记"),
	document.Characters: lang.T("characters that XML does not have", "XML 不允许的字符"),
	document.Beside:     lang.T("text outside all fields", "字段之外的文字"),
	document.Twice:      lang.T("a name appears twice", "名字重复"),
	document.Structure:  lang.T("tags or quotes that don't fit", "标签或引号不匹配"),
	document.Bounds:     lang.T("too deep, too many or too long", "层次过深、过多或过长"),
	document.Space:      lang.T("white space where WeChat writes none", "多余的空白"),
	document.Field:      lang.T("a key field is missing or wrong", "关键字段缺失或有误"),
	document.Unreadable: lang.T("neither XML nor JSON", "既不是 XML 也不是 JSON"),
}

// pushReasons say what a reason means, and what to do where settings are wrong.
var pushReasons = map[string]lang.Text{
	"method":                             lang.T("neither POST nor GET: WeChat sends no such request", "既不是 POST 也不是 GET：微信不会发送这样的请求"),
	"encoding":                           lang.T("compressed, which WeChat never does: check the proxy in front of ingest", "内容经过压缩：微信不压缩，检查 ingest 前面的代理"),
	"too_large":                          lang.T("larger than any push of WeChat's", "超过微信推送的大小"),
	"body":                               lang.T("it did not arrive completely or in time: check the network between WeChat and ingest", "没有完整或及时到达：检查微信到 ingest 的网络"),
	"skewed":                             lang.T("its time differs from this machine's clock: check the clock", "时间与本机时钟相差较大：检查时钟"),
	"odd":                                lang.T("it was stored all the same; please report what is odd", "已照常存储；请反馈异常之处"),
	"unlisted":                           lang.T("a reason that only a newer ingest knows", "较新的 ingest 才有的原因"),
	string(wechat.ReasonQuery):           lang.T("its query can't be parsed: not a push of WeChat's", "无法解析查询串：不是微信的推送"),
	string(wechat.ReasonQueryDup):        lang.T("a parameter appears twice: not a push of WeChat's", "参数重复：不是微信的推送"),
	string(wechat.ReasonTimestamp):       lang.T("timestamp is missing or wrong: not a push of WeChat's", "timestamp 缺失或有误：不是微信的推送"),
	string(wechat.ReasonNonce):           lang.T("nonce is missing or wrong: not a push of WeChat's", "nonce 缺失或有误：不是微信的推送"),
	string(wechat.ReasonSignatureSyntax): lang.T("msg_signature is missing or wrong: choose 安全模式 on WeChat's console; or the request is not WeChat's", "msg_signature 缺失或有误：请在微信开放平台选择安全模式；也可能不是微信的请求"),
	string(wechat.ReasonEmpty):           lang.T("it is empty", "内容为空"),
	string(wechat.ReasonXML):             lang.T("its envelope is not XML as WeChat sends it", "外层不是微信发送的 XML"),
	string(wechat.ReasonXMLShape):        lang.T("its envelope is ambiguous or out of bounds", "外层 XML 有歧义或超出限制"),
	string(wechat.ReasonJSON):            lang.T("its envelope is not JSON as WeChat sends it", "外层不是微信发送的 JSON"),
	string(wechat.ReasonAppIDSyntax):     lang.T("its appid is malformed", "appid 格式不对"),
	string(wechat.ReasonField):           lang.T("a field is missing or can't be WeChat's", "字段缺失，或不是微信的值"),
	"signature":                          lang.T("compare 消息校验Token on WeChat's console with --component-token; or the push is forged", "核对微信开放平台上的消息校验Token 与 --component-token；也可能是伪造的推送"),
	"decrypt":                            lang.T("compare 消息加解密Key on WeChat's console with --component-aes-key", "核对微信开放平台上的消息加解密Key 与 --component-aes-key"),
	"appid":                              lang.T("the push is for another component: compare the URLs on WeChat's console", "推送属于另一个第三方平台：核对微信开放平台上填写的 URL"),
	"path":                               lang.T("the settings have no component at this path: compare the URLs on WeChat's console", "设置中没有此路径对应的第三方平台：核对微信开放平台上填写的 URL"),
	"no_encrypt":                         lang.T("the push is not encrypted: choose 安全模式 on WeChat's console", "推送没有加密：请在微信开放平台选择安全模式"),
	"stale":                              lang.T("check this machine's clock; or the push was held up elsewhere for a day", "检查本机时钟；或推送在别处滞留了一天"),
	"nats_unavailable":                   lang.T("check NATS; WeChat was asked to push again", "检查 NATS；已请微信重推"),
	"busy":                               lang.T("more pushes at once than one ingest can take: start another", "同时到达的推送超过单个 ingest 的处理能力：再启动一个"),
}

// Kinds are the kinds that the form offers.
func (p Pushes) Kinds() []string {
	return []string{"text", "image", "voice", "video", "event", events.MsgTypeNotice}
}

// Results are what the form offers.
func (p Pushes) Results() []choice { return pushResults }

// Filtered reports whether a filter is set.
func (p Pushes) Filtered() bool {
	w := p.filter
	return w.text+w.component+w.appid+w.kind+w.result != ""
}

// Empty reports whether the list is empty.
func (p Pushes) Empty() bool { return len(p.Came)+len(p.Refused)+len(p.Dead) == 0 }

// Older is the address of the next page, with older entries.
func (p Pushes) Older(q *Request) string { return q.With("before", strconv.FormatUint(p.Before, 10)) }

// pushedPage is the page of one message.
func (c *Console) pushedPage() Page {
	return Page{
		Path: "/pushes/messages/{sequence}", Name: "pushed", Under: "/pushes", Title: lang.T("Message", "消息"),
		Data: func(ctx context.Context, q *Request) (any, error) { return c.pushed(ctx, q) },
	}
}

// PushedDocument is what the page of one message shows.
type PushedDocument struct {
	At time.Time `json:"now"`
	StoredPush
	Subject  string   `json:"subject"`
	Document Document `json:"document"`
}

// Title is the kind of the message.
func (p PushedDocument) Title() string { return p.DisplayName() }

// SubjectText is the subject as it can be shown.
func (p PushedDocument) SubjectText() string { return printable(p.Subject) }

// pushed makes the page of one message.
func (c *Console) pushed(ctx context.Context, q *Request) (PushedDocument, error) {
	m, err := c.message(ctx, events.StreamMessages, q.PathValue("sequence"))
	if err != nil {
		return PushedDocument{}, err
	}
	return PushedDocument{At: q.Now, StoredPush: storedPush(m), Subject: m.Subject, Document: decode(m.Data)}, nil
}

// message reads one message of a stream.
func (c *Console) message(ctx context.Context, stream, sequence string) (*jetstream.RawStreamMsg, error) {
	n, err := strconv.ParseUint(sequence, 10, 64)
	if err != nil || n == 0 {
		return nil, badRequest(lang.T("want the sequence number of a message", "应为消息的序号"))
	}
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	m, err := s.GetMsg(ctx, n)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, &Fault{http.StatusNotFound, lang.T("%s has no message %d: it was processed, or has expired", "%s 中没有消息 %d：已被处理，或已过保留期", stream, n)}
	}
	return m, err
}
