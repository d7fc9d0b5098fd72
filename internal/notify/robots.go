package notify

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/hook"
)

// robot is the protocol of one kind of receiver.
type robot struct {
	apart time.Duration // between two messages
	rest  time.Duration // pause after it said that there were too many
	busy  []int         // the codes that say so
	write func(r Receiver, n events.Notice, w words, now time.Time) (address string, body []byte)
	judge func(body []byte) (code int, said string, ok bool) // nil if only the HTTP status counts
}

// robots are the protocols of all kinds of receivers.
var robots = map[string]robot{
	KindWebhook: {write: plainNotice},
	// "群机器人配置说明" (developer.work.weixin.qq.com/document/path/91770): 20 messages a minute, a
	// markdown of 4096 bytes; 45009 beyond
	KindWeCom: {apart: 3100 * time.Millisecond, rest: time.Minute, busy: []int{45009}, write: wecom, judge: errcode},
	// "自定义机器人接入", "自定义机器人安全设置" (open.dingtalk.com/document/robots/custom-robot-access): 20 a
	// minute, and ten minutes of silence beyond
	KindDingTalk: {apart: 3100 * time.Millisecond, rest: 10 * time.Minute, busy: []int{130101}, write: dingtalk, judge: errcode},
	// "自定义机器人使用指南" (open.feishu.cn/document/client-docs/bot-v3/add-custom-bot): 100 a minute and 5
	// a second
	KindFeishu: {apart: time.Second, rest: time.Minute, busy: []int{9499, 11232}, write: feishu, judge: feishuCode},
}

// plainNotice writes the notice as it is on JOURNAL.
func plainNotice(r Receiver, n events.Notice, _ words, _ time.Time) (string, []byte) {
	return r.url, encode(n)
}

// encode returns JSON in which <, > and & are not escaped: robots read markup.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // can't fail for these types
	return bytes.TrimSpace(b.Bytes())
}

// wecom writes a markdown message for a group robot of WeCom (企业微信).
func wecom(r Receiver, _ events.Notice, w words, _ time.Time) (string, []byte) {
	color := "warning"
	if w.good {
		color = "info"
	}
	text := fmt.Sprintf("**<font color=%q>%s</font>**", color, w.title)
	for _, l := range w.lines {
		text += fmt.Sprintf("\n> <font color=\"comment\">%s</font> %s", l.name, l.text)
	}
	if w.link != "" {
		text += fmt.Sprintf("\n[%s](%s)", w.open, w.link)
	}
	return r.url, encode(map[string]any{"msgtype": "markdown", "markdown": map[string]string{"content": text}})
}

// dingtalk writes a markdown message for a robot of DingTalk (钉钉). With a secret (加签) the time in
// milliseconds and its signature go into the query.
func dingtalk(r Receiver, _ events.Notice, w words, now time.Time) (string, []byte) {
	text := "### " + w.title
	for _, l := range w.lines {
		text += fmt.Sprintf("\n- **%s** %s", l.name, l.text)
	}
	if w.link != "" {
		text += fmt.Sprintf("\n\n[%s](%s)", w.open, w.link)
	}
	body := encode(map[string]any{"msgtype": "markdown", "markdown": map[string]string{"title": w.title, "text": text}})
	if r.secret.IsZero() {
		return r.url, body
	}
	at := strconv.FormatInt(now.UnixMilli(), 10)
	u, err := url.Parse(r.url)
	if err != nil { // never: it was parsed once before
		return r.url, body
	}
	q := u.Query()
	q.Set("timestamp", at)
	q.Set("sign", hmacBase64(r.secret.Reveal(), at+"\n"+r.secret.Reveal()))
	u.RawQuery = q.Encode()
	return u.String(), body
}

// feishu writes a card for a robot of Feishu (飞书). With a secret (签名校验) the time in seconds and a
// signature go into the body: the HMAC of an empty text, with time and secret as the key.
func feishu(r Receiver, _ events.Notice, w words, now time.Time) (string, []byte) {
	color := "red"
	if w.good {
		color = "green"
	}
	var lines []string
	for _, l := range w.lines {
		lines = append(lines, fmt.Sprintf("**%s** %s", l.name, l.text))
	}
	elements := []any{map[string]any{"tag": "div", "text": map[string]string{"tag": "lark_md", "content": strings.Join(lines, "\n")}}}
	if w.link != "" {
		elements = append(elements, map[string]any{"tag": "action", "actions": []any{map[string]any{
			"tag": "button", "type": "primary", "url": w.link, "text": map[string]string{"tag": "plain_text", "content": w.open},
		}}})
	}
	message := map[string]any{"msg_type": "interactive", "card": map[string]any{
		"config":   map[string]bool{"wide_screen_mode": true},
		"header":   map[string]any{"template": color, "title": map[string]string{"tag": "plain_text", "content": w.title}},
		"elements": elements,
	}}
	if !r.secret.IsZero() {
		at := strconv.FormatInt(now.Unix(), 10)
		message["timestamp"], message["sign"] = at, hmacBase64(at+"\n"+r.secret.Reveal(), "")
	}
	return r.url, encode(message)
}

// hmacBase64 returns the HMAC-SHA256 of text, as robots want it.
func hmacBase64(key, text string) string {
	mac := hmac.New(sha256.New, []byte(key))
	_, _ = mac.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// errcode reads an answer of WeCom or DingTalk: {"errcode":0,"errmsg":"ok"}.
func errcode(body []byte) (code int, said string, ok bool) {
	var a struct {
		Code *int   `json:"errcode"`
		Said string `json:"errmsg"`
	}
	if json.Unmarshal(body, &a) != nil || a.Code == nil {
		return 0, "", false
	}
	return *a.Code, a.Said, true
}

// feishuCode reads an answer of Feishu: {"code":0,"msg":"success"}, in older robots
// {"StatusCode":0,"StatusMessage":"success"}.
func feishuCode(body []byte) (code int, said string, ok bool) {
	var a struct {
		Code   *int   `json:"code"`
		Msg    string `json:"msg"`
		Status *int   `json:"StatusCode"`
		Older  string `json:"StatusMessage"`
	}
	if json.Unmarshal(body, &a) != nil {
		return 0, "", false
	}
	switch {
	case a.Code != nil:
		return *a.Code, a.Msg, true
	case a.Status != nil:
		return *a.Status, a.Older, true
	}
	return 0, "", false
}

// setHeaders sets the headers that go with a body.
func setHeaders(h http.Header, r Receiver, n events.Notice, body []byte, now time.Time) {
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("User-Agent", "wxtoken")
	if r.Kind == KindWebhook {
		h.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
		hook.NewSigner(r.key).Sign(h, n.ID, now, body)
	}
}
