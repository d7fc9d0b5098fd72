package login

import (
	"context"
	"errors"
	"regexp"
	"slices"
)

// Role is what a person may do.
type Role string

// The roles. Each may do what those before it may.
const (
	Reader   Role = "reader"   // may look
	Operator Role = "operator" // may also use the buttons
	Admin    Role = "admin"    // may also see tokens
)

var roles = []Role{Reader, Operator, Admin}

func (r Role) valid() bool { return slices.Contains(roles, r) }

// May reports whether the role includes another one.
func (r Role) May(wanted Role) bool {
	return r.valid() && slices.Index(roles, r) >= slices.Index(roles, wanted)
}

// Person is the person who sends a request.
type Person struct {
	Name      string
	Role      Role
	CanLogOut bool   // there is a session to end
	FormToken string // must be in each form, as the field FormField
}

// Local is the name of every person on this machine while no login is set up.
const Local = "local"

type personKey struct{}

// PersonOf returns the person of a request by its context; the zero Person, who may do nothing, if there is
// none.
func PersonOf(ctx context.Context) Person {
	p, _ := ctx.Value(personKey{}).(Person)
	return p
}

// WithPerson returns a context for a person's request.
func WithPerson(ctx context.Context, p Person) context.Context {
	return context.WithValue(ctx, personKey{}, p)
}

// namePattern matches names of persons: letters and digits of any language, and the other characters of
// account names and mail addresses.
var namePattern = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N}._@+-]*$`)

var errName = errors.New("name: want letters, digits and any of . _ @ + -, 64 bytes at most, beginning with a letter or digit")

func validName(name string) bool { return len(name) <= 64 && namePattern.MatchString(name) }
