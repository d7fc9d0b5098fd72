package login_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/internal/login"
	"wxtoken/internal/natsd/natsdtest"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		cfg  login.Config
		want string // part of the fault; "" for none
	}{
		{login.Config{}, ""},
		{login.Config{UserHeader: "Remote-User", RoleHeader: "Remote-Groups", Proxies: []string{"10.1.2.3", "fd00::/8"}}, ""},
		{login.Config{Proxies: []string{"10.1.2.3"}}, ""}, // whose addresses are told by it
		{login.Config{UserHeader: "Remote-User"}, "--console-proxies (WXTOKEN_CONSOLE_PROXIES): none"},
		{login.Config{UserHeader: "Remote User", Proxies: []string{"10.1.2.3"}}, "not the name of a header"},
		{login.Config{RoleHeader: "Remote-Groups", Proxies: []string{"10.1.2.3"}}, "--console-user-header"},
		{login.Config{Proxies: []string{"proxy"}}, `"proxy" is not an address`},
		{login.Config{MakeConsoleUser: "li:admin"}, "--console-users-file"},
		{login.Config{MakeConsoleUser: "li", UsersFile: "x"}, "name:role"},
		{login.Config{MakeConsoleUser: "li:root", UsersFile: "x"}, "name:role"},
		{login.Config{MakeConsoleUser: "li li:admin", UsersFile: "x"}, "name: want"},
	} {
		err := row.cfg.Validate()
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%+v: %v, want %q", row.cfg, err, row.want)
		}
	}
}

// TestFaultyUsers starts with a users file that can't be used. The error shows nothing of a hash or the secret.
func TestFaultyUsers(t *testing.T) {
	t.Parallel()
	nc := natsdtest.Start(t).Connect()
	good := hash(t, "SEKRET")
	for text, want := range map[string]string{
		"":                           "unexpected end",
		"SEKRET":                     "invalid JSON at byte 1",
		`{"secret":"` + secret + `"`: "unexpected end",
		`{"sekret":"SEKRET"}`:        "unknown field",
		`{"users":[{"name":7}]}`:     "users.name",
		`{"users":[null]}`:           "users[0]: want a person",
		`{"users":[]} {}`:            "text after the JSON object",
		`{"secret":"SEKRET!"}`:       "secret: want the base64",
		`{"users":[{"name":"a b"}]}`: "users[0]: name: want",
		`{"users":[{"name":"li"}]}`:  "role: want reader, operator or admin",
		`{"users":[{"name":"li","role":"admin"},{"name":"li","role":"reader"}]}`:                                  "appears twice",
		`{"users":[{"name":"li","role":"admin","password":"` + good + `"}]}`:                                      "secret: want the base64 of 32",
		`{"secret":"` + secret + `","users":[{"name":"li","role":"admin","password":"SEKRET"}]}`:                  "bcrypt hash",
		`{"secret":"` + secret + `","users":[{"name":"li","role":"admin","password":"$2a$04$` + good[7:] + `"}]}`: "cost of 10 to 15",
	} {
		path := filepath.Join(t.TempDir(), "users.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := login.New(login.Config{UsersFile: path}, login.Deps{NATS: nc, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Now: time.Now})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SEKRET") || strings.Contains(err.Error(), good[7:]) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	_, err := login.New(login.Config{UsersFile: filepath.Join(t.TempDir(), "none")}, login.Deps{NATS: nc, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Now: time.Now})
	if err == nil || !strings.Contains(err.Error(), "--console-users-file (WXTOKEN_CONSOLE_USERS_FILE)") {
		t.Errorf("no file: %v", err)
	}
}

// TestMake makes a users file, and changes it.
func TestMake(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.json")
	made := func(who string) string {
		t.Helper()
		password, err := login.Config{UsersFile: path, MakeConsoleUser: who}.MakeUser()
		if err != nil {
			t.Fatal(err)
		}
		return password
	}
	first := made("li:admin")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	wang := made("wang:reader")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), first) || strings.Contains(string(text), wang) {
		t.Error("a password stands in the file")
	}
	d := open(t, login.Config{}, text)
	if a := d.browser().login("li", first); a.header.Get("Location") == "" {
		t.Errorf("li: %d", a.status)
	}
	second := made("li:operator")
	if text, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	// As htpasswd writes it.
	d = open(t, login.Config{}, []byte(strings.ReplaceAll(string(text), "$2a$", "$2y$")))
	d.browser().login("li", first).want(t, "the password before", 401, "wrong")
	b := d.browser()
	b.login("li", second)
	b.get("/").want(t, "the new one", 200, "li is operator")
	b = d.browser()
	b.login("wang", wang)
	b.get("/").want(t, "another person", 200, "wang is reader")
	d.browser().login("li", second+strings.Repeat("x", 80)).want(t, "a password that is too long", 401, "wrong")

	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (login.Config{UsersFile: path, MakeConsoleUser: "li:admin"}).MakeUser(); err == nil {
		t.Error("a faulty file is written over")
	}
}
