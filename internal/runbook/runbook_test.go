package runbook

import (
	"os"
	"slices"
	"strings"
	"testing"

	"wxtoken/internal/lang"
)

// TestEntries looks each heading up on the page of its language.
func TestEntries(t *testing.T) {
	t.Parallel()
	for language, page := range map[lang.Language]string{lang.English: "operations.md", lang.Chinese: "operations.zh-CN.md"} {
		text, err := os.ReadFile("../../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, heading := range headings[None+1:] {
			if h := heading.In(language); h == "" || !strings.Contains(string(text), "\n### "+h+"\n") {
				t.Errorf("%s has no entry %q", page, h)
			}
		}
	}
}

func TestSee(t *testing.T) {
	t.Parallel()
	if got := None.See(lang.T("wait", "等")); got != lang.T("wait", "等") {
		t.Errorf("got %q for no entry", got)
	}
	got := NoTicket.See(lang.T("wait", "等"))
	if want := "wait; runbook: " + headings[NoTicket].EN; got.EN != want {
		t.Errorf("got %q, want %q", got.EN, want)
	}
	if want := "等；运维手册：" + headings[NoTicket].ZH; got.ZH != want {
		t.Errorf("got %q, want %q", got.ZH, want)
	}
}

// TestLinks: an entry is a section of the page by the name that it has in an address, and is found where a remedy names it.
func TestLinks(t *testing.T) {
	t.Parallel()
	for e := None + 1; int(e) < len(headings); e++ {
		at := slices.IndexFunc(Sections(), func(s Section) bool { return s.Name == e.Anchor() })
		if at < 0 || !Sections()[at].Entry || Sections()[at].Heading != headings[e] {
			t.Errorf("%q is at %d of the sections", e.Anchor(), at)
		}
		both := lang.Join([]lang.Text{e.See(lang.T("wait", "等")), WeChatAway.See(lang.T("look", "看"))}, lang.T("; ", "；"))
		for _, l := range []lang.Language{lang.English, lang.Chinese} {
			for _, text := range []string{both.In(l), strings.ReplaceAll(both.In(l), "`", "")} {
				m := Mentions(text)
				if len(m) != 2 || m[0].Entry != e || m[1].Entry != WeChatAway || strings.Trim(text[m[0].From:m[0].Upto], "`") != strings.Trim(headings[e].In(l), "`") && !strings.Contains(headings[e].In(l), "`") {
					t.Errorf("%q names %+v", text, m)
				}
			}
		}
	}
	if m := Mentions("see the runbook: Nothing of that kind, 运维手册："); len(m) != 0 {
		t.Errorf("no entry is %+v", m)
	}
	for l, want := range map[lang.Language]string{lang.English: "docs/operations.md#no-ticket-arrives", lang.Chinese: "docs/operations.zh-CN.md#收不到验证票据"} {
		if got := NoTicket.Address(l); got != want {
			t.Errorf("it stands at %q, want %q", got, want)
		}
	}
}

// TestSections: each section has a name of its own and a text in both languages, and is found by a link of either page.
func TestSections(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range Sections() {
		if seen[s.Name] {
			t.Errorf("two sections are called %q", s.Name)
		}
		seen[s.Name] = true
		for _, l := range []lang.Language{lang.English, lang.Chinese} {
			if text := s.Text.In(l); len(text) < 100 || strings.Contains(text, "\n## ") || strings.Contains(text, "\n### ") || strings.Count(text, "```")%2 != 0 {
				t.Errorf("%s in %s: %q", s.Name, l, text)
			}
			_, anchor, _ := strings.Cut(s.Address(l), "#")
			if found, ok := Linked(anchor, l); !ok || found.Name != s.Name {
				t.Errorf("#%s leads to %q, want %q", anchor, found.Name, s.Name)
			}
		}
	}
	if _, ok := Linked("nowhere", lang.English); ok || len(seen) < len(headings) {
		t.Errorf("%d sections", len(seen))
	}
}
