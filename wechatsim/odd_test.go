package wechatsim_test

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"wxtoken/wechatsim"
)

var encryptIn = regexp.MustCompile(`Encrypt["> \n:]*(?:<!\[CDATA\[)?([A-Za-z0-9+/=]{40,})`)

// TestOddPushes has each oddity once, and looks for its mark in what comes and for what the push
// says.
func TestOddPushes(t *testing.T) {
	marks := map[wechatsim.Oddity]string{
		wechatsim.OddAttribute: `<note lang="`, wechatsim.OddComment: "<!--", wechatsim.OddControl: "o\x1dd\x00d", wechatsim.OddNotUTF8: "odd\xe5\x90]",
		wechatsim.OddTextBeside: "odd", wechatsim.OddWrongEndTag: "</remark>", wechatsim.OddCDATAEnd: "]]> 1]]>", wechatsim.OddName: "<备注>",
		wechatsim.OddOwnLines: "<InfoType>\n  ", wechatsim.OddTwice: "</note><note>", wechatsim.OddEncrypt: "<Encrypt>\n", wechatsim.OddClearField: "o\x1dd",
	}
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.Components[0].AutoPush = false
		w := start(t, config)
		var came []string
		w.handler = func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			key, err := wechatsim.AESKey(compKey)
			if err != nil {
				t.Error(err)
			}
			match := encryptIn.FindSubmatch(body)
			if match == nil {
				t.Errorf("no Encrypt in %q", body)
				return
			}
			document, _, err := wechatsim.Decrypt(key, string(match[1]))
			if err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			came = append(came, string(body)+string(document))
			w.mu.Unlock()
			_, _ = io.WriteString(rw, "success")
		}
		all := wechatsim.Oddities()
		if err := w.p.OddPushes("component_verify_ticket", len(all), ""); err != nil {
			t.Fatal(err)
		}
		for range len(all) + 1 {
			if err := w.p.PushTicket(compID); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(came) != len(all)+1 {
			t.Fatalf("%d pushes, want %d", len(came), len(all)+1)
		}
		for i, oddity := range all {
			if !strings.Contains(came[i], marks[oddity]) || !strings.Contains(came[i], "ticket@@@") {
				t.Errorf("%s: %q, want %q in it, and a ticket", oddity, came[i], marks[oddity])
			}
		}
		if last := came[len(all)]; strings.Contains(last, "note") || strings.Contains(last, "odd") {
			t.Errorf("odd for longer than asked: %q", last)
		}
	})
}

func TestOddPushesOfOneKindInJSON(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		w.account(w.componentToken(), accountA)
		bodies := make(chan string, 1)
		w.mu.Lock()
		w.handler = func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if strings.HasPrefix(r.URL.Path, "/message") {
				bodies <- string(body)
			}
			_, _ = io.WriteString(rw, "success")
		}
		w.mu.Unlock()
		if err := w.p.OddPushes("text", 1, wechatsim.OddClearField); err != nil {
			t.Fatal(err)
		}
		if err := w.p.PushMessage(compID, accountA, wechatsim.Message{Content: "hi", JSON: true}); err != nil {
			t.Fatal(err)
		}
		if body := <-bodies; !strings.HasPrefix(body, "{\"Content\":\"o\x02d\"") {
			t.Errorf("envelope %q", body)
		}
		if w.p.OddPushes("", 0, "") == nil || w.p.OddPushes("", 1, "round") == nil {
			t.Error("no pushes, or an unknown oddity, were taken")
		}
	})
}

// TestOddAnswers looks at what is left of a refresh token, and that a call with an odd answer
// counts.
func TestOddAnswers(t *testing.T) {
	for _, row := range []struct {
		name, api string
		fault     wechatsim.Fault
		want, not string
	}{
		{"no refresh token", "api_get_authorizer_info", wechatsim.Fault{Mode: wechatsim.FaultNoRefresh}, "func_info", "refresh_token"},
		{"empty refresh token", "api_get_authorizer_info", wechatsim.Fault{Mode: wechatsim.FaultEmptyRefresh}, `"authorizer_refresh_token":""`, "SEKRET"},
		{"raw bytes", "api_get_authorizer_info", wechatsim.Fault{Mode: wechatsim.FaultRaw}, "fine\x08 goods\nevery day\xe5\x90\"", "\\n"},
		{"one of a list", "api_get_authorizer_list", wechatsim.Fault{Mode: wechatsim.FaultNoRefresh, Authorizer: accountA}, accountA + `","auth_time`, accountB + `","auth_time`},
		{"one of a list, empty", "api_get_authorizer_list", wechatsim.Fault{Mode: wechatsim.FaultEmptyRefresh, Authorizer: accountB}, accountB + `","refresh_token":""`, accountA + `","refresh_token":""`},
		{"nothing", "api_get_authorizer_list", wechatsim.Fault{Mode: wechatsim.FaultBody}, "", "{"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := start(t, calmConfig())
				token := w.componentToken()
				w.account(token, accountA)
				w.account(token, accountB)
				row.fault.API = row.api
				if err := w.p.Fail(row.fault); err != nil {
					t.Fatal(err)
				}
				request := `{"component_appid":"` + compID + `","authorizer_appid":"` + accountA + `","offset":0,"count":10}`
				response, err := w.client.Post("http://api"+apiPath+row.api+"?component_access_token="+token, "application/json", strings.NewReader(request))
				if err != nil {
					t.Fatal(err)
				}
				answer := readAll(t, response)
				if !strings.Contains(answer, row.want) || strings.Contains(answer, row.not) {
					t.Errorf("answer %q, want %q in it and not %q", answer, row.want, row.not)
				}
			})
		})
	}
}
