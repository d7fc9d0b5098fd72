package wechatsim_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/internal/logtest"
	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// TestNothingTellsSecrets lives an unkind day and looks for each secret in the history, the truth
// and the log.
func TestNothingTellsSecrets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.VaryForm = true
		config.Rotation = wechatsim.RotateEach
		log := &logtest.Buffer{}
		config.Log = zerolog.New(log).Level(zerolog.DebugLevel)
		w := start(t, config)
		token := w.componentToken()
		access, refresh := w.account(token, accountA)
		for range 5 {
			_, refresh = w.refresh(token, accountA, refresh)
		}
		// A service that answers the release test sends the code back as a message.
		code := w.last("authorized").fields["AuthorizationCode"]
		w.must("/cgi-bin/message/custom/send?access_token="+access, fields{"touser": "o", "text": fields{"content": code + "_from_api"}})
		// Callers mix fields up.
		w.errcode(apiPath+"api_authorizer_token?component_access_token="+token, fields{"component_appid": refresh, "authorizer_appid": refresh})
		w.errcode(apiPath+"api_component_token", fields{"component_appid": "SEKRET-appsecret"})
		w.errcode(apiPath+refresh, fields{})
		if _, err := w.wechat().Ticket(t.Context(), access, wechat.TicketJSAPI); err != nil {
			t.Fatal(err)
		}
		l := w.link(token)
		form := w.visit(l.PC("http://api"), l.RedirectURI).forms[0]
		w.visit(l.PC("http://api"), "https://"+l.PreAuthCode+"/")
		if _, failure := w.submit(form); failure != "" {
			t.Fatal(failure)
		}
		form.Set("authorizer", refresh)
		w.submit(form)
		l.Component = refresh
		w.visit(l.PC("http://api"), l.RedirectURI)
		if _, err := w.p.ReleaseCheck(t.Context(), compID, "", time.Second); err != nil {
			t.Fatal(err)
		}
		if err := w.p.Reauthorize(compID, accountA); err != nil {
			t.Fatal(err)
		}
		if err := w.p.Cancel(compID, accountA); err != nil {
			t.Fatal(err)
		}
		w.setAnswer(func(r received) string { return r.document })
		if err := w.p.PushTicket(compID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		w.stop()

		history, err := json.Marshal(w.p.History())
		if err != nil {
			t.Fatal(err)
		}
		truth, err := json.Marshal(w.p.Truths())
		if err != nil {
			t.Fatal(err)
		}
		secrets := w.p.Secrets()
		if len(secrets) < 150 || len(log.String()) == 0 {
			t.Fatalf("%d secrets, %d bytes of log: the day was too quiet", len(secrets), len(log.String()))
		}
		for place, text := range map[string][]byte{"history": history, "truth": truth, "log": []byte(log.String())} {
			for _, secret := range append(secrets, "SEKRET") {
				if bytes.Contains(text, []byte(secret)) {
					t.Errorf("the %s shows %s", place, secret)
				}
			}
		}
		if !bytes.Contains(history, []byte("sha256:"+wechatsim.Fingerprint(code+"_from_api"))) {
			t.Error("the customer message can't be found by its fingerprint")
		}
	})
}

// TestHistory reads the history of one short life.
func TestHistory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		_, refresh := w.account(token, accountA)
		access, _ := w.refresh(token, accountA, refresh)
		if err := w.p.Cancel(compID, accountA); err != nil {
			t.Fatal(err)
		}
		w.pushed("unauthorized")
		var got []string
		for i, e := range w.p.History() {
			if e.Seq != i+1 || e.Component != compID || e.Time.Location() != time.UTC {
				t.Errorf("entry %+v", e)
			}
			line := fmt.Sprint(e.Kind, " ", e.What, e.InfoType, e.API, " ", e.Outcome)
			if e.Generation > 0 {
				line += fmt.Sprint(e.Generation)
			}
			got = append(got, line)
		}
		want := []string{
			"issue ticket 1", "push component_verify_ticket sent", "push_answer component_verify_ticket success",
			"issue component_access_token 1", "call api_component_token answered",
			"issue pre_auth_code ", "authorize  1", "issue refresh_token 1", "issue auth_code 1", "push authorized sent", "push_answer authorized success",
			"issue authorizer_access_token 1", "call api_query_auth answered",
			"invalidate authorizer_access_token 1", "issue authorizer_access_token 2", "call api_authorizer_token answered",
			"cancel  1", "invalidate refresh_token 1", "invalidate authorizer_access_token 1", "invalidate authorizer_access_token 2",
			"push unauthorized sent", "push_answer unauthorized success",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("history\n%q, want\n%q", got, want)
		}
		for _, e := range w.p.History() {
			if e.Kind == wechatsim.EntryIssue && e.Generation == 2 && e.Secret != wechatsim.Fingerprint(access) {
				t.Errorf("issued %s, want %s", e.Secret, wechatsim.Fingerprint(access))
			}
			if e.Kind == wechatsim.EntryCall && e.API == "api_authorizer_token" && e.RefreshGeneration != 1 {
				t.Errorf("refresh with refresh token %d, want 1", e.RefreshGeneration)
			}
		}
		last := len(want)
		if newer := w.p.HistorySince(last - 2); len(newer) != 2 || newer[0].Seq != last-1 {
			t.Errorf("since %d: %+v", last-2, newer)
		}
		w.p.ClearHistory()
		w.p.SetDown(true)
		if h := w.p.History(); len(h) != 1 || h[0].Seq != last+1 {
			t.Errorf("after clearing: %+v", h)
		}
		if h := w.p.HistorySince(3); len(h) != 1 {
			t.Errorf("since before the clearing: %+v", h)
		}
		if h := w.p.HistorySince(last + 50); len(h) != 0 {
			t.Errorf("since the future: %+v", h)
		}
	})
}

func TestTruth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		if truth := w.p.Truth("wx0", accountA); truth.Live || truth.Epoch != 0 {
			t.Errorf("truth of an unknown component: %+v", truth)
		}
		token := w.componentToken()
		first, refresh := w.account(token, accountA)
		access, _ := w.refresh(token, accountA, refresh)
		truth := w.p.Truth(compID, accountA)
		want := wechatsim.Truth{
			Component: compID, Authorizer: accountA, Live: true, Exchanged: true, AuthTime: time.Now().UTC(), Epoch: 1,
			RefreshToken: wechatsim.Fingerprint(refresh), RefreshGeneration: 1,
			Token: wechatsim.Fingerprint(access), Generation: 2, ValidUntil: time.Now().Add(2 * time.Hour).UTC(),
		}
		if truth != want {
			t.Errorf("truth\n%+v, want\n%+v", truth, want)
		}
		if c := w.p.Truth(compID, ""); c.Authorizers != 1 || c.Token != wechatsim.Fingerprint(token) || c.TicketNumber != 1 {
			t.Errorf("truth of the component: %+v", c)
		}
		if all := w.p.Truths(); len(all) != 2 || all[1] != want {
			t.Errorf("truths %+v", all)
		}
		judge := func(value string) wechatsim.Judgement {
			sum := sha256.Sum256([]byte(value))
			return w.p.Judge(hex.EncodeToString(sum[:]))
		}
		if j := judge(first); !j.Known || !j.Valid || j.Newest || j.Generation != 1 || j.Authorizer != accountA {
			t.Errorf("judgement of the replaced token: %+v", j)
		}
		if j := w.p.Judge(wechatsim.Fingerprint(access)); !j.Valid || !j.Newest {
			t.Errorf("judgement of the newest token: %+v", j)
		}
		if j := judge(token); !j.Newest || j.Component != compID || j.Authorizer != "" {
			t.Errorf("judgement of the component token: %+v", j)
		}
		if w.p.Judge("").Known || judge("x").Known {
			t.Error("it knows what it never issued")
		}
		time.Sleep(5 * time.Minute)
		if judge(first).Valid || w.p.Accepts(compID, accountB, access) || w.p.Accepts(compID, "", access) || w.p.Accepts("wx0", accountA, access) {
			t.Error("it accepts what it must not")
		}
	})
}
