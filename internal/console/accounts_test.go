package console_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	wxtoken "wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/counts"
	"wxtoken/internal/events"
)

// TestAccount is about one account: in names, not numbers.
func TestAccount(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	named := profile("小店", "小店有限公司")
	for name, value := range map[string]string{"service_type_info": `{"id":2}`, "verify_type_info": `{"id":-1}`, "account_status": `16`, "alias": `"xiaodian"`} {
		named.Profile[name] = json.RawMessage(value)
	}
	named.FuncInfo, named.Ref = []int{18, 1, 4711}, "Tenant-17"
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive, Authorizer: named, Conditions: ready(true, wxtoken.ReasonRenewed, time.Hour)})
	b.put(events.MessageSubject(component, authorizer(1).Authorizer, "event", "subscribe"), "{}")
	b.put(events.MessageSubject(component, authorizer(1).Authorizer, "text", ""), "{}")
	target := "/accounts/" + authorizer(1).String()
	body := b.shows(target, "banned", browser...)
	for _, want := range []string{
		"service account", "not verified", "banned", "小店有限公司", "xiaodian", "Tenant-17", "messages", "development and data analysis", "permission set 4711",
		"It can call WeChat. The next renewal is due in 30 s.", "<code>5575ea6b</code>", "event · subscribe", "No refresher answers",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if body := b.shows(target, "已封禁", chinese...); !strings.Contains(body, "服务号") || !strings.Contains(body, "消息管理") || !strings.Contains(body, "可以调用微信") {
		t.Errorf("not in Chinese:\n%s", body)
	}
	_, body, _ = b.ask(target+"?format=json", browser...)
	var a console.Account
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.Key != authorizer(1) || len(a.Messages) != 2 || len(a.Permissions) != 3 || a.Permissions[0].ID != 1 {
		t.Errorf("%v %s", err, body)
	}
	if status, body, _ := b.ask("/accounts/"+authorizer(99).String(), browser...); status != http.StatusNotFound || !strings.Contains(body, "no record") {
		t.Errorf("%d %s", status, body)
	}
	if _, body, _ := b.ask("/accounts/"+authorizer(2).String(), browser...); !strings.Contains(body, "It can&#39;t call WeChat: its token expired 5 s ago") {
		t.Errorf("a dead token is not told of:\n%s", body)
	}
}

// TestViews shows some of the accounts: each view is an address.
func TestViews(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	for _, row := range []struct {
		query string
		want  []int
	}{
		{"", []int{2, 5, 1, 3, 4}},
		{"sort=appid", []int{1, 2, 3, 4, 5}},
		{"sort=expires", []int{2, 1, 5, 3, 4}},
		{"sort=since", []int{2, 4, 5, 1, 3}},
		{"state=active", []int{1, 3}},
		{"state=renewing_failed", []int{2}},
		{"state=revoked", []int{4}},
		{"token=dead", []int{2}},
		{"token=valid", []int{5, 1, 3}},
		{"within=300", []int{1}},
		{"errcode=61004", []int{2}},
		{"lacks=18", []int{2}},
		{"lacks=1", nil},
		{"q=tenant", []int{1}},
		{"q=TENANT-17", []int{1}},
		{"q=bread+LTD", []int{2}},
		{"q=bread+tenant", nil},
		{"q=%E5%B0%8F%E5%BA%97", []int{1}},
		{"q=wxa000000000000003", []int{3}},
		{"component=" + component, []int{2, 5, 1, 3, 4}},
		{"component=wxother", nil},
		{"limit=2&page=2", []int{1, 3}},
	} {
		list := b.list("/accounts?format=json&" + row.query)
		var got []int
		for _, r := range list.Rows {
			var n int
			if _, err := fmt.Sscanf(r.Key.Authorizer, "wxa%d", &n); err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		if fmt.Sprint(got) != fmt.Sprint(row.want) {
			t.Errorf("%s: %v, want %v", row.query, got, row.want)
		}
		if status, _, _ := b.ask("/accounts?"+row.query, browser...); status != http.StatusOK {
			t.Errorf("%s: %d", row.query, status)
		}
	}
}

// TestCSV has a table that a spreadsheet takes for text.
func TestCSV(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, name := range []string{"=HYPERLINK(1)", "+1", "@SUM(A1)", "-2+3", "plain, \"quoted\"", "\t=1"} {
		b.status(wxtoken.Status{Key: authorizer(i), State: wxtoken.StateActive, Authorizer: profile(name, "")})
	}
	b.waitStored(6)
	status, body, header := b.ask("/accounts?format=csv&sort=appid", browser...)
	if status != http.StatusOK || header.Get("Content-Type") != "text/csv; charset=utf-8" || !strings.HasPrefix(header.Get("Content-Disposition"), "attachment") {
		t.Fatalf("%d %v %s", status, header, body)
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(body, "\ufeff"))).ReadAll()
	if err != nil || len(rows) != 7 {
		t.Fatalf("%v %d rows", err, len(rows))
	}
	for i, want := range []string{"'=HYPERLINK(1)", "'+1", "'@SUM(A1)", "'-2+3", "plain, \"quoted\"", "'\t=1"} {
		if rows[i+1][3] != want {
			t.Errorf("%q, want %q", rows[i+1][3], want)
		}
	}
}

// Ten thousand accounts are read a page at a time, in order.
func TestManyAuthorizers(t *testing.T) {
	t.Parallel()
	const many = 10_000
	b := newBench(t)
	for i := range many {
		b.status(wxtoken.Status{Key: authorizer(i), State: wxtoken.StateActive, Authorizer: profile(fmt.Sprint("name ", i), "")})
	}
	for i := range 205 {
		b.status(wxtoken.Status{Key: wxtoken.ComponentKey(fmt.Sprintf("wxc%03d", i)), State: wxtoken.StateActive})
	}
	b.waitStored(many)
	for _, page := range []int{1, 11, 20} {
		list := b.list(fmt.Sprintf("/accounts?format=json&sort=appid&limit=500&page=%d", page))
		if list.Total != many || len(list.Rows) != 500 {
			t.Fatalf("page %d: %d of %d", page, len(list.Rows), list.Total)
		}
		for i, r := range list.Rows {
			if n := (page-1)*500 + i; r.Key != authorizer(n) || r.Name != fmt.Sprint("name ", n) {
				t.Fatalf("page %d: row %d is %s %q", page, i, r.Key, r.Name)
			}
		}
	}
	if list := b.list("/accounts?format=json&q=" + authorizer(4711).Authorizer); len(list.Rows) != 1 || list.Rows[0].Key != authorizer(4711) || list.Total != 1 {
		t.Errorf("search for one: %+v", list)
	}
	if list := b.list("/accounts?format=json&page=99999"); len(list.Rows) != 0 || list.Total != many {
		t.Errorf("after the last: %d of %d", len(list.Rows), list.Total)
	}
	_, body, _ := b.ask("/?format=json")
	var o console.Overview
	if err := json.Unmarshal([]byte(body), &o); err != nil || len(o.Components) != 200 || o.LeftOut != 5 {
		t.Errorf("%v: %d components and %d more", err, len(o.Components), o.LeftOut)
	}
	if _, body, _ := b.ask("/accounts?page=100", browser...); !strings.Contains(body, `aria-current="page">100</a>`) || !strings.Contains(body, `href="/accounts?page=200"`) {
		t.Errorf("pages are not linked:\n%s", body)
	}
}

// TestHistory plots what processes wrote down, and keeps it over a restart.
func TestHistory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	for i := range 12 {
		to := now.Add(-time.Duration(i) * 10 * time.Minute)
		b.put(events.JournalSubject(events.JournalCount, "refresher", "one"), counts.Record{Role: "refresher", From: to.Add(-10 * time.Minute), To: to,
			Counts: map[string]int64{counts.Renewed: 100, counts.Failed: 2, counts.LatestMS: int64(1000 * i)}})
	}
	b.until("the plot", func() error {
		_, body, _ := b.ask("/?format=json")
		var o console.Overview
		if err := json.Unmarshal([]byte(body), &o); err != nil {
			return err
		}
		if p := o.History[0]; p.Series[0].Sum() != 1200 || p.Series[1].Sum() != 24 || p.Step != 1800 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	_, body, _ := b.ask("/", browser...)
	if !strings.Contains(body, "renewed: 1,200; failed: 24</desc>") || !strings.Contains(body, `aria-labelledby="plot-renewals-t plot-renewals-d"`) {
		t.Errorf("not drawn:\n%s", body)
	}
}
