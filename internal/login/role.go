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
	Reader   Role = "reader"   // looks
	Operator Role = "operator" // and has things done
	Admin    Role = "admin"    // and sees tokens
)

var roles = []Role{Reader, Operator, Admin}

func (r Role) valid() bool { return slices.Contains(roles, r) }

// May reports whether the role includes what another one may do.
func (r Role) May(wanted Role) bool {
	return r.valid() && slices.Index(roles, r) >= slices.Index(roles, wanted)
}

// Person is who a request is of.
type Person struct {
	Name      string
	Role      Role
	CanLogOut bool   // there is a session that can be ended
	FormToken string // belongs into each form, as the field FormField
}

// Local is the name of every user of the page on this machine, where no login is asked for.
const Local = "local"

type personKey struct{}

// PersonOf returns the person whose request has the context; the zero Person, which may do nothing, for
// none.
func PersonOf(ctx context.Context) Person {
	p, _ := ctx.Value(personKey{}).(Person)
	return p
}

// WithPerson returns a context of a person's request.
func WithPerson(ctx context.Context, p Person) context.Context {
	return context.WithValue(ctx, personKey{}, p)
}

// namePattern is what a person can be called: letters and digits of any language, and what accounts
// and mail addresses have.
var namePattern = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N}._@+-]*$`)

var errName = errors.New("name: want letters, digits and any of . _ @ + -, 64 bytes at most, beginning with a letter or digit")

func validName(name string) bool { return len(name) <= 64 && namePattern.MatchString(name) }
