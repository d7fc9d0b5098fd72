package console_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	wxtoken "wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/truth"
)

// putNotice writes a notice as a refresher does, with a time so long ago.
func (b *bench) putNotice(ago time.Duration, phase events.Phase, component string, cause wxtoken.Reason, count int, keys ...string) {
	b.t.Helper()
	c := truth.CauseOf(cause)
	d := events.NoticeData{Phase: phase, Cause: string(cause), Severity: c.Severity, Component: component, Since: now.Add(-24 * time.Hour), Count: count, Most: count, What: c.What(nil)}
	if phase != events.PhaseOver {
		d.Do, d.Keys = c.Do(nil), keys
	}
	b.put(events.JournalSubject(events.JournalNotice, component, string(cause)), events.NewNotice(now.Add(-ago), d))
}

func (b *bench) notices(query string) (n console.Notices) {
	b.t.Helper()
	_, body, _ := b.ask("/notices?format=json" + query)
	if err := json.Unmarshal([]byte(body), &n); err != nil {
		b.t.Fatalf("%v: %s", err, body)
	}
	return n
}

// causesOf are the causes in their order.
func causesOf(all []console.Notice) (causes []string) {
	for _, n := range all {
		causes = append(causes, n.Cause)
	}
	return causes
}

// TestNotices: what stands comes in the order in which it is to be looked at, with how often it was told; what is over, the newest first,
// with whom it was about; one cause that came twice is there twice.
func TestNotices(t *testing.T) {
	t.Parallel()
	const other = "wx00000000000other"
	b := newBench(t)
	b.putOneOfEach()
	if n := b.notices(""); n.Verdict != "ok" || len(n.Standing)+len(n.Over) != 0 || n.Sentence != "No notice needs a person now." {
		t.Errorf("at first: %+v", n)
	}
	b.put("journal.notice._.nothing", "not JSON")
	b.putNotice(20*time.Hour, events.PhaseBegan, component, wxtoken.HeldQuota, 2, authorizer(2).String())
	b.putNotice(19*time.Hour, events.PhaseGrew, component, wxtoken.HeldQuota, 5, authorizer(2).String())
	b.putNotice(18*time.Hour, events.PhaseOver, component, wxtoken.HeldQuota, 0)
	b.putNotice(6*time.Hour, events.PhaseBegan, component, truth.AuthorizationNeeded, 7, authorizer(5).String(), "authorizer."+component+".wxunnamed")
	b.putNotice(5*time.Hour, events.PhaseBegan, other, wxtoken.HeldQuota, 0)
	b.putNotice(4*time.Hour, events.PhaseBegan, "", truth.MirrorBehind, 1)
	b.putNotice(3*time.Hour, events.PhaseOver, "", truth.MirrorBehind, 0)
	b.putNotice(2*time.Hour, events.PhaseBegan, component, wxtoken.HeldQuota, 1)
	b.putNotice(time.Hour, events.PhaseBegan, component, truth.DeadLetters, 1)
	b.waitStored(5)
	n := b.notices("")
	if got := causesOf(n.Standing); !slices.Equal(got, []string{"QuotaGone", "DeadLetters", "QuotaGone", "AuthorizationNeeded"}) || n.Sentence != "4 problems need a person now." {
		t.Errorf("standing: %q, %s", got, n.Sentence)
	}
	if got := causesOf(n.Over); !slices.Equal(got, []string{"MirrorBehind", "QuotaGone"}) || n.Total != 2 {
		t.Errorf("over: %q", got)
	}
	past := n.Over[1]
	if past.Most != 5 || past.Count != 5 || !past.OverAt.Equal(now.Add(-18*time.Hour)) || len(past.Told) != 3 || past.Told[1].Phase != events.PhaseGrew || len(past.Keys) != 1 || past.Runbook != "/runbook/the-days-quota-is-gone" {
		t.Errorf("over: %+v", past)
	}
	for _, row := range []struct{ query, want string }{
		{"&component=" + other, "[QuotaGone] []"}, {"&cause=QuotaGone", "[QuotaGone QuotaGone] [QuotaGone]"}, {"&component=" + component + "&cause=MirrorBehind", "[] []"},
		{"&limit=1&page=2", "[QuotaGone DeadLetters QuotaGone AuthorizationNeeded] [QuotaGone]"}, {"&page=9", "[QuotaGone DeadLetters QuotaGone AuthorizationNeeded] []"},
	} {
		if n := b.notices(row.query); fmt.Sprint(causesOf(n.Standing), causesOf(n.Over)) != row.want || n.Sentence != "4 problems need a person now." {
			t.Errorf("%s: %q and %q, want %s", row.query, causesOf(n.Standing), causesOf(n.Over), row.want)
		}
	}
	for _, query := range []string{"component=no.appid", "page=0", "limit=501", "q=x"} {
		if status, body, _ := b.ask("/notices?"+query, browser...); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	for _, row := range []struct {
		headers []string
		wants   []string
	}{
		{browser, []string{"4 problems need a person now.", "7 accounts</a>", "and 5 more", `href="/runbook/an-authorizer-is-in-state-needs_authorization-or-revoked"`, `href="/accounts?component=` + component + `&amp;state=needs_authorization"`,
			`href="/accounts/` + authorizer(5).String(), "1 message</a>", `href="/pushes?component=` + component + `&amp;show=dead"`, "1 copy", "6 h"}},
		{chinese, []string{"目前有 4 个问题需要处理。", "需要商家重新授权", "当天处理", "另有 5 个", "1 条消息"}},
		{nil, []string{"4 problems need a person now.\n", "QuotaGone", "-> ", "2026-11-21 08:00:00 UTC", "Over (2)"}},
	} {
		_, body, _ := b.ask("/notices", row.headers...)
		for _, want := range row.wants {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in\n%s", want, body)
			}
		}
	}
}

// TestRunbook: the page lists all sections, and each is HTML in both languages whose links lead somewhere.
func TestRunbook(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, body, _ := b.ask("/runbook?format=json")
	var list console.Runbook
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Sections) < 40 {
		t.Fatalf("%v: %s", err, body)
	}
	for _, headers := range [][]string{browser, chinese} {
		for _, s := range list.Sections {
			status, body, _ := b.ask(s.Href, headers...)
			_, section, _ := strings.Cut(body, `<div class="prose card">`)
			section, _, _ = strings.Cut(section, "\n</div>")
			if status != http.StatusOK || !strings.Contains(section, "<p>") || strings.Contains(section, "](") || strings.Contains(section, "<!--") {
				t.Errorf("%s: %d %s", s.Href, status, section)
			}
			for _, link := range strings.Split(section, `<a href="`)[1:] {
				href, _, _ := strings.Cut(link, `"`)
				if !strings.HasPrefix(href, "https://") && !slices.ContainsFunc(list.Sections, func(s console.RunbookSection) bool { return s.Href == href }) {
					t.Errorf("%s leads to %s", s.Href, href)
				}
			}
		}
	}
	for _, want := range []string{"<table>", "<td>61009, 61010</td>", "<pre><code>nats kv get status component.$C --raw\n", `<a href="/runbook/no-ticket-arrives">No ticket arrives</a>`} {
		if _, body, _ := b.ask("/runbook/a-component-is-in-state-operator", browser...); !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}
