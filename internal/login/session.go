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
	// FormField is the form field that holds Person.FormToken.
	FormField = "form_token"

	// sessionLife is how long a login lasts. Using the page does not extend it.
	sessionLife = 12 * time.Hour
	// skew is how much the clocks of two refreshers may differ.
	skew = 5 * time.Minute
)

// session is the content of the session cookie.
type session struct {
	Name    string `json:"n"`
	Issued  int64  `json:"i"` // Unix time
	Expires int64  `json:"e"`
}

var encoding = base64.RawURLEncoding.Strict()

// key returns the key that signs the sessions of a person. It depends on the hash, so that a new password
// ends them all, and on the secret, so that a leaked hash is not enough to forge one.
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

// issue returns the cookie value of a new session.
func (u *users) issue(of *user, now time.Time) string {
	text, err := json.Marshal(session{Name: of.Name, Issued: now.Unix(), Expires: now.Add(sessionLife).Unix()})
	if err != nil {
		panic(err) // a string and two numbers
	}
	body := encoding.EncodeToString(text)
	return body + "." + sign(u.key(of), body)
}

// holder returns the person of a session, if the cookie is valid and has not expired.
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

// formToken returns the token for the forms of this browser: a digest of its cookies, which pages of other
// sites can't read.
func formToken(r *http.Request, form string) string {
	sum := sha256.Sum256([]byte("wxtoken form\n" + form + "\n" + cookie(r, sessionCookie)))
	return encoding.EncodeToString(sum[:])
}

// cookie returns the value of a cookie. Two cookies with that name count as none: a neighbouring host may
// have set one.
func cookie(r *http.Request, name string) string {
	if all := r.CookiesNamed(name); len(all) == 1 {
		return all[0].Value
	}
	return ""
}

// setCookie sets a cookie that scripts can't read and other sites can't make the browser send; without a
// value it deletes the cookie.
func setCookie(w http.ResponseWriter, name, value string, secure bool, life time.Duration) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode}
	if c.MaxAge = int(life / time.Second); value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}
