package wechatsim_test

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"wxtoken/wechatsim"
)

func TestTicketsComeAndEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		began := time.Now()
		w := start(t, calmConfig())
		time.Sleep(13 * time.Hour)
		tickets := w.pushed("component_verify_ticket")
		if len(tickets) != 13*6+1 {
			t.Fatalf("%d tickets in 13 hours, want one every 10 minutes", len(tickets))
		}
		for i, ticket := range tickets {
			if want := began.Add(time.Duration(i) * 10 * time.Minute); !ticket.at.Equal(want) {
				t.Errorf("ticket %d came at %s, want %s", i, ticket.at, want)
			}
			if ticket.fields["CreateTime"] != strconv.FormatInt(ticket.at.Unix(), 10) || ticket.fields["AppId"] != compID || ticket.fields["envelope"] != compID {
				t.Errorf("ticket %d: %v", i, ticket.fields)
			}
		}
		for _, row := range []struct {
			ticket received
			want   int
		}{{tickets[0], 61005}, {tickets[7], 0}, {tickets[len(tickets)-1], 0}} {
			value := row.ticket.fields["ComponentVerifyTicket"]
			got := w.errcode(apiPath+"api_component_token", fields{"component_appid": compID, "component_appsecret": "SEKRET-appsecret", "component_verify_ticket": value})
			if got != row.want || w.p.AcceptsTicket(compID, value) != (row.want == 0) {
				t.Errorf("ticket of %s: %d, want %d", row.ticket.at, got, row.want)
			}
		}
	})
}

func TestOldTicketDies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.OldTicketDies = true
		w := start(t, config)
		first := w.last("component_verify_ticket").fields["ComponentVerifyTicket"]
		if err := w.p.PushTicket(""); err != nil {
			t.Fatal(err)
		}
		if got := w.errcode(apiPath+"api_component_token", fields{"component_appid": compID, "component_appsecret": "SEKRET-appsecret", "component_verify_ticket": first}); got != 61006 {
			t.Errorf("the older ticket: %d, want 61006", got)
		}
		w.componentToken()
	})
}

func TestTicketsAreSwitched(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.Components[0].AutoPush = false
		w := start(t, config)
		startPush := func() string {
			return w.must(apiPath+"api_start_push_ticket", fields{"component_appid": compID, "component_secret": "SEKRET-appsecret"})["errmsg"].(string)
		}
		time.Sleep(time.Hour)
		if n := len(w.pushed("")); n != 0 {
			t.Fatalf("%d pushes before api_start_push_ticket", n)
		}
		if first, second := startPush(), startPush(); first != "ok" || second != "in a normal state" {
			t.Errorf("api_start_push_ticket answers %q, then %q", first, second)
		}
		time.Sleep(time.Hour)
		if n := len(w.pushed("")); n != 6 {
			t.Errorf("%d tickets in the first hour, want 6", n)
		}
		if err := w.p.StopTickets(compID); err != nil {
			t.Fatal(err)
		}
		startPush()
		time.Sleep(time.Hour)
		if n := len(w.pushed("")); n != 6 {
			t.Errorf("%d tickets although they were stopped", n)
		}
		if err := w.p.StartTickets(compID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := len(w.pushed("")); n != 12 {
			t.Errorf("%d tickets, want 12", n)
		}
	})
}

func TestPushesPauseAfterLongFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.PausePushes = true
		w := start(t, config)
		w.setAnswer(func(received) string { return "fail" })
		time.Sleep(3 * time.Hour)
		failed := len(w.pushed("")) // the first ticket was answered
		if w.p.Truth(compID, "").TicketsPushed || failed > 1+3*8 {
			t.Fatalf("%d tries in three hours of failure, and no pause", failed)
		}
		w.setAnswer(nil)
		time.Sleep(time.Hour)
		if n := len(w.pushed("")); n != failed {
			t.Errorf("%d pushes in the pause", n-failed)
		}
		w.must(apiPath+"api_start_push_ticket", fields{"component_appid": compID, "component_secret": "SEKRET-appsecret"})
		time.Sleep(10 * time.Minute)
		if n := len(w.pushed("")); n != failed+1 {
			t.Errorf("%d pushes after api_start_push_ticket, want 1", n-failed)
		}
	})
}

// TestPushAnswers looks at what counts as an answer, and how often a push is tried.
func TestPushAnswers(t *testing.T) {
	for _, row := range []struct {
		name   string
		answer func(received) string
		retry  wechatsim.Retry
		tries  int
		want   string
	}{
		{"success", nil, wechatsim.Retry{}, 1, wechatsim.OutcomeSuccess},
		{"a line feed more", func(received) string { return "success\n" }, wechatsim.Retry{}, 3, wechatsim.OutcomeRefused},
		{"nothing", func(received) string { return "" }, wechatsim.Retry{}, 3, wechatsim.OutcomeRefused},
		{"too slow", func(received) string { time.Sleep(6 * time.Second); return "success" }, wechatsim.Retry{}, 3, wechatsim.OutcomeFailed},
		{"just in time", func(received) string { time.Sleep(4900 * time.Millisecond); return "success" }, wechatsim.Retry{}, 1, wechatsim.OutcomeSuccess},
		{"one try", func(received) string { return "" }, wechatsim.Retry{Times: 1}, 1, wechatsim.OutcomeRefused},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.PushRetry = row.retry
				config.Components[0].AutoPush = false
				w := start(t, config)
				w.setAnswer(row.answer)
				if err := w.p.Authorize(compID, accountA); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				tries := w.pushed("authorized")
				if len(tries) != row.tries {
					t.Fatalf("%d tries, want %d", len(tries), row.tries)
				}
				for i, try := range tries[1:] {
					if try.document != tries[0].document {
						t.Error("a repeat has another document")
					}
					if try.query.Get("nonce") == tries[0].query.Get("nonce") {
						t.Error("a repeat has the same nonce")
					}
					if pause := try.at.Sub(tries[i].at); pause < 5*time.Second || pause > 10*time.Second {
						t.Errorf("%s between two tries", pause)
					}
				}
				answers := w.outcomes(wechatsim.EntryPushAnswer)
				if len(answers) != row.tries || answers[len(answers)-1] != row.want {
					t.Errorf("answers %v, want %d that end with %s", answers, row.tries, row.want)
				}
			})
		})
	}
}

func TestMessages(t *testing.T) {
	key, err := wechatsim.AESKey(compKey)
	if err != nil {
		t.Fatal(err)
	}
	back := "<xml><ToUserName>oUser</ToUserName><FromUserName>" + wechatsim.OriginalID(accountA) + "</FromUserName><MsgType>text</MsgType><Content>hello back</Content></xml>"
	says := func(token, appid, document string) func(received) string {
		return func(received) string {
			encrypted, err := wechatsim.Encrypt(key, [16]byte{}, []byte(document), appid)
			if err != nil {
				return err.Error()
			}
			return "<xml><Encrypt><![CDATA[" + encrypted + "]]></Encrypt><MsgSignature>" + wechatsim.Sign(token, "1700000000", "77", encrypted) +
				"</MsgSignature><TimeStamp>1700000000</TimeStamp><Nonce>77</Nonce></xml>"
		}
	}
	reply := func(token, appid string) func(received) string { return says(token, appid, back) }
	without := func(part, instead string) func(received) string {
		return says(compToken, compID, strings.Replace(back, part, instead, 1))
	}
	for _, row := range []struct {
		name     string
		answer   func(received) string
		outcome  string
		recorded string
	}{
		{"success", nil, wechatsim.OutcomeSuccess, ""},
		{"empty", func(received) string { return "" }, wechatsim.OutcomeSuccess, ""},
		{"reply", reply(compToken, compID), wechatsim.OutcomeSuccess, back},
		{"reply signed by a stranger", reply("stranger", compID), wechatsim.OutcomeRefused, "reply: wrong MsgSignature"},
		{"reply of another component", reply(compToken, "wx0"), wechatsim.OutcomeRefused, "reply: the appid at its end is not the component's"},
		{"reply without MsgType", without("<MsgType>text</MsgType>", ""), wechatsim.OutcomeRefused, "reply: MsgType is missing"},
		{"reply to another user", without(">oUser<", ">oOther<"), wechatsim.OutcomeRefused, "reply: ToUserName is not the user who wrote"},
		{"reply of another account", without(wechatsim.OriginalID(accountA), "gh_0"), wechatsim.OutcomeRefused, "reply: FromUserName is not the account"},
		{"reply that is no document", without("</xml>", ""), wechatsim.OutcomeRefused, "reply: what was encrypted is not XML in <xml>"},
		{"clear reply", func(received) string { return back }, wechatsim.OutcomeRefused, "reply: neither empty nor success nor an encrypted reply"},
		{"text", func(received) string { return "hello" }, wechatsim.OutcomeRefused, "reply: neither empty nor success nor an encrypted reply"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.Components[0].AutoPush = false
				config.PushRetry.Times = 1
				w := start(t, config)
				if err := w.p.PushMessage(compID, accountA, wechatsim.Message{Content: "hi"}); err == nil {
					t.Error("a message to an account that does not authorize")
				}
				if err := w.p.Authorize(compID, accountA); err != nil {
					t.Fatal(err)
				}
				w.pushed("authorized")
				w.setAnswer(row.answer)
				if err := w.p.PushMessage(compID, accountA, wechatsim.Message{OpenID: "oUser", Content: "a ]]> b & <c>"}); err != nil {
					t.Fatal(err)
				}
				got := w.last("")
				if got.path != "/message/"+accountA || got.query.Get("openid") != "oUser" {
					t.Errorf("pushed to %s with openid %q", got.path, got.query.Get("openid"))
				}
				for name, want := range map[string]string{
					"envelope": wechatsim.OriginalID(accountA), "ToUserName": wechatsim.OriginalID(accountA), "FromUserName": "oUser",
					"MsgType": "text", "Content": "a ]]> b & <c>",
				} {
					if got.fields[name] != want {
						t.Errorf("%s is %q, want %q", name, got.fields[name], want)
					}
				}
				history := w.p.History()
				answer := history[len(history)-1]
				if answer.Outcome != row.outcome || answer.Text != row.recorded || answer.InfoType != "text" {
					t.Errorf("recorded %+v, want %s and %q", answer, row.outcome, row.recorded)
				}
			})
		})
	}
}

func TestEventMessageAndRawPush(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		w.pushed("") // accounts and component have no common order
		if err := w.p.Authorize(compID, accountA); err != nil {
			t.Fatal(err)
		}
		if err := w.p.PushMessage(compID, accountA, wechatsim.Message{Event: "subscribe"}); err != nil {
			t.Fatal(err)
		}
		if got := w.last(""); got.fields["MsgType"] != "event" || got.fields["Event"] != "subscribe" || got.fields["MsgId"] != "" {
			t.Errorf("event %v", got.fields)
		}
		if err := w.p.PushInfo(compID, "notify_3rd_wxa_wxverify", "appid", accountA, "message", "soon"); err != nil {
			t.Fatal(err)
		}
		if got := w.last("notify_3rd_wxa_wxverify"); got.fields["appid"] != accountA || got.fields["message"] != "soon" {
			t.Errorf("info %v", got.fields)
		}
		if w.p.PushInfo(compID, "x", "a b", "c") == nil || w.p.PushInfo(compID, "x", "a") == nil || w.p.PushInfo(compID, "") == nil {
			t.Error("names that are none were pushed")
		}
		const document = "<xml><InfoType>component_verify_ticket</InfoType><CreateTime>1</CreateTime></xml>"
		if err := w.p.PushRaw(compID, "", document); err != nil {
			t.Fatal(err)
		}
		if got := w.last(""); got.document != document || got.path != "/auth" {
			t.Errorf("raw push %q to %s", got.document, got.path)
		}
		if err := w.p.PushRaw(compID, accountB, document); err != nil {
			t.Fatal(err)
		}
		if got := w.last(""); got.document != document || got.path != "/message/"+accountB {
			t.Errorf("raw push %q to %s", got.document, got.path)
		}
	})
}

func TestQuickRegistration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		if err := w.p.Register(compID, accountA); err != nil {
			t.Fatal(err)
		}
		got := w.last("notify_third_fasteregister").fields
		if got["appid"] != accountA || got["status"] != "0" || got["info/code_type"] != "1" {
			t.Errorf("pushed %v", got)
		}
		access, _ := w.exchange(token, got["auth_code"])
		if code := w.businessErrcode(access); code != 0 {
			t.Errorf("its token is refused with %d", code)
		}
		if w.p.Register(compID, accountA) == nil {
			t.Error("registered twice")
		}
	})
}

func TestConsent(t *testing.T) {
	for _, twoCodes := range []bool{false, true} {
		t.Run(fmt.Sprintf("two codes %t", twoCodes), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.TwoCodes = twoCodes
				w := start(t, config)
				token := w.componentToken()
				preAuthCode := func() string {
					return w.must(apiPath+"api_create_preauthcode?component_access_token="+token, fields{"component_appid": compID})["pre_auth_code"].(string)
				}
				pre := preAuthCode()
				location, err := w.p.Consent(compID, accountA, pre, "https://example.com/back?id=7")
				if err != nil {
					t.Fatal(err)
				}
				u, err := url.Parse(location)
				if err != nil || u.Query().Get("id") != "7" || u.Query().Get("expires_in") != "3600" {
					t.Errorf("location %s", location)
				}
				pushed := w.last("authorized").fields
				if (u.Query().Get("auth_code") == pushed["AuthorizationCode"]) == twoCodes || pushed["PreAuthCode"] != pre {
					t.Errorf("redirect and push carry the same code: %t", !twoCodes)
				}
				w.exchange(token, u.Query().Get("auth_code"))
				if _, err := w.p.Consent(compID, accountB, pre, "https://example.com/"); err == nil {
					t.Error("a pre-auth code worked twice")
				}
				late := preAuthCode()
				time.Sleep(10 * time.Minute)
				if _, err := w.p.Consent(compID, accountB, late, "https://example.com/"); err == nil {
					t.Error("a pre-auth code worked after its life")
				}
				if _, err := w.p.Consent(compID, accountB, preAuthCode(), "nowhere"); err == nil {
					t.Error("a redirect_uri without a host")
				}
			})
		})
	}
}

// TestPushOrder looks at the order of an account's events: kept, and shuffled.
func TestPushOrder(t *testing.T) {
	for _, shuffle := range []time.Duration{0, time.Minute} {
		t.Run(shuffle.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.Components[0].AutoPush = false
				config.ShuffleWithin = shuffle
				config.Seed = 3
				w := start(t, config)
				w.setAnswer(func(received) string { time.Sleep(time.Second); return "success" })
				var sent []string
				for range 5 {
					if err := w.p.Authorize(compID, accountA); err != nil {
						t.Fatal(err)
					}
					if err := w.p.Cancel(compID, accountA); err != nil {
						t.Fatal(err)
					}
					sent = append(sent, "authorized", "unauthorized")
				}
				time.Sleep(2 * time.Minute)
				var got []string
				for _, r := range w.pushed("") {
					got = append(got, r.fields["InfoType"])
				}
				if len(got) != len(sent) || slices.Equal(got, sent) != (shuffle == 0) {
					t.Errorf("shuffled within %s, came %v", shuffle, got)
				}
			})
		})
	}
}

func TestRepeatedLateAndDroppedPushes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.Components[0].AutoPush = false
		config.RepeatPushRate, config.LatePushRate = 1, 1
		w := start(t, config)
		w.p.DropPushes("authorized", 1)
		sentAt := time.Now()
		for _, appid := range []string{accountA, accountB} {
			if err := w.p.Authorize(compID, appid); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute)
		got := w.pushed("authorized")
		if len(got) != 2 || got[0].fields["AuthorizerAppid"] != accountB || got[0].document != got[1].document {
			t.Fatalf("%d pushes, want the second account's twice", len(got))
		}
		if late := got[0].at.Sub(sentAt); late <= 0 || late > time.Minute {
			t.Errorf("%s late, want up to a tenth of 10 minutes", late)
		}
		if outcomes := w.outcomes(wechatsim.EntryPush); !slices.Contains(outcomes, wechatsim.OutcomeDropped) {
			t.Errorf("pushes %v, none dropped", outcomes)
		}
	})
}

// TestVaryingForms checks that what varies still says the same.
func TestVaryingForms(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.VaryForm = true
		config.TokenLife = 25 * time.Hour
		w := start(t, config)
		token := w.componentToken()
		cdata, bare, seconds, unix, texts, extras := 0, 0, 0, 0, 0, 0
		for i := range 100 {
			appid := fmt.Sprintf("wx%016d", i)
			if err := w.p.Authorize(compID, appid); err != nil {
				t.Fatal(err)
			}
			got := w.last("authorized")
			if strings.Contains(got.document, "<InfoType><![CDATA[") {
				cdata++
			} else {
				bare++
			}
			if got.fields["AuthorizerAppid"] != appid || got.fields["AppId"] != compID {
				t.Fatalf("%s", got.document)
			}
			switch end := got.fields["AuthorizationCodeExpiredTime"]; end {
			case "3600":
				seconds++
			case strconv.FormatInt(got.at.Add(time.Hour).Unix(), 10):
				unix++
			default:
				t.Errorf("AuthorizationCodeExpiredTime %s", end)
			}
			answer := w.must(apiPath+"api_query_auth?component_access_token="+token,
				fields{"component_appid": compID, "authorization_code": got.fields["AuthorizationCode"]})
			info := answer["authorization_info"].(fields)
			if info["expires_in"] == "90000" {
				texts++
			} else if info["expires_in"] != 90000.0 {
				t.Errorf("expires_in %v", info["expires_in"])
			}
			if _, there := info["sim_extra_field"]; there {
				extras++
			}
		}
		for name, n := range map[string]int{"CDATA": cdata, "bare": bare, "seconds": seconds, "unix": unix, "texts": texts, "extras": extras} {
			if n == 0 {
				t.Errorf("of a hundred, none with %s", name)
			}
		}
	})
}
