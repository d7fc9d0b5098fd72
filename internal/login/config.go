package login

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"wxtoken/internal/settings"
)

// Config is what an operator can set.
type Config struct {
	UsersFile       string   `name:"console-users-file" group:"Operator's page" placeholder:"file" help:"File with the people who may use the operator's page: name, role (reader, operator or admin) and password hash (docs/console-rights.md). It is read again when it changes. Without it and without --console-user-header, only this machine can use the page, and everyone on it is an admin."`
	UserHeader      string   `name:"console-user-header" group:"Operator's page" placeholder:"header" help:"Header in which a proxy that logs people in names the person, for instance Remote-User. It counts only in requests from --console-proxies."`
	RoleHeader      string   `name:"console-role-header" group:"Operator's page" placeholder:"header" help:"Header in which that proxy names the person's role, or several, separated by commas. Without it the users file has the role, and a person who is not in it is a reader."`
	Proxies         []string `name:"console-proxies" group:"Operator's page" placeholder:"addresses" help:"Addresses of that proxy, or networks (10.0.0.0/8), separated by commas. The client address that it names counts too, as with --trusted-proxies."`
	MakeConsoleUser string   `name:"make-console-user" group:"Operator's page" placeholder:"name:role" help:"Add a person with a new password to --console-users-file (made if it is missing), print the password, and exit. A person who is in it already gets a new password."`
}

// Validate returns all that is wrong with the settings, joined.
func (c Config) Validate() error {
	var faults []error
	fault := func(flag, format string, args ...any) {
		faults = append(faults, settings.Fault(flag, format, args...))
	}
	for flag, name := range map[string]string{"console-user-header": c.UserHeader, "console-role-header": c.RoleHeader} {
		if name != "" && !headerName(name) {
			fault(flag, "%q is not the name of a header: want letters, digits and -, for instance Remote-User", name)
		}
	}
	if c.RoleHeader != "" && c.UserHeader == "" {
		fault("console-role-header", "want %s too: a role without a name belongs to no one", settings.Name("console-user-header"))
	}
	if c.UserHeader != "" && len(c.Proxies) == 0 {
		fault("console-proxies", "none: any client could set %s itself (name the proxy's address, for instance 127.0.0.1)", c.UserHeader)
	}
	if _, err := c.proxies(); err != nil {
		faults = append(faults, err)
	}
	if c.MakeConsoleUser != "" {
		if c.UsersFile == "" {
			fault("make-console-user", "want %s too, the file to add the person to", settings.Name("console-users-file"))
		}
		if _, _, err := parsePerson(c.MakeConsoleUser); err != nil {
			fault("make-console-user", "%w", err)
		}
	}
	return errors.Join(faults...)
}

// headerName reports whether a header can have a name: letters, digits and -, which every proxy can set.
func headerName(name string) bool {
	return strings.Trim(http.CanonicalHeaderKey(name), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// proxies returns the networks of Proxies.
func (c Config) proxies() ([]netip.Prefix, error) {
	return settings.Networks("console-proxies", c.Proxies)
}

// parsePerson reads name:role.
func parsePerson(text string) (name string, role Role, err error) {
	name, word, ok := strings.Cut(text, ":")
	role = Role(word)
	switch {
	case !ok || !role.valid():
		return "", "", fmt.Errorf("want name:role, with reader, operator or admin as role")
	case !validName(name):
		return "", "", errName
	}
	return name, role, nil
}
