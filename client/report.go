package wxtoken

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const reportSubject = "wxtoken.reject"

// Report is the request on wxtoken.reject: WeChat refused this token. [Client.Report] sends it; a
// program without a Client sends its JSON. Either Revision or TokenSHA256 says which token of the
// key it was.
type Report struct {
	Key         Key    `json:"key"`
	Revision    uint64 `json:"revision,omitempty"`     // of the bucket's entry
	TokenSHA256 string `json:"token_sha256,omitempty"` // hex
	By          string `json:"by,omitempty"`           // what the service calls itself; see CheckName
}

// maxName is the longest such name, in bytes: "gateway/" and the longest name of a services file
// fit.
const maxName = 80

// CheckName returns an error unless a service may call itself name in a report: up to 80 ASCII
// letters, digits and any of ._:/@-, a letter or a digit first. "" is allowed, and means no name.
func CheckName(name string) error {
	for i, c := range []byte(name) {
		alphanumeric := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if i >= maxName || !alphanumeric && (i == 0 || !strings.ContainsRune("._:/@-", rune(c))) {
			return fmt.Errorf("not a name for a service (want up to %d letters, digits and any of ._:/@-, "+
				"a letter or a digit first)", maxName)
		}
	}
	return nil
}

type reporterKey struct{}

// WithName returns a context for calls that may report a token ([Client.Report], [Client.Replace],
// and requests through a [Transport]), so that they report it under name instead of Config.Name:
// for a program that calls WeChat on behalf of other services.
func WithName(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, reporterKey{}, name)
}

// Outcome is the answer to a Report.
type Outcome string

// The outcomes of a report.
const (
	OutcomeRenewing Outcome = "renewing" // the token is being replaced: wait for it with Next
	// There is a newer token already: Next returns it at once or within milliseconds.
	OutcomeAlreadyRenewed Outcome = "already_renewed"
	// The token is so young that it is hardly the reason: look for another one, report again later.
	OutcomeTooSoon    Outcome = "too_soon"
	OutcomeUnknownKey Outcome = "unknown_key" // wxtoken keeps no token for this key
)

// Report says that WeChat refused token: errcode 40001, 40014 or 42001 in the answer to a call made
// with it. It returns when a refresher has answered, and does not wait for the next token:
// [Client.Replace] does all of that. However many services report a token, it is replaced once. A
// token without a Revision, because it does not come from a Client, is reported by a digest of its
// value.
//
// It waits 5 s at most where ctx has no deadline. The error wraps ErrClosed, ErrBadKey for a
// malformed key, nats.ErrNoResponders when no refresher is listening, and
// nats.ErrPermissionViolation when this user may not report tokens.
func (c *Client) Report(ctx context.Context, token Token) (Outcome, error) {
	outcome, err := c.report(ctx, token)
	if err != nil {
		return "", fmt.Errorf("report the refused token of %s: %w", token.Key, err)
	}
	return outcome, nil
}

func (c *Client) report(ctx context.Context, token Token) (Outcome, error) {
	request := Report{Key: token.Key, Revision: token.Revision, By: c.name}
	if name, ok := ctx.Value(reporterKey{}).(string); ok {
		request.By = name
	}
	if err := CheckName(request.By); err != nil {
		return "", err
	}
	if token.Revision == 0 {
		sum := sha256.Sum256([]byte(token.Value.Reveal()))
		request.TokenSHA256 = hex.EncodeToString(sum[:])
	}
	var answer struct {
		Outcome Outcome `json:"outcome"`
	}
	err := c.request(ctx, reportSubject, request, &answer)
	refused, ok := errors.AsType[*RequestError](err)
	if ok && request.By != "" && strings.HasPrefix(refused.Message, `unknown field "by"`) {
		request.By = "" // an older refresher, from before reports had names
		err = c.request(ctx, reportSubject, request, &answer)
	}
	if err != nil {
		return "", err
	}
	if answer.Outcome == "" {
		return "", fmt.Errorf("no outcome in the answer on %s (does something else listen there?)", reportSubject)
	}
	return answer.Outcome, nil
}
