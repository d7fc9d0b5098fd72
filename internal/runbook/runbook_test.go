package runbook

import (
	"os"
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
