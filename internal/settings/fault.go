package settings

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// envPrefix begins the name of every variable.
const envPrefix = "WXTOKEN"

// Error holds all that is wrong with settings.
type Error struct {
	Faults []error // each names the flag and the variable, and says what to do
}

// Error returns the faults, one a line.
func (e *Error) Error() string {
	lines := []string{"settings refused"}
	for _, fault := range e.Faults {
		lines = append(lines, "  "+fault.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults.
func (e *Error) Unwrap() []error { return e.Faults }

// NewError returns the faults as an *Error, without repeats, or nil when there are none.
func NewError(faults ...error) error {
	seen := map[string]bool{}
	var e Error
	for _, fault := range leaves(errors.Join(faults...)) {
		if text := fault.Error(); !seen[text] {
			seen[text] = true
			e.Faults = append(e.Faults, fault)
		}
	}
	if len(e.Faults) == 0 {
		return nil
	}
	return &e
}

// leaves splits errors of errors.Join and NewError into their parts, and nothing else: an error that adds words
// of its own stays whole.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	_, ours := err.(*Error)
	if !ours && errors.Join(many.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	var out []error
	for _, e := range many.Unwrap() {
		out = append(out, leaves(e)...)
	}
	return out
}

// Fault returns an error about a setting. It begins with the flag and its variable, "--nats-url
// (WXTOKEN_NATS_URL): "; format and args are those of fmt.Errorf.
func Fault(flag, format string, args ...any) error {
	return fmt.Errorf("%s: %w", Name(flag), fmt.Errorf(format, args...))
}

// Name returns both names of a setting, as errors and remedies show them: "--nats-url
// (WXTOKEN_NATS_URL)".
func Name(flag string) string { return "--" + flag + " (" + Variable(flag) + ")" }

// Variable returns the name of the environment variable of a flag.
func Variable(flag string) string {
	return envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// userinfo is the part of a URL that may hold a password or a token.
var userinfo = regexp.MustCompile(`//[^/\s,]*@`)

// Redact removes user and password from the URLs in text.
func Redact(text string) string { return userinfo.ReplaceAllString(text, "//[redacted]@") }
