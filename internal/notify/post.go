package notify

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/lang"
)

const (
	// postWithin bounds one try.
	postWithin = 10 * time.Second
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 64 << 10
	// maxSaid is how much of a robot's error message is shown, in characters.
	maxSaid = 200
)

// Outcomes of a try, as in the metric.
const (
	outcomeOK          = "ok"
	outcomeRefused     = "refused"     // a code that is not 0, or a status that is not 2xx
	outcomeTimeout     = "timeout"     // no answer in time
	outcomeUnreachable = "unreachable" // no connection, or it broke
	outcomeGivenUp     = "given_up"    // too old, or tried too often: no more tries
)

var outcomes = []string{outcomeOK, outcomeRefused, outcomeTimeout, outcomeUnreachable, outcomeGivenUp}

// result is the result of a try.
type result struct {
	outcome string
	why     lang.Text     // without address and secret
	after   time.Duration // the receiver's Retry-After, or a robot's pause; 0 if none
}

// post makes one try.
func post(ctx context.Context, client *http.Client, r Receiver, n events.Notice, console string, now time.Time) result {
	ctx, cancel := context.WithTimeout(ctx, postWithin)
	defer cancel()
	robot := robots[r.Kind]
	address, body := robot.write(r, n, say(n, r.Language, console), now)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return result{outcome: outcomeUnreachable, why: lang.T("unusable URL", "地址不可用")}
	}
	setHeaders(req.Header, r, n, body, now)
	res, err := client.Do(req)
	if err != nil {
		timeout, why := hook.Unanswered(err)
		if timeout {
			return result{outcome: outcomeTimeout, why: why}
		}
		return result{outcome: outcomeUnreachable, why: why}
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode/100 != 2 { // its body says nothing, and that of a 101 is the connection, which ctx does not end
		return result{outcome: outcomeRefused, why: lang.T("status %d", "状态码 %d", res.StatusCode), after: hook.RetryAfter(res.Header)}
	}
	said, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case robot.judge == nil:
		return result{outcome: outcomeOK}
	case err != nil:
		return result{outcome: outcomeUnreachable, why: lang.T("the answer broke off", "应答中断")}
	}
	return judge(r, robot, said)
}

// judge returns the result that a robot's answer means: a robot reports errors in the body, with
// status 200.
func judge(r Receiver, robot robot, body []byte) result {
	code, said, ok := robot.judge(body)
	switch {
	case !ok:
		return result{outcome: outcomeRefused, why: lang.T("the answer is not a robot's", "不是机器人的应答")}
	case code == 0:
		return result{outcome: outcomeOK}
	}
	out := result{outcome: outcomeRefused, why: lang.Same("errcode " + strconv.Itoa(code))}
	if said = r.printable(said); said != "" {
		out.why = lang.Same(out.why.EN + ": " + said)
	}
	if slices.Contains(robot.busy, code) {
		out.after = robot.rest
	}
	return out
}

// printable returns what may be shown of a robot's error message: a foreign text, which must not
// repeat the secrets in the address.
func (r Receiver) printable(said string) string {
	secrets := []string{r.secret.Reveal()}
	if u, err := url.Parse(r.url); err == nil {
		secrets = append(secrets, path.Base(u.Path))
		for _, values := range u.Query() {
			secrets = append(secrets, values...)
		}
	}
	for _, secret := range secrets {
		if len(secret) > 4 && strings.Contains(said, secret) {
			return ""
		}
	}
	runes := []rune(strings.ToValidUTF8(said, "?"))
	for i, c := range runes {
		if !unicode.IsPrint(c) {
			runes[i] = ' '
		}
	}
	return strings.TrimSpace(string(runes[:min(len(runes), maxSaid)]))
}
