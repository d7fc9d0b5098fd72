package wechat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"wxtoken/internal/wechat"
)

// TestJudge is the list of errcodes of the public pages "Return_code_descriptions_new" and of the
// calls themselves, with what each asks of a keeper of tokens, on every call.
func TestJudge(t *testing.T) {
	t.Parallel()
	const (
		componentToken = wechat.APIComponentToken
		preAuthCode    = wechat.APICreatePreAuthCode
		queryAuth      = wechat.APIQueryAuth
		refresh        = wechat.APIAuthorizerToken
		info           = wechat.APIAuthorizerInfo
		list           = wechat.APIAuthorizerList
		startPush      = wechat.APIStartPushTicket
	)
	all := []wechat.API{componentToken, preAuthCode, queryAuth, refresh, info, list, startPush}
	withToken := []wechat.API{preAuthCode, queryAuth, refresh, info, list}
	for _, row := range []struct {
		verdict wechat.Verdict
		on      []wechat.API // elsewhere the verdict is operator
		codes   []int
	}{
		{wechat.Retry, all, []int{0, -1, -1000, 1, 12345, 61031, 89248, 99999, -40001}},
		{wechat.RenewComponentToken, withToken, []int{40001, 40014, 40094, 42001, 42006}},
		{wechat.WaitForTicket, []wechat.API{componentToken}, []int{40091, 61005, 61006}},
		{wechat.RecoverRefreshToken, []wechat.API{refresh}, []int{42007, 61023}},
		{wechat.Revoked, []wechat.API{queryAuth, refresh, info}, []int{50002, 61003}},
		{wechat.CodeSpent, []wechat.API{queryAuth}, []int{61009, 61010}},
		{wechat.QuotaGone, all, []int{45009}},
		{wechat.SlowDown, all, []int{45011}},
		{wechat.Operator, all, []int{
			40013, 40029, 40030, 40090, 40097, 40125, 40163, 40164, 40170, 40243,
			41001, 41002, 41004, 41018, 42002, 43002, 44002, 45035, 47001, 47002,
			48001, 48004, 48006, 48017, 49001,
			61000, 61001, 61002, 61004, 61007, 61008, 61011, 61012, 61013, 61014, 61015, 61016, 61017, 61018, 61019,
			61021, 61022, 61024, 61025, 61026, 61027, 61028, 61029, 61030, 61051, 61061, 61070,
			76001, 76002, 76003, 76004, 76021, 76022, 86000, 89000, 89004, 89249, 89255,
			89501, 89502, 89503, 89504, 89505, 89506, 89507,
		}},
	} {
		for _, code := range row.codes {
			for _, api := range all {
				want := wechat.Operator
				for _, on := range row.on {
					if on == api {
						want = row.verdict
					}
				}
				err := fmt.Errorf("renew: %w", &wechat.Error{API: api, Code: code})
				if got := wechat.Judge(err); got != want {
					t.Errorf("%s %d: got %s, want %s", api, code, got, want)
				}
			}
		}
	}
}

func TestJudgeOtherErrors(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, io.EOF, context.Canceled, context.DeadlineExceeded, errors.New("61003")} {
		if got := wechat.Judge(err); got != wechat.Retry {
			t.Errorf("%v: got %s, want retry", err, got)
		}
	}
}

func TestVerdictString(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for v := wechat.Retry; v <= wechat.Operator; v++ {
		if s := v.String(); s == "" || seen[s] {
			t.Errorf("%d has no name of its own: %q", int(v), s)
		} else {
			seen[s] = true
		}
	}
	if got := (wechat.Operator + 1).String(); got != "Verdict(10)" {
		t.Errorf("got %q for no verdict", got)
	}
	if got := wechat.Verdict(-1).String(); got != "Verdict(-1)" {
		t.Errorf("got %q for no verdict", got)
	}
}
