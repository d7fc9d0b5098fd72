package lang_test

import (
	"testing"

	"wxtoken/internal/lang"
)

func TestT(t *testing.T) {
	t.Parallel()
	inner := lang.T("one", "一")
	got := lang.T("%s of %d: %s", "%s，共 %d：%s", inner, 2, "x")
	if want := (lang.Text{EN: "one of 2: x", ZH: "一，共 2：x"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got = lang.Join([]lang.Text{inner, lang.Same("x")}, lang.T("; ", "；"))
	if want := (lang.Text{EN: "one; x", ZH: "一；x"}); got != want {
		t.Errorf("joined: %+v, want %+v", got, want)
	}
	if inner.In(lang.Chinese) != "一" || inner.In(lang.English) != "one" || inner.In("fr") != "one" {
		t.Error("a text in another language than the one that was asked for")
	}
	if inner.IsZero() || !(lang.Text{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestOfLocale(t *testing.T) {
	t.Parallel()
	for locale, want := range map[string]lang.Language{
		"zh_CN.UTF-8": lang.Chinese, "zh": lang.Chinese, "zh_TW": lang.Chinese, "zh-Hans": lang.Chinese, "ZH_cn": lang.Chinese, "zh.UTF-8": lang.Chinese,
		"": lang.English, "C": lang.English, "C.UTF-8": lang.English, "POSIX": lang.English, "en_US.UTF-8": lang.English,
		"de_DE": lang.English, "zha_CN": lang.English, "za_zh": lang.English,
	} {
		if got := lang.OfLocale(locale); got != want {
			t.Errorf("%q: got %s, want %s", locale, got, want)
		}
	}
}
