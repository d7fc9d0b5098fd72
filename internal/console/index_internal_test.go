package console

import (
	"encoding/json"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	wxtoken "wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/services"
	"wxtoken/internal/truth"
)

// fill has an index know n accounts, all of them active.
func fill(tb testing.TB, x *index, n int, expires time.Time) {
	tb.Helper()
	x.beginReading(bucketTokens, n)
	x.beginReading(bucketStatus, n)
	for i := range n {
		key := wxtoken.AuthorizerKey("wxc0ffee0000000001", fmt.Sprintf("wx%016d", i))
		x.setToken(key, fmt.Appendf(nil, `{"key":%q,"value":"SEKRET-%d","generation":12,"expires_at":%q,"renew_at":%q}`, key, i, expires.Format(time.RFC3339), expires.Format(time.RFC3339)))
		status, err := json.Marshal(wxtoken.Status{Key: key, State: wxtoken.StateActive, Authorizer: &wxtoken.Authorizer{
			Ref: fmt.Sprintf("tenant-%d", i), FuncInfo: []int{1, 2, 3, 15, 18},
			Profile: map[string]json.RawMessage{"nick_name": json.RawMessage(fmt.Sprintf(`"第 %d 家小店"`, i)), "principal_name": json.RawMessage(`"某某网络科技有限公司"`)},
		}})
		if err != nil {
			tb.Fatal(err)
		}
		x.setStatus(key, status)
	}
	x.endReading(bucketTokens)
	x.endReading(bucketStatus)
}

// TestIndexForgets has what is not there any more go when all is read again, and its place taken by others.
func TestIndexForgets(t *testing.T) {
	t.Parallel()
	x, now := newIndex(), time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	fill(t, x, 100, now.Add(time.Hour))
	x.stopReading(bucketTokens)
	if x.alive() || x.loading() != nil {
		t.Error("a bucket that is not followed is not noticed")
	}
	fill(t, x, 40, now.Add(time.Hour))
	if all, _ := x.tally(now); all.Accounts != 40 || all.Serving != 40 || len(x.places) != 40 || len(x.free) != 60 {
		t.Errorf("%+v, %d places, %d free", all, len(x.places), len(x.free))
	}
	fill(t, x, 90, now.Add(time.Hour))
	if all, _ := x.tally(now); all.Accounts != 90 || len(x.rows) != 100 {
		t.Errorf("%+v, %d rows", all, len(x.rows))
	}
	key := wxtoken.AuthorizerKey("wxc0ffee0000000001", fmt.Sprintf("wx%016d", 1))
	x.setToken(key, nil)
	if all, of := x.tally(now); all.Dead != 1 || all.Serving != 89 || of["wxc0ffee0000000001"].Dead != 1 {
		t.Errorf("a deleted token: %+v", all)
	}
	x.setStatus(key, nil)
	if all, _ := x.tally(now); all.Accounts != 89 {
		t.Errorf("a deleted status: %+v", all)
	}
	if all, _ := x.tally(now.Add(2 * time.Hour)); all.Dead != 89 || all.States[wxtoken.StateActive] != 0 {
		t.Errorf("time passes: %+v", all)
	}
	if keys, total := x.find(filter{kind: wxtoken.KindAuthorizer, errcode: noErrcode, words: []string{"tenant-7"}}, now, 0, 100); total != 11 || len(keys) != 11 {
		t.Errorf("found %d, %v", total, keys)
	}
	if _, lacks := x.choices(lang.English); len(lacks) != 0 {
		t.Errorf("all granted the same: %+v", lacks)
	}
}

// TestWorst: the list begins with what an operator can mend, and of that with what most accounts suffer from.
func TestWorst(t *testing.T) {
	t.Parallel()
	x, now := newIndex(), time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	fill(t, x, 1, now.Add(time.Hour)) // one that is well
	name := "wx" + fmt.Sprintf("%016d", 0)
	want := []string{}
	for _, row := range []struct {
		accounts, code int
		state          wxtoken.State
		life           time.Duration
	}{
		{3, 61004, wxtoken.StateOperator, -time.Minute},
		{4, 61007, wxtoken.StateOperator, time.Minute},
		{2, 48001, wxtoken.StateOperator, time.Minute},
		{7, 0, wxtoken.StateActive, -time.Minute}, // held back with its component
		{6, -1, wxtoken.StateRenewingFailed, -time.Minute},
		{9, -1, wxtoken.StateRenewingFailed, time.Minute},
		{30, 61023, wxtoken.StateNeedsAuthorization, -time.Hour},
		{0, 0, wxtoken.StateActive, time.Hour},
		{1, 0, wxtoken.StateRevoked, time.Minute},
	} {
		for range row.accounts {
			key := wxtoken.AuthorizerKey("wxc0ffee0000000001", fmt.Sprintf("wxa%03d", len(want)))
			s := wxtoken.Status{Key: key, State: row.state}
			if row.code != 0 {
				s.Failures, s.LastError = 1, &wxtoken.LastError{Code: row.code}
			}
			status, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			x.setStatus(key, status)
			x.setToken(key, fmt.Appendf(nil, `{"generation":1,"expires_at":%q}`, now.Add(row.life).Format(time.RFC3339)))
			want = append(want, key.Authorizer)
		}
		if row.life == time.Hour {
			want = append(want, name)
		}
	}
	keys, _ := x.find(filter{kind: wxtoken.KindAuthorizer, errcode: noErrcode, sort: byWorst}, now, 0, 100)
	group := func(appid string) int { // accounts of one trouble are in any order
		return slices.Index(want, appid)
	}
	got := []string{}
	for _, key := range keys {
		got = append(got, key.Authorizer)
	}
	if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b string) int { return group(a) - group(b) }) {
		t.Errorf("in the order %v, want %v", got, want)
	}
}

// TestTroubles: of each trouble the account is shown whose token ends first.
func TestTroubles(t *testing.T) {
	t.Parallel()
	x, now := newIndex(), time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	fill(t, x, 5, now.Add(time.Hour))
	for i, code := range []int{61007, 61007, -1} {
		key := wxtoken.AuthorizerKey("wxc0ffee0000000001", fmt.Sprintf("wx%016d", i))
		x.setStatus(key, fmt.Appendf(nil, `{"state":"renewing_failed","failures":2,"last_error":{"code":%d}}`, code))
		x.setToken(key, fmt.Appendf(nil, `{"generation":1,"expires_at":%q}`, now.Add(time.Duration(9-i)*time.Minute).Format(time.RFC3339)))
	}
	got := x.troubles(now, 5)
	if len(got) != 2 || got[0].Cause != truth.PermissionMissing || got[0].Accounts != 2 || got[0].Dead != 0 || got[1].Cause != truth.RenewalFails || got[1].Accounts != 1 {
		t.Fatalf("%+v", got)
	}
	if first := got[0].first.Authorizer; first != fmt.Sprintf("wx%016d", 1) {
		t.Errorf("%s is shown", first)
	}
	if got := x.troubles(now, 1); len(got) != 1 || got[0].first.Authorizer == "" {
		t.Errorf("the first alone: %+v", got)
	}
	w := Worst{Row: Row{State: wxtoken.StateOperator}, trouble: truth.Trouble{Error: &wxtoken.LastError{Code: 61007}}}
	if href := w.OthersHref(); href != "/accounts?errcode=61007&state=operator" {
		t.Errorf("the others are at %s", href)
	}
}

// TestTemplates has the same figures in both languages of each text of a template, and both there.
func TestTemplates(t *testing.T) {
	t.Parallel()
	texts, verbs := regexp.MustCompile(`\bt "([^"]*)" "([^"]*)"`), regexp.MustCompile(`%[^ ]`)
	files, err := pageFiles.ReadDir("pages")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		page, err := pageFiles.ReadFile("pages/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		all := texts.FindAllStringSubmatch(string(page), -1)
		if n := len(regexp.MustCompile(`[{( ]t "`).FindAll(page, -1)); n != len(all) {
			t.Errorf("%s: %d of %d texts are in both languages", file.Name(), len(all), n)
		}
		for _, m := range all {
			found++
			if m[1] == "" || m[2] == "" || !slices.Equal(verbs.FindAllString(m[1], -1), verbs.FindAllString(m[2], -1)) {
				t.Errorf("%s: %q and %q", file.Name(), m[1], m[2])
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d texts", found)
	}
}

// TestManyStates has more different states than the index has numbers: what is one too many is not known.
func TestManyStates(t *testing.T) {
	t.Parallel()
	x := newIndex()
	for i := range 400 {
		key := wxtoken.AuthorizerKey("wxc", fmt.Sprintf("wx%d", i))
		x.setStatus(key, fmt.Appendf(nil, `{"key":%q,"state":"s%d"}`, key, i))
	}
	all, _ := x.tally(time.Now())
	if all.Accounts != 0 { // nothing is read from a beginning yet: these rows are not kept
		t.Errorf("%+v", all)
	}
	x.beginReading(bucketStatus, 0)
	for i := range 400 {
		key := wxtoken.AuthorizerKey("wxc", fmt.Sprintf("wx%d", i))
		x.setStatus(key, fmt.Appendf(nil, `{"key":%q,"state":"s%d"}`, key, i))
	}
	if all, _ := x.tally(time.Now()); all.Accounts != 400 || all.States["s3"] != 1 || all.States[""] == 0 {
		t.Errorf("%d accounts, %d unknown", all.Accounts, all.States[""])
	}
}

// BenchmarkIndex tells what an account takes in memory, and how long a million take to be counted, searched and sorted.
func BenchmarkIndex(b *testing.B) {
	const many = 1_000_000
	var before, after runtime.MemStats
	x, now := newIndex(), time.Now()
	runtime.GC()
	runtime.ReadMemStats(&before)
	fill(b, x, many, now.Add(time.Hour))
	runtime.GC()
	runtime.ReadMemStats(&after)
	perAccount := float64(after.HeapAlloc-before.HeapAlloc) / many
	for name, run := range map[string]func(){
		"count": func() { x.tally(now) },
		"worst": func() { x.find(filter{kind: wxtoken.KindAuthorizer, errcode: noErrcode, sort: byWorst}, now, 0, 50) },
		"search": func() {
			x.find(filter{kind: wxtoken.KindAuthorizer, errcode: noErrcode, words: []string{"tenant-99"}}, now, 0, 50)
		},
		"first page": func() {
			x.tally(now)
			x.upcoming(now)
			x.components()
			x.changedLast(maxChanged)
			x.troubles(now, maxWorst)
		},
		"list": func() {
			x.find(filter{kind: wxtoken.KindAuthorizer, errcode: noErrcode, sort: byWorst}, now, 0, 50)
			x.tally(now)
			x.choices(lang.English)
			x.components()
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				run()
			}
			b.ReportMetric(perAccount, "B/account")
		})
	}
}

// TestReadAgain: after a reconnect all is read once more. Until it is, nothing is said to be as it was before; and what
// gateways did counts once.
func TestReadAgain(t *testing.T) {
	t.Parallel()
	x, now := newIndex(), time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	fill(t, x, 1, now.Add(time.Hour))
	if !x.alive() {
		t.Error("all is read, and it is not said")
	}
	x.stopReading(bucketTokens)
	x.beginReading(bucketTokens, 1)
	if x.alive() {
		t.Error("the tokens of before count as those of now")
	}
	x.endReading(bucketTokens)
	if !x.alive() {
		t.Error("all is read again, and it is not said")
	}
	var all []services.ServedService
	for i := range 100 { // more than one record holds
		all = append(all, services.ServedService{
			Summary: services.Summary{Name: fmt.Sprintf("service-%d", i), Accounts: []string{strings.Repeat("x", 300)}}, Figures: services.Figures{Calls: 1},
		})
	}
	records, err := services.Records(services.Served{Role: "gateway", Instance: "a", From: now.Add(-time.Minute), To: now}, all)
	if err != nil || len(records) < 2 {
		t.Fatal(len(records), err)
	}
	for range 2 {
		for _, data := range records {
			x.addServed("journal.count.gateway.a", data)
		}
	}
	newest, sums, _ := x.servedNow(now)
	if len(newest) != 1 || len(newest[0].Services) != len(all) || len(sums) != len(all) || sums["service-7"].Calls != 1 {
		t.Errorf("%d gateways, %d services, %+v", len(newest), len(sums), sums["service-7"])
	}
}
