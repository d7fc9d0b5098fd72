package settings

import (
	"fmt"
	"os"

	"wxtoken/internal/lang"
)

// langAuto takes the language from the environment.
const langAuto = "auto"

// Language returns the language of --lang. With auto it is that of the first of LC_ALL, LC_MESSAGES and LANG that
// is set, as in POSIX (XBD 8.2).
func (s Operations) Language() lang.Language {
	if s.Lang != langAuto && s.Lang != "" {
		return lang.Language(s.Lang)
	}
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if locale := os.Getenv(name); locale != "" {
			return lang.OfLocale(locale)
		}
	}
	return lang.English
}

// checkLang returns an error for an unknown language.
func checkLang(name string) error {
	switch name {
	case "", langAuto, string(lang.English), string(lang.Chinese):
		return nil
	}
	return fmt.Errorf("%q is not a language: want en, zh or auto", name)
}
