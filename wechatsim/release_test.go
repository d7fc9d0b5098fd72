package wechatsim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// keeper answers the release check as a component has to, and can do one thing wrong.
type keeper struct {
	w     *world
	wrong string
	token string

	wg     sync.WaitGroup
	mu     sync.Mutex
	pushed []string // what came, in order
}

func (k *keeper) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	got, err := open(r.URL.Query(), body)
	if err != nil {
		k.w.t.Errorf("%v\n%s", err, body)
		return
	}
	to, content := got.fields["ToUserName"], got.fields["Content"]
	what := got.fields["InfoType"] + got.fields["Event"] + content
	code, isCode := strings.CutPrefix(content, "QUERY_AUTH_CODE:")
	if isCode {
		what = "QUERY_AUTH_CODE"
	}
	k.mu.Lock()
	k.pushed = append(k.pushed, what)
	k.mu.Unlock()
	reply := ""
	switch {
	case what == k.wrong:
		_, _ = io.WriteString(rw, "fail")
		return
	case r.URL.Path == "/auth":
	case to != wechatsim.OriginalID(strings.TrimPrefix(r.URL.Path, "/message/")):
		k.w.t.Errorf("ToUserName %s", to)
	case what == "LOCATION":
		reply = "LOCATIONfrom_callback"
	case what == "TESTCOMPONENT_MSG_TYPE_TEXT" && k.wrong == "no reply":
	case what == "TESTCOMPONENT_MSG_TYPE_TEXT" && k.wrong == "another reply":
		reply = "hello"
	case what == "TESTCOMPONENT_MSG_TYPE_TEXT":
		reply = content + "_callback"
	case isCode:
		if k.wrong == "reply to the code" {
			reply = code + "_from_api"
		}
		k.wg.Go(func() { k.send(got.fields["FromUserName"], code) })
	}
	if reply == "" {
		_, _ = io.WriteString(rw, "success")
		return
	}
	kind := "text"
	if k.wrong == "a voice" && what == "TESTCOMPONENT_MSG_TYPE_TEXT" {
		kind = "voice"
	}
	text := "<xml><ToUserName>" + got.fields["FromUserName"] + "</ToUserName><FromUserName>" + to + "</FromUserName><MsgType>" + kind + "</MsgType><Content>" + reply + "</Content></xml>"
	sealed, err := crypter(k.w.t).Answer(wechat.Opened{}, "1767571200", "77", []byte(text))
	if err != nil {
		k.w.t.Error(err)
	}
	_, _ = rw.Write(sealed.XML())
}

// send answers a code with a custom message.
func (k *keeper) send(openID, code string) {
	client := k.w.wechat()
	authorization, err := client.QueryAuth(k.w.t.Context(), k.token, compID, code)
	if err != nil {
		k.w.t.Error(err)
		return
	}
	text := code + "_from_api"
	switch k.wrong {
	case "no custom message":
		return
	case "another user":
		openID = "oOther"
	case "another text":
		text = code
	case "late":
		time.Sleep(31 * time.Second)
	case "after others":
		if err := client.SendText(k.w.t.Context(), authorization.AccessToken, openID, "hello"); err != nil {
			k.w.t.Error(err)
		}
	}
	if err := client.SendText(k.w.t.Context(), authorization.AccessToken, openID, text); err != nil && k.wrong != "late" {
		k.w.t.Error(err)
	}
}

// TestReleaseCheck plays the check against keepers that do one thing wrong.
func TestReleaseCheck(t *testing.T) {
	const official, mini = "wx570bc396a51b8ff8", "wxd101a85aa106f53e"
	for _, row := range []struct {
		account, wrong string
		step, why      string // the only one that is not OK
	}{
		{"", "", "", ""},
		{official, "", "", ""},
		{mini, "", "", ""},
		{official, "authorized", "authorized", "body is not exactly success"},
		{official, "component_verify_ticket", "component_verify_ticket", "body is not exactly success"},
		{official, "no reply", "TESTCOMPONENT_MSG_TYPE_TEXT", `answered without a reply: want the text "TESTCOMPONENT_MSG_TYPE_TEXT_callback"`},
		{official, "another reply", "TESTCOMPONENT_MSG_TYPE_TEXT", `replied with text "hello": want`},
		{official, "a voice", "TESTCOMPONENT_MSG_TYPE_TEXT", "replied with voice"},
		{official, "LOCATION", "LOCATION", "neither empty nor success nor an encrypted reply"},
		{mini, "reply to the code", "QUERY_AUTH_CODE", "answered with a reply: want success or nothing"},
		{mini, "no custom message", "custom_message", "not sent within 30s, but 0 others"},
		{mini, "another user", "custom_message", "but 1 others"},
		{mini, "another text", "custom_message", "but 1 others"},
		{mini, "late", "custom_message", "but 0 others"},
		{mini, "after others", "", ""},
		{official, "unauthorized", "unauthorized", "body is not exactly success"},
	} {
		t.Run(row.account+" "+row.wrong, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.PushRetry.Times = 1
				w := start(t, config)
				k := &keeper{w: w, wrong: row.wrong, token: w.componentToken()}
				w.setHandler(k.ServeHTTP)
				report, err := w.p.ReleaseCheck(t.Context(), compID, row.account, 0)
				if err != nil {
					t.Fatal(err)
				}
				k.wg.Wait()
				steps := []string{"authorized", "component_verify_ticket", "TESTCOMPONENT_MSG_TYPE_TEXT", "LOCATION", "QUERY_AUTH_CODE", "custom_message", "unauthorized"}
				account := official
				if row.account == mini {
					account, steps = mini, slices.Delete(steps, 2, 4)
				}
				var names []string
				for _, step := range report.Steps {
					names = append(names, step.Step)
					if step.OK != (step.Step != row.step) || step.OK != (step.Why == "") || !step.OK && !strings.Contains(step.Why, row.why) {
						t.Errorf("%s: %t %q, want only %q to fail with %q", step.Step, step.OK, step.Why, row.step, row.why)
					}
				}
				if !slices.Equal(names, steps) || report.OK != (row.step == "") || report.Component != compID || report.Authorizer != account {
					t.Errorf("report %+v, want the steps %q", report, steps)
				}
				pushed := slices.DeleteFunc(steps, func(step string) bool { return step == "custom_message" })
				if !slices.Equal(k.pushed, pushed) {
					t.Errorf("pushed %q, want %q", k.pushed, pushed)
				}
				if truth := w.p.Truth(compID, account); truth.Live || truth.Epoch != 1 {
					t.Errorf("it is still live, or authorized twice: %+v", truth)
				}
				if text := fmt.Sprint(w.p.History(), report); strings.Contains(text, "SEKRET") {
					t.Errorf("a secret in %s", text)
				}
			})
		})
	}
}

// TestReleaseAccounts has each of the ten authorize under the gh_ id that WeChat's page names.
func TestReleaseAccounts(t *testing.T) {
	t.Parallel()
	want := []string{
		"wx570bc396a51b8ff8 gh_3c884a361561", "wx9252c5e0bb1836fc gh_c0f28a78b318", "wx8e1097c5bc82cde9 gh_3f222ed8d140",
		"wx14550af28c71a144 gh_26128078e9ab", "wxa35b9c23cfe664eb gh_2b3713f184a6",
		"wxd101a85aa106f53e gh_8dad206e9538", "wxc39235c15087f6f3 gh_905ae9d01059", "wx7720d01d4b2a4500 gh_393666f1fdf4",
		"wx05d483572dcd5d8b gh_39abb5d4e1b7", "wx5910277cae6fd970 gh_7818dcb60240",
	}
	var got []string
	for _, appid := range wechatsim.ReleaseAccounts() {
		got = append(got, appid+" "+wechatsim.OriginalID(appid))
	}
	if !slices.Equal(got, want) {
		t.Errorf("accounts %q, want %q", got, want)
	}
}

func TestReleaseCheckThatCantBe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		silent := config.Components[0]
		silent.AppID, silent.MessageURL = "wx0000000000000002", ""
		config.Components = append(config.Components, silent)
		w := start(t, config)
		if err := w.p.Authorize(compID, "wx570bc396a51b8ff8"); err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct{ component, account, want string }{
			{"wx0", "", "unknown component"},
			{compID, accountA, "not one of the accounts that WeChat lends"},
			{compID, "", "already: cancel it"},
			{silent.AppID, "", "has no MessageURL"},
		} {
			if _, err := w.p.ReleaseCheck(t.Context(), row.component, row.account, 0); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%s %s: %v, want %s", row.component, row.account, err, row.want)
			}
		}
	})
}

// TestReleaseCheckStops ends a check in the middle: the account cancels all the same.
func TestReleaseCheckStops(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		k := &keeper{w: w, wrong: "no custom message", token: w.componentToken()}
		w.setHandler(k.ServeHTTP)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		report, err := w.p.ReleaseCheck(ctx, compID, wechatsim.ReleaseAccounts()[9], time.Hour)
		if !errors.Is(err, context.DeadlineExceeded) || report.OK {
			t.Errorf("%v, %+v", err, report)
		}
		if w.p.Truth(compID, wechatsim.ReleaseAccounts()[9]).Live {
			t.Error("the account still authorizes")
		}
		failed := make(chan wechatsim.ReleaseReport)
		go func() {
			report, err := w.p.ReleaseCheck(t.Context(), compID, wechatsim.ReleaseAccounts()[8], time.Hour)
			if err != nil {
				t.Error(err)
			}
			failed <- report
		}()
		time.Sleep(time.Minute)
		w.stop()
		if report := <-failed; report.OK || report.Steps[len(report.Steps)-1].Why != "the platform ended" {
			t.Errorf("%+v", report)
		}
	})
}
