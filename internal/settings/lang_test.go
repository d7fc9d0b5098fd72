package settings_test

import (
	"strings"
	"testing"

	"wxtoken/internal/lang"
	"wxtoken/internal/settings"
)

// It sets variables, so it is not parallel.
func TestLanguage(t *testing.T) {
	for _, row := range []struct {
		setting, all, messages, locale string
		want                           lang.Language
	}{
		{"auto", "", "", "", lang.English},
		{"", "", "", "zh_CN.UTF-8", lang.Chinese},
		{"auto", "", "", "zh_CN.UTF-8", lang.Chinese},
		{"auto", "C", "zh_CN.UTF-8", "zh_CN.UTF-8", lang.English},
		{"auto", "", "zh_TW", "en_US.UTF-8", lang.Chinese},
		{"auto", "", "en_US", "zh_CN", lang.English},
		{"en", "zh_CN", "zh_CN", "zh_CN", lang.English},
		{"zh", "C", "", "", lang.Chinese},
	} {
		t.Setenv("LC_ALL", row.all)
		t.Setenv("LC_MESSAGES", row.messages)
		t.Setenv("LANG", row.locale)
		s := settings.Operations{OpsAddr: "127.0.0.1:0", LogLevel: "info", LogFormat: "auto", Lang: row.setting}
		if err := s.Validate(); err != nil || s.Language() != row.want {
			t.Errorf("%+v: got %s, %v", row, s.Language(), err)
		}
	}
	err := settings.Operations{OpsAddr: "127.0.0.1:0", LogLevel: "info", LogFormat: "auto", Lang: "fr"}.Validate()
	if err == nil || !strings.Contains(err.Error(), `--lang (WXTOKEN_LANG): "fr" is not a language`) {
		t.Errorf("another language: %v", err)
	}
}
