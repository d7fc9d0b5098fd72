// Package lang holds texts for operators and merchants in both of their languages. The two texts stand side by
// side where they are used; there are no catalogues.
package lang

import (
	"errors"
	"fmt"
	"strings"
)

// Language is one of the languages.
type Language string

// The languages.
const (
	English Language = "en"
	Chinese Language = "zh"
)

// Text is a text in both languages.
type Text struct {
	EN string `json:"en"`
	ZH string `json:"zh"`
}

// T returns a text, formatted as by fmt.Sprintf; an argument that is a Text, or an error of Error, is inserted in
// the same language.
// en and zh are literals with the same verbs: TestTexts checks all calls.
func T(en, zh string, args ...any) Text {
	return Text{fmt.Sprintf(en, in(English, args)...), fmt.Sprintf(zh, in(Chinese, args)...)}
}

// Same returns a text that is the same in both languages: names, numbers, another program's words.
func Same(text string) Text { return Text{text, text} }

// Given returns a text from elsewhere, such as the settings, that is given in both languages.
func Given(en, zh string) Text { return Text{en, zh} }

// Join joins texts, as strings.Join does.
func Join(texts []Text, separator Text) (joined Text) {
	en, zh := make([]string, len(texts)), make([]string, len(texts))
	for i, t := range texts {
		en[i], zh[i] = t.EN, t.ZH
	}
	return Text{strings.Join(en, separator.EN), strings.Join(zh, separator.ZH)}
}

// In returns the text in a language; English for an unknown one.
func (t Text) In(l Language) string {
	if l == Chinese {
		return t.ZH
	}
	return t.EN
}

// IsZero reports whether the text is empty.
func (t Text) IsZero() bool { return t == Text{} }

// in returns args with each Text, and each error, in one language.
func in(l Language, args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch t := arg.(type) {
		case Text:
			arg = t.In(l)
		case error:
			arg = Of(t).In(l)
		}
		out[i] = arg
	}
	return out
}

// textError is an error of Error.
type textError struct {
	text  Text
	cause error
}

func (e *textError) Error() string { return e.text.EN }
func (e *textError) Unwrap() error { return e.cause }
func (e *textError) Text() Text    { return e.text }

// Error returns an error with a text in both languages; its Error is the English one, which goes to logs. cause, if
// not nil, is what it wraps, and is to be in the text.
func Error(text Text, cause error) error { return &textError{text, cause} }

// Of returns the text of an error: in both languages where it is, or wraps, one with a method Text. What others said,
// WeChat or NATS, stays as it is.
func Of(err error) Text {
	if t, ok := err.(interface{ Text() Text }); ok {
		return t.Text()
	}
	if cause := errors.Unwrap(err); cause != nil {
		if before, ok := strings.CutSuffix(err.Error(), cause.Error()); ok {
			text := Of(cause)
			return Text{before + text.EN, before + text.ZH}
		}
	}
	return Same(err.Error())
}

// OfLocale returns the language of a POSIX locale ("zh_CN.UTF-8"): Chinese for the language zh, English for
// all others.
func OfLocale(locale string) Language {
	language, _, _ := strings.Cut(strings.ToLower(locale), "_")
	language, _, _ = strings.Cut(language, ".")
	language, _, _ = strings.Cut(language, "-")
	if language == "zh" {
		return Chinese
	}
	return English
}
