package console

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/language"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// view is a page in the words of one language.
type view struct {
	Language string
	Words    words
	Part     string // of an appid, that was asked for
	Now      string
	Tables   []table
	Next     string // query of the next page; "" if there is none
	Notes    []string
}

// table is one table of a page.
type table struct {
	Title string
	Head  []string
	Lines []line
}

// line is one key in a table.
type line struct {
	State string // as in the contract; "" if nothing is stored
	Cells []string
	Held  string // what keeps the tokens of a component from being renewed
	Error string
	Hint  string // what to do about it
}

// view puts p into words.
func (c *console) view(p page, q query, language string) view {
	w, now := languages[language], c.now().UTC()
	v := view{Language: language, Words: w, Part: q.part, Now: now.Format(time.DateTime) + " UTC"}
	head := func(last string) []string {
		return []string{w.Key, w.State, w.Generation, w.Left, w.Renewal, w.Failures, w.Token, last}
	}
	components := table{Title: w.Components, Head: head(w.Ticket)}
	for _, r := range p.Components {
		ticket := w.None
		if r.TicketReceivedAt != nil {
			ticket = distance(*r.TicketReceivedAt, now, w)
		}
		components.Lines = append(components.Lines, makeLine(r, ticket, now, w))
	}
	authorizers := table{Title: fmt.Sprintf("%s (%d)", w.Authorizers, p.Total), Head: head(w.Name)}
	for _, r := range p.Authorizers {
		authorizers.Lines = append(authorizers.Lines, makeLine(r, printable(r.Name), now, w))
	}
	v.Tables = []table{components, authorizers}
	if p.Next != "" {
		v.Next = q.next(p.Next)
	}
	if p.LeftOut > 0 {
		v.Notes = append(v.Notes, fmt.Sprintf("%s: %d", w.LeftOut, p.LeftOut))
	}
	if p.Unreadable > 0 {
		v.Notes = append(v.Notes, fmt.Sprintf("%s: %d", w.Unreadable, p.Unreadable))
	}
	return v
}

func makeLine(r row, last string, now time.Time, w words) line {
	generation, left, renewal, token := w.None, w.None, w.None, w.None
	if r.TokenSHA256 != "" {
		generation, token = strconv.FormatUint(r.Generation, 10), r.TokenSHA256
		left, renewal = distance(r.ExpiresAt, now, w), distance(r.RenewAt, now, w)
	}
	state := w.None
	if r.State != "" {
		state = w.state(r.State)
	}
	l := line{State: string(r.State), Cells: []string{r.Key.String(), state, generation, left, renewal, strconv.Itoa(r.Failures), token, last}}
	if h := r.Held; h != nil {
		l.Held = fmt.Sprintf("%s: %s: %s (%s", w.Held, printable(string(h.Reason)), printable(h.Message), distance(h.Since, now, w))
		if h.Until != nil && h.Until.After(now) {
			l.Held += ", " + fmt.Sprintf(w.Until, h.Until.UTC().Format(time.DateTime))
		}
		l.Held += ")"
	}
	if e := r.LastError; e != nil {
		l.Error = fmt.Sprintf("%s: %s", w.LastError, printable(e.Message))
		if e.Code != 0 && !strings.Contains(e.Message, strconv.Itoa(e.Code)) {
			l.Error += fmt.Sprintf(" (errcode %d)", e.Code)
		}
		if e.RID != "" && !strings.Contains(e.Message, e.RID) {
			l.Error += fmt.Sprintf(" (rid %s)", printable(e.RID))
		}
		l.Error += ", " + distance(e.At, now, w)
		refusal := wechat.Error{API: wechat.API(e.API), Code: e.Code, Message: e.Message}
		l.Hint = refusal.Remedy().In(w.language) // our own words
	}
	return l
}

// distance says how far at lies from now, with two units at most.
func distance(at, now time.Time, w words) string {
	d := at.Sub(now)
	text := span(d.Abs())
	if d < 0 {
		return fmt.Sprintf(w.Ago, text)
	}
	return fmt.Sprintf(w.In, text)
}

func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// maxText bounds a foreign text, in characters.
const maxText = 200

// printable takes out of a foreign text what a terminal would obey and what turns a line around.
func printable(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "\uFFFD"))
	if len(runes) > maxText {
		runes = append(runes[:maxText], '…')
	}
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = '\uFFFD'
		}
	}
	return string(runes)
}

// writeText writes a view for a terminal.
func writeText(out *bytes.Buffer, v view) {
	for _, t := range v.Tables {
		fmt.Fprintf(out, "%s\n", t.Title)
		widths := make([]int, len(t.Head))
		measure := func(cells []string) {
			for i, cell := range cells {
				widths[i] = max(widths[i], columns(cell))
			}
		}
		write := func(cells []string) {
			var text strings.Builder
			for i, cell := range cells {
				text.WriteString("  " + cell + strings.Repeat(" ", widths[i]-columns(cell)))
			}
			fmt.Fprintln(out, strings.TrimRight(text.String(), " "))
		}
		measure(t.Head)
		for _, l := range t.Lines {
			measure(l.Cells)
		}
		write(t.Head)
		for _, l := range t.Lines {
			write(l.Cells)
			if l.Held != "" {
				fmt.Fprintf(out, "    %s\n", l.Held)
			}
			if l.Error != "" {
				fmt.Fprintf(out, "    %s\n", l.Error)
			}
			if l.Hint != "" {
				fmt.Fprintf(out, "    -> %s\n", l.Hint)
			}
		}
		out.WriteByte('\n')
	}
	for _, note := range v.Notes {
		fmt.Fprintln(out, note)
	}
	if v.Next != "" {
		fmt.Fprintf(out, "%s: /%s\n", v.Words.More, v.Next)
	}
}

// columns returns how wide text stands on a terminal, where a Chinese character takes two columns.
func columns(text string) int {
	n := 0
	for _, r := range text {
		n++
		if unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul) || r >= 0x3000 && r <= 0x303F || r >= 0xFF01 && r <= 0xFF60 {
			n++
		}
	}
	return n
}

// words are the texts of the page in one language.
type words struct {
	Title, Components, Authorizers, Search, More, Empty                  string
	Key, State, Generation, Left, Renewal, Failures, Token, Ticket, Name string
	LastError, None, In, Ago, LeftOut, Unreadable, Held, Until           string

	language lang.Language
	states   map[wxtoken.State]string
}

// state returns the word for a state; the contract's own is part of it.
func (w words) state(s wxtoken.State) string {
	if word, ok := w.states[s]; ok {
		return word
	}
	return printable(string(s))
}

var languages = map[string]words{
	"en": {
		language: lang.English,
		Title:    "wxtoken", Components: "Components", Authorizers: "Authorizers", Search: "appid or part of it", More: "more", Empty: "none",
		Key: "key", State: "state", Generation: "generation", Left: "expires", Renewal: "next renewal", Failures: "failures", Token: "token sha256", Ticket: "last ticket", Name: "nick_name",
		LastError: "last error", None: "-", In: "in %s", Ago: "%s ago", LeftOut: "components not shown", Unreadable: "subjects that are not keys",
		Held: "held back", Until: "until %s UTC",
	},
	"zh": {
		language: lang.Chinese,
		Title:    "wxtoken", Components: "第三方平台", Authorizers: "授权方", Search: "appid 或其中一部分", More: "更多", Empty: "无",
		Key: "键", State: "状态", Generation: "代次", Left: "过期", Renewal: "下次续期", Failures: "失败次数", Token: "令牌 sha256", Ticket: "最近的验证票据", Name: "昵称",
		LastError: "最近的错误", None: "-", In: "%s 后", Ago: "%s 前", LeftOut: "未列出的第三方平台", Unreadable: "不是键的主题",
		Held: "暂缓续期", Until: "至 %s UTC",
		states: map[wxtoken.State]string{
			wxtoken.StateActive:             "正常 active",
			wxtoken.StateRenewingFailed:     "续期失败，重试中 renewing_failed",
			wxtoken.StateNeedsAuthorization: "需重新授权 needs_authorization",
			wxtoken.StateRevoked:            "已取消授权 revoked",
			wxtoken.StateWaitingForTicket:   "等待验证票据 waiting_for_ticket",
			wxtoken.StateOperator:           "需运维处理 operator",
		},
	},
}

// matcher chooses among the languages of the page; the first is for those who want another.
var matcher = language.NewMatcher([]language.Tag{language.English, language.Chinese, language.TraditionalChinese})

// preferred returns the language of the page that an Accept-Language header likes best.
func preferred(header string) string {
	tag, _ := language.MatchStrings(matcher, header)
	base, _ := tag.Base()
	return base.String()
}
