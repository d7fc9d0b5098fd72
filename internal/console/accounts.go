package console

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// Bounds of a list.
const (
	defaultLimit = 50
	maxLimit     = 500
	maxQuery     = 128   // bytes of a search
	maxCSV       = 5_000 // rows of one file: each is read from NATS
)

// accountsPage is the list of accounts.
func (c *Console) accountsPage() Page {
	return Page{
		Path: "/accounts", Name: "accounts", Nav: lang.T("Accounts", "账号"), Title: lang.T("Accounts", "账号"),
		Params: []string{"q", "state", "token", "component", "lacks", "within", "errcode", "kind", "sort", "page", "limit"},
		Data:   func(ctx context.Context, q *Request) (any, error) { return c.accounts(ctx, q) },
		Text:   func(out *bytes.Buffer, data any, q *Request) { writeAccounts(out, data.(Accounts), q) },
		CSV:    func(out io.Writer, data any, q *Request) error { return writeCSV(out, data.(Accounts)) },
	}
}

// Accounts is what a list shows.
type Accounts struct {
	At       time.Time      `json:"at"`
	Loading  *loading       `json:"loading,omitempty"`
	Total    int            `json:"total"` // accounts that match, on all pages
	Page     int            `json:"page"`  // from 1
	Limit    int            `json:"limit"`
	Rows     []Row          `json:"accounts"`
	Tally    *Tally         `json:"all_accounts"` // of all accounts, whatever the filter
	Errcodes []errcodeCount `json:"errcodes"`

	Components []string    `json:"components"`
	Lacks      []lackCount `json:"permission_sets_lacking"`

	query *Request
}

// readFilter reads which accounts are asked for, and which part of the list.
func readFilter(q *Request) (f filter, page, limit int, err error) {
	get := func(name string) string { return strings.TrimSpace(q.Query.Get(name)) }
	f = filter{
		kind: wxtoken.Kind(cmp.Or(get("kind"), string(wxtoken.KindAuthorizer))), state: wxtoken.State(get("state")), token: get("token"),
		component: get("component"), errcode: noErrcode, sort: cmp.Or(get("sort"), byWorst),
		words: strings.Fields(strings.ToLower(get("q"))),
	}
	if f.state == unknownState {
		f.state, f.unknown = "", true
	}
	_, known := stateWords[f.state]
	switch {
	case !slices.Contains(kinds, f.kind):
		return f, 0, 0, badRequest(lang.T("kind: want authorizer, component, jsapi_ticket or wx_card_ticket", "kind：可以是 authorizer、component、jsapi_ticket 或 wx_card_ticket"))
	case !known:
		return f, 0, 0, badRequest(lang.T("state: want a state such as active or needs_authorization, or unknown", "state：请给出状态，例如 active、needs_authorization，或 unknown"))
	case f.token != "" && f.token != tokenValid && f.token != tokenDead:
		return f, 0, 0, badRequest(lang.T("token: want valid or dead", "token：只能是 valid 或 dead"))
	case f.component != "" && !wxtoken.ValidAppID(f.component):
		return f, 0, 0, badRequest(lang.T("component: want an appid", "component：请给出 appid"))
	case !slices.Contains(orders, f.sort):
		return f, 0, 0, badRequest(lang.T("sort: want %s", "sort：可以是 %s", strings.Join(orders, ", ")))
	case len(q.Query.Get("q")) > maxQuery:
		return f, 0, 0, badRequest(lang.T("q: %d bytes at most", "q：最多 %d 字节", maxQuery))
	}
	number := func(name string, least, most, otherwise int) int {
		text := get(name)
		if text == "" || err != nil {
			return otherwise
		}
		n, fault := strconv.Atoi(text)
		if fault != nil || n < least || n > most {
			err = badRequest(lang.T("%s: want %d to %d", "%s：应在 %d 到 %d 之间", name, least, most))
		}
		return n
	}
	if get("lacks") != "" {
		f.lacks = fmt.Sprintf(",%d,", number("lacks", 1, 1<<20, 0))
	}
	if get("errcode") != "" {
		f.errcode = int32(number("errcode", -1<<20, 1<<30, 0))
	}
	f.within = time.Duration(number("within", 1, 1<<20, 0)) * time.Second
	most, otherwise := maxLimit, defaultLimit
	if q.format == "csv" {
		most, otherwise = maxCSV, maxCSV
	}
	limit = number("limit", 1, most, otherwise)
	page = number("page", 1, 1<<20, 1)
	return f, page, limit, err
}

// accounts makes the list.
func (c *Console) accounts(ctx context.Context, q *Request) (Accounts, error) {
	f, page, limit, err := readFilter(q)
	if err != nil {
		return Accounts{}, err
	}
	from := (page - 1) * limit
	keys, total := c.index.find(f, q.Now, from, limit)
	rows, err := c.rowsOf(ctx, q, keys)
	if err != nil {
		return Accounts{}, err
	}
	all, _ := c.index.tally(q.Now)
	a := Accounts{
		At: q.Now, Loading: c.index.loading(), Total: total, Page: page, Limit: limit, Rows: rows, Tally: all,
		Components: c.componentAppIDs(), query: q,
	}
	a.Errcodes, a.Lacks = c.index.choices(q.Language)
	return a, nil
}

// Pager are the links to the pages of a list.
type Pager struct {
	Pages int
	Links []PagerLink
}

// PagerLink is one of these links, or a gap between two.
type PagerLink struct {
	Href, Text string
	Current    bool
	Gap        bool
}

// Pager returns links to the first and the last page and those around this one.
func (a Accounts) Pager() Pager { return pager(a.query, a.Page, a.Total, a.Limit) }

func pager(q *Request, page, total, limit int) Pager {
	p := Pager{Pages: (total + limit - 1) / limit}
	last := 0
	for i := 1; i <= p.Pages; i++ {
		if i > 2 && i < p.Pages-1 && (i < page-2 || i > page+2) {
			continue
		}
		if i != last+1 {
			p.Links = append(p.Links, PagerLink{Gap: true})
		}
		last = i
		number := strconv.Itoa(i)
		if i == 1 {
			number = ""
		}
		p.Links = append(p.Links, PagerLink{Href: q.With("page", number), Text: strconv.Itoa(i), Current: i == page})
	}
	return p
}

// writeAccounts writes a list for a terminal.
func writeAccounts(out *bytes.Buffer, a Accounts, q *Request) {
	fmt.Fprintf(out, "%s (%d)\n", q.Say(lang.T("Accounts", "账号")), a.Total)
	rowTable(a.Rows, q, lang.T("nick_name", "昵称"), func(r Row) string { return printable(r.Name) }).write(out)
	if a.Page*a.Limit < a.Total {
		fmt.Fprintf(out, "%s: %s\n", q.Say(lang.T("more", "更多")), q.With("page", strconv.Itoa(a.Page+1)))
	}
}

// writeCSV writes a list for a spreadsheet. The byte order mark makes Excel read it as UTF-8.
func writeCSV(out io.Writer, a Accounts) error {
	if _, err := io.WriteString(out, "\ufeff"); err != nil {
		return err
	}
	rows := [][]string{{"key", "state", "token_valid", "nick_name", "principal_name", "ref", "generation", "expires_at", "renew_at",
		"failures", "errcode", "last_error", "last_error_at", "to_do"}}
	for _, r := range a.Rows {
		var code, message, at string
		if e := r.LastError; e != nil {
			code, message, at = strconv.Itoa(e.Code), e.Message, stamp(e.At)
		}
		rows = append(rows, []string{r.Key.String(), string(r.State), strconv.FormatBool(r.Valid), r.Name, r.Principal, r.Ref, strconv.FormatUint(r.Generation, 10),
			stamp(r.ExpiresAt), stamp(r.RenewAt), strconv.Itoa(r.Failures), code, message, at, r.ToDo})
	}
	return writeCells(out, rows)
}

// writeCells writes rows for a spreadsheet.
func writeCells(out io.Writer, rows [][]string) error {
	for _, cells := range rows {
		for i, cell := range cells {
			cells[i] = cellText(cell)
		}
	}
	return csv.NewWriter(out).WriteAll(rows)
}

// cellText makes a text safe for a spreadsheet, which would run one that begins like a formula. A
// negative number is harmless.
func cellText(text string) string {
	begins := strings.TrimLeft(text, " ")
	if begins == "" || !strings.Contains("=+-@\t\r|%", begins[:1]) {
		return text
	}
	if _, err := strconv.Atoi(text); err == nil && text[0] == '-' {
		return text
	}
	return "'" + text
}

// stamp writes a time for a program; "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
