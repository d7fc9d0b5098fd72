package login

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

const (
	sessionCookie = "wxtoken_session"
	formCookie    = "wxtoken_form"
	// FormField is the field of a form in which the token comes back that Person.FormToken is.
	FormField = "form_token"

	// sessionLife is how long a login lasts, whatever is done meanwhile.
	sessionLife = 12 * time.Hour
	// skew is how far the clocks of two refreshers may be apart.
	skew = 5 * time.Minute
)

// session is what the cookie says.
type session struct {
	Name    string `json:"n"`
	Issued  int64  `json:"i"` // Unix time
	Expires int64  `json:"e"`
}

var encoding = base64.RawURLEncoding.Strict()

// key returns what signs the sessions of a person. With the hash in it, a new password ends them
// all; with the secret in it, a hash alone, once seen, makes none.
func (u *users) key(of *user) []byte {
	mac := hmac.New(sha256.New, u.secret)
	_, _ = mac.Write([]byte("wxtoken console session\n" + of.Password)) // it never fails
	return mac.Sum(nil)
}

func sign(key []byte, text string) string {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(text))
	return encoding.EncodeToString(mac.Sum(nil))
}

// issue returns a session of a person, for the cookie.
func (u *users) issue(of *user, now time.Time) string {
	text, err := json.Marshal(session{Name: of.Name, Issued: now.Unix(), Expires: now.Add(sessionLife).Unix()})
	if err != nil {
		panic(err) // a string and two numbers
	}
	body := encoding.EncodeToString(text)
	return body + "." + sign(u.key(of), body)
}

// holder returns the person whose session that is, if it is one and has not ended.
func (u *users) holder(cookie string, now time.Time) (*user, bool) {
	body, mac, ok := strings.Cut(cookie, ".")
	text, err := encoding.DecodeString(body)
	var s session
	if !ok || err != nil || json.Unmarshal(text, &s) != nil {
		return nil, false
	}
	of, ok := u.byName(s.Name)
	if !ok || of.Password == "" || subtle.ConstantTimeCompare([]byte(mac), []byte(sign(u.key(of), body))) != 1 {
		return nil, false
	}
	life := time.Duration(s.Expires-s.Issued) * time.Second
	if now.Unix() >= s.Expires || time.Unix(s.Issued, 0).After(now.Add(skew)) || life > sessionLife {
		return nil, false
	}
	return of, true
}

// formToken returns what a form of this browser brings back: the digest of cookies that no other
// page can read.
func formToken(r *http.Request, form string) string {
	sum := sha256.Sum256([]byte("wxtoken form\n" + form + "\n" + cookie(r, sessionCookie)))
	return encoding.EncodeToString(sum[:])
}

// cookie returns the value of a cookie, "" where there is none, or more than one: a page of a
// neighbouring host may have set the other.
func cookie(r *http.Request, name string) string {
	if all := r.CookiesNamed(name); len(all) == 1 {
		return all[0].Value
	}
	return ""
}

// setCookie gives the browser a cookie that scripts can't read and other sites can't have sent;
// without a value it takes it away.
func setCookie(w http.ResponseWriter, name, value string, secure bool, life time.Duration) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode}
	if c.MaxAge = int(life / time.Second); value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}
