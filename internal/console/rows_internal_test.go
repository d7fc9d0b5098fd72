package console

import (
	"errors"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/wechat"
)

// TestErrorText: of a last error WeChat's words stay as they are, and our own are in both languages.
func TestErrorText(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err    error
		en, zh string
	}{
		{&wechat.Error{API: wechat.APIAuthorizerToken, Code: 48001, Message: "api unauthorized", RID: "r-1"}, "errcode 48001: api unauthorized", "errcode 48001: api unauthorized"},
		{&wechat.Error{API: wechat.APIAuthorizerToken, Message: "no answer: EOF"}, "api_authorizer_token: no answer: EOF", "api_authorizer_token：没有应答：EOF"},
		{&wechat.Error{API: wechat.APIAuthorizerToken, Message: "the answer makes no sense: x"}, "the answer makes no sense: x", "应答无法理解：x"},
		{account.ErrNoRefreshToken, "WeChat gave no refresh token", "微信没有给该账号的刷新令牌"},
		{errors.New("else"), "else", "else"},
	} {
		text := Row{LastError: account.LastError(time.Now(), row.err)}.ErrorText()
		if !strings.Contains(text.EN, row.en) || !strings.Contains(text.ZH, row.zh) {
			t.Errorf("%v: %+v", row.err, text)
		}
	}
	if text := (Row{LastError: (*wxtoken.LastError)(nil)}).ErrorText(); !text.IsZero() {
		t.Errorf("of none: %+v", text)
	}
}
