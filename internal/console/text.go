package console

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
)

// table is a table for a terminal: aligned columns, with notes below a row.
type table struct {
	head  []string
	rows  [][]string
	notes [][]string // below each row
}

func (t *table) add(cells []string, notes ...string) {
	t.rows, t.notes = append(t.rows, cells), append(t.notes, notes)
}

// write writes the table.
func (t *table) write(out *bytes.Buffer) {
	widths := make([]int, len(t.head))
	for _, cells := range append([][]string{t.head}, t.rows...) {
		for i, cell := range cells {
			widths[i] = max(widths[i], columns(cell))
		}
	}
	line := func(cells []string) {
		var text strings.Builder
		for i, cell := range cells {
			text.WriteString("  " + cell + strings.Repeat(" ", widths[i]-columns(cell)))
		}
		fmt.Fprintln(out, strings.TrimRight(text.String(), " "))
	}
	line(t.head)
	for i, cells := range t.rows {
		line(cells)
		for _, note := range t.notes[i] {
			if note != "" {
				fmt.Fprintf(out, "    %s\n", note)
			}
		}
	}
}

// columns returns the width of text on a terminal, where a Chinese character takes two columns.
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

// rowTable returns a table of keys; last is the head of its last column, lastOf its cells.
func rowTable(rows []Row, q *Request, last lang.Text, lastOf func(Row) string) *table {
	t := &table{head: []string{
		"key", q.Say(lang.T("state", "状态")), q.Say(lang.T("generation", "代次")), q.Say(lang.T("expires", "过期")),
		q.Say(lang.T("next renewal", "下次续期")), q.Say(lang.T("failures", "失败次数")), q.Say(lang.T("token sha256", "令牌 sha256")), q.Say(last),
	}}
	for _, r := range rows {
		generation, left, renewal, token := "-", "-", "-", "-"
		if r.TokenSHA256 != "" {
			generation, token = strconv.FormatUint(r.Generation, 10), r.TokenSHA256
			left, renewal = q.Say(apart(r.ExpiresAt, q.Now)), q.Say(apart(r.RenewAt, q.Now))
		}
		state := "-"
		if r.State != "" {
			state = printable(string(r.State))
		}
		t.add([]string{r.Key.String(), state, generation, left, renewal, strconv.Itoa(r.Failures), token, lastOf(r)}, notesOf(r, q)...)
	}
	return t
}

// notesOf says what is wrong with a key and what to do.
func notesOf(r Row, q *Request) (notes []string) {
	if h := r.Held; h != nil {
		why := lang.Given(printable(h.Message), heldWhy(*h).ZH) // the message is English
		text := lang.T("held back: %s: %s (%s", "暂缓续期: %s: %s (%s", printable(string(h.Reason)), why, apart(h.Since, q.Now))
		if h.Until != nil && h.Until.After(q.Now) {
			at := h.Until.UTC().Format(time.DateTime)
			if truth.Ends(h.Reason) {
				text = lang.T("%s, until %s UTC", "%s, 至 %s UTC", text, at)
			} else {
				text = lang.T("%s, next try at %s UTC", "%s, %s UTC 再试", text, at)
			}
		}
		notes = append(notes, q.Say(text)+")")
	}
	if e := r.LastError; e != nil {
		notes = append(notes, q.Say(lang.T("last error: %s, %s", "最近的错误: %s, %s", r.ErrorText(), apart(e.At, q.Now))))
	}
	if r.ToDo != "" {
		notes = append(notes, "-> "+r.ToDo)
	}
	return notes
}

// writeOverview writes the first page for a terminal.
func writeOverview(out *bytes.Buffer, o Overview, q *Request) {
	fmt.Fprintln(out, o.Sentence)
	for _, more := range o.More {
		fmt.Fprintln(out, more)
	}
	fmt.Fprintf(out, "\n%s\n", q.Say(lang.T("Components", "第三方平台")))
	var rows []Row
	for _, v := range o.Components {
		rows = append(rows, v.Row)
	}
	rowTable(rows, q, lang.T("last ticket", "最近的验证票据"), func(r Row) string {
		if r.TicketReceivedAt == nil {
			return "-"
		}
		return q.Say(apart(*r.TicketReceivedAt, q.Now))
	}).write(out)
	fmt.Fprintf(out, "\n%s (%d)\n", q.Say(lang.T("Accounts", "账号")), o.Tally.Accounts)
	rowTable(o.listed, q, lang.T("nick_name", "昵称"), func(r Row) string { return printable(r.Name) }).write(out)
	if o.Tally.Accounts > len(o.listed) {
		fmt.Fprintf(out, "%s: /accounts\n", q.Say(lang.T("more", "更多")))
	}
}
