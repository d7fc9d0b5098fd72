package login

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"wxtoken/internal/settings"
)

// usersFile is the JSON of the users file.
type usersFile struct {
	Secret string  `json:"secret"` // base64; signs sessions, together with the person's password hash
	Users  []*user `json:"users"`
}

// user is a person in the file.
type user struct {
	Name     string `json:"name"`
	Role     Role   `json:"role"`
	Password string `json:"password,omitempty"` // bcrypt hash, which htpasswd -B makes too; empty: only a proxy can name the person
}

// users are the users of a file, unchangeable. The zero value has none.
type users struct {
	secret []byte
	all    []*user
}

const (
	minSecret = 32 // bytes
	// With cost, a hash takes a core about 0.2 s. Files with a cost that is too cheap, or takes
	// seconds, are refused.
	cost, minCost, maxCost = 12, 10, 15
	maxPassword            = 72 // bytes; bcrypt ignores the rest
)

// parseUsers reads a users file. The error names every fault with its place, and shows no hash and
// no secret.
func parseUsers(text []byte) (*users, error) {
	f, err := decodeUsers(text)
	if err != nil {
		return nil, err
	}
	var faults []error
	seen := map[string]bool{}
	passwords := false
	for i, u := range f.Users {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("users[%d]: "+format, append([]any{i}, args...)...))
		}
		if u == nil {
			fault("want a person")
			continue
		}
		if !validName(u.Name) {
			fault("%w", errName)
		} else if seen[u.Name] {
			fault("name: appears twice")
		}
		seen[u.Name] = true
		if !u.Role.valid() {
			fault("role: want reader, operator or admin")
		}
		if u.Password == "" {
			continue
		}
		passwords = true
		if c, err := bcrypt.Cost([]byte(u.Password)); err != nil || c < minCost || c > maxCost {
			fault("password: want a bcrypt hash with a cost of %d to %d (--make-console-user makes one, and so does htpasswd -nBC %d)", minCost, maxCost, cost)
		}
	}
	secret, err := base64.StdEncoding.DecodeString(f.Secret)
	if err != nil || passwords && len(secret) < minSecret {
		faults = append(faults, fmt.Errorf("secret: want the base64 of %d bytes or more (openssl rand -base64 %d)", minSecret, minSecret))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return &users{secret: secret, all: f.Users}, nil
}

func decodeUsers(text []byte) (f usersFile, err error) {
	err = settings.DecodeJSON(text, &f, "secret and users, and of each name, role and password")
	return f, err
}

// byName returns the person with a name.
func (u *users) byName(name string) (*user, bool) {
	i := slices.IndexFunc(u.all, func(one *user) bool { return one.Name == name })
	if i < 0 {
		return nil, false
	}
	return u.all[i], true
}

// passwords reports whether there is a person with a password.
func (u *users) passwords() bool {
	return slices.ContainsFunc(u.all, func(one *user) bool { return one.Password != "" })
}

// decoyHash is the hash of a random password. A login with an unknown name is checked against it, so that it
// takes as long as one with a known name.
var decoyHash = sync.OnceValue(func() string { return hashOf(rand.Text()) })

func hashOf(password string) string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		panic(err) // our own passwords are short, and the cost is valid
	}
	return string(hash)
}

// check reports whether a password is the person's. u may be nil, for an unknown name.
func (u *user) check(password string) bool {
	hash := ""
	if u != nil {
		hash = u.Password
	}
	if hash == "" {
		hash = decoyHash()
	}
	err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
	return err == nil && u != nil && u.Password != "" && len(password) <= maxPassword
}

// MakeUser does what --make-console-user asks for, and returns the new password.
func (c Config) MakeUser() (password string, err error) {
	name, role, err := parsePerson(c.MakeConsoleUser)
	if err == nil {
		password, err = makeUser(c.UsersFile, name, role)
	}
	if err != nil {
		return "", settings.NewError(settings.Fault("make-console-user", "%w", err))
	}
	return password, nil
}

// makeUser adds a person with a new password to a users file, or gives the person there a new one.
func makeUser(path, name string, role Role) (password string, err error) {
	f := usersFile{Secret: base64.StdEncoding.EncodeToString(randomBytes(minSecret))}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", err
	default:
		if f, err = decodeUsers(text); err != nil {
			return "", err
		}
	}
	password = rand.Text()
	made := &user{Name: name, Role: role, Password: hashOf(password)}
	if i := slices.IndexFunc(f.Users, func(u *user) bool { return u != nil && u.Name == name }); i >= 0 {
		f.Users[i] = made
	} else {
		f.Users = append(f.Users, made)
	}
	if text, err = json.MarshalIndent(f, "", "  "); err != nil {
		return "", err
	}
	if _, err := parseUsers(text); err != nil {
		return "", err
	}
	return password, replace(path, append(text, '\n'))
}

// replace writes a new file and renames it to path, so that a process that follows path never reads half a
// file. Owner and mode stay.
func replace(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".users-*") // with mode 0600
	if err != nil {
		return err
	}
	if _, err = file.Write(text); err == nil {
		if before, no := os.Stat(path); no == nil {
			err = keepOwner(file, before)
		}
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}
