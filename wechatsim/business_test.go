package wechatsim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"wxtoken/wechatsim"
)

// TestBusiness calls what services call, with tokens of every kind.
func TestBusiness(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		expired, refresh := w.account(token, accountA)
		time.Sleep(2 * time.Hour)
		token = w.componentToken()
		killed, _ := w.refresh(token, accountA, refresh)
		if err := w.p.Invalidate(compID, accountA); err != nil {
			t.Fatal(err)
		}
		access, _ := w.refresh(token, accountA, refresh)
		other, _ := w.account(token, accountB)

		const logIn = "component_appid=" + compID + "&grant_type=authorization_code&appid="
		menu := `{"button":[{"type":"click","name":"今日歌曲","key":"V1001"}]}`
		for _, row := range []struct {
			call string // method, path and query but for the token
			body string
			want string // part of the answer
		}{
			{"GET /cgi-bin/user/get", "", `"data":{"openid":["oSimUser"]},"next_openid":"oSimUser"`},
			{"GET /cgi-bin/user/get?next_openid=oSimUser", "", `"count":0`},
			{"GET /cgi-bin/menu/get", "", `"errcode":46003`},
			{"POST /cgi-bin/menu/create", `{"button":[]}`, `"errcode":40016`},
			{"POST /cgi-bin/menu/create", `{"button":"x"}`, `"errcode":40016`},
			{"POST /cgi-bin/menu/create", `{}`, `"errcode":40016`},
			{"GET /cgi-bin/menu/create", "", `"errcode":43002`},
			{"POST /cgi-bin/menu/create", menu, `"errcode":0`},
			{"GET /cgi-bin/menu/get", "", `{"menu":` + menu + `}`},
			{"GET /cgi-bin/menu/delete", "", `"errcode":0`},
			{"GET /cgi-bin/menu/get", "", `"errcode":46003`},
			{"GET /cgi-bin/get_api_domain_ip", "", `"ip_list":["127.0.0.1"]`},
			{"POST /cgi-bin/message/template/send", `{"template_id":"T1"}`, `"errcode":40003`},
			{"POST /cgi-bin/message/template/send", `{"touser":"o1"}`, `"errcode":40037`},
			{"POST /cgi-bin/message/template/send", `{"touser":"o1","template_id":"T1","data":{"first":{"value":"x"}}}`, `"msgid":1`},
			{"POST /cgi-bin/message/template/send", `{"touser":"o1","template_id":"T1"}`, `"msgid":2`},
			{"GET /cgi-bin/media/get?media_id=x", "", `"errcode":40007`},
		} {
			if got := w.text(row.call, access, row.body); !strings.Contains(got, row.want) {
				t.Errorf("%s %s: %s, want %s", row.call, row.body, got, row.want)
			}
			for name, bad := range map[string]struct {
				token string
				want  int
			}{"no token": {"", 41001}, "unknown": {"x", 40001}, "expired": {expired, 42001}, "killed": {killed, 40001}} {
				if strings.HasSuffix(row.call, "/menu/create") && strings.HasPrefix(row.call, "GET") {
					continue // refused before the token is looked at
				}
				if got, want := w.text(row.call, bad.token, row.body), fmt.Sprintf(`"errcode":%d`, bad.want); !strings.Contains(got, want) {
					t.Errorf("%s with %s: %s, want %s", row.call, name, got, want)
				}
			}
		}
		if got := w.text("GET /cgi-bin/menu/get", other, ""); !strings.Contains(got, "46003") {
			t.Errorf("the menu of another account: %s", got)
		}

		for _, row := range []struct {
			path, appid, code, token, want string
		}{
			{"/sns/component/jscode2session?js_code=", accountA, "c1", token, `"session_key":"SEKRET`},
			{"/sns/component/jscode2session?js_code=", accountA, "c1", token, `"errcode":40163`},
			{"/sns/component/jscode2session?js_code=", accountA, "", token, `"errcode":41008`},
			{"/sns/component/jscode2session?js_code=", "", "c2", token, `"errcode":41002`},
			{"/sns/component/jscode2session?js_code=", "wx0000000000000009", "c2", token, `"errcode":61003`},
			{"/sns/component/jscode2session?js_code=", accountA, "c2", access, `"errcode":61014`},
			{"/sns/component/jscode2session?js_code=", accountA, "c2", "x", `"errcode":40001`},
			{"/sns/oauth2/component/access_token?code=", accountA, "c3", token, `"scope":"snsapi_base"`},
			{"/sns/oauth2/component/access_token?code=", accountA, "c3", token, `"errcode":40163`},
			{"/sns/oauth2/component/refresh_token?refresh_token=", accountA, "x", token, `"errcode":40002`},
		} {
			call := "GET " + row.path + row.code + "&" + logIn + row.appid + "&component_access_token=" + row.token
			if got := w.text(call, "", ""); !strings.Contains(got, row.want) {
				t.Errorf("%s: %s, want %s", call, got, row.want)
			}
		}
		if got := w.text("GET /sns/component/jscode2session?js_code=c9&appid="+accountA+"&component_access_token="+token, "", ""); !strings.Contains(got, "41018") {
			t.Errorf("without a component: %s", got)
		}
	})
}

// TestUsers logs users in, and calls with the tokens that they have then.
func TestUsers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		access, _ := w.account(token, accountA)
		w.account(token, accountB)
		oauth := func(verb, grant, appid, more string) string {
			t.Helper()
			return w.text("GET /sns/oauth2/component/"+verb+"?grant_type="+grant+"&appid="+appid+"&component_appid="+compID+"&component_access_token="+token+"&"+more, "", "")
		}
		var base, full struct {
			Access  string `json:"access_token"`
			Refresh string `json:"refresh_token"`
		}
		if err := json.Unmarshal([]byte(oauth("access_token", "authorization_code", accountA, "code=a")), &base); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(oauth("access_token", "authorization_code", accountA, "code=userinfo-a")), &full); err != nil {
			t.Fatal(err)
		}
		check := func(what, got, want string) {
			t.Helper()
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		as := func(path, token, openid string) string {
			t.Helper()
			return w.text("GET "+path+"?openid="+openid+"&access_token="+token, "", "")
		}
		check("another grant", oauth("access_token", "client_credential", accountA, "code=b"), `"errcode":40002`)
		check("auth", as("/sns/auth", base.Access, "oSimUser"), `"errcode":0`)
		check("another user", as("/sns/auth", base.Access, "oElse"), `"errcode":40003`)
		check("the token of the account", as("/sns/auth", access, "oSimUser"), `"errcode":40001`)
		check("no token", as("/sns/auth", "", "oSimUser"), `"errcode":41001`)
		check("userinfo", as("/sns/userinfo", full.Access, "oSimUser"), `"openid":"oSimUser"`)
		check("userinfo without the scope", as("/sns/userinfo", base.Access, "oSimUser"), `"errcode":48001`)
		check("a user's token for the account", as("/cgi-bin/user/info", base.Access, "oSimUser"), `"errcode":40001`)
		check("refresh", oauth("refresh_token", "refresh_token", accountA, "refresh_token="+base.Refresh), `"refresh_token":"`+base.Refresh)
		check("no refresh token", oauth("refresh_token", "refresh_token", accountA, ""), `"errcode":41003`)
		check("an unknown one", oauth("refresh_token", "refresh_token", accountA, "refresh_token=x"), `"errcode":40030`)
		check("one of another account", oauth("refresh_token", "refresh_token", accountB, "refresh_token="+base.Refresh), `"errcode":40030`)
		time.Sleep(2 * time.Hour)
		check("two hours later", as("/sns/auth", base.Access, "oSimUser"), `"errcode":42001`)
		token = w.componentToken()
		check("refresh two hours later", oauth("refresh_token", "refresh_token", accountA, "refresh_token="+base.Refresh), `"access_token":"`)
		time.Sleep(30 * 24 * time.Hour)
		token = w.componentToken()
		check("refresh a month later", oauth("refresh_token", "refresh_token", accountA, "refresh_token="+base.Refresh), `"errcode":40030`)
	})
}

// TestMedia uploads files and gets them back.
func TestMedia(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		access, _ := w.account(token, accountA)
		other, _ := w.account(token, accountB)
		jpeg := append([]byte("\xff\xd8\xff\xe0"), bytes.Repeat([]byte{7}, 10_000)...)
		long := make([]byte, 10<<20)
		const uploadTo = "POST /cgi-bin/media/upload?type="

		answer := w.upload("image", access, "媒体.jpg", jpeg)
		id, _ := answer["media_id"].(string)
		if answer["type"] != "image" || id == "" || answer["created_at"] != float64(time.Now().Unix()) {
			t.Fatalf("uploaded: %v", answer)
		}
		if e := w.lastCall(); e.Digest != wechatsim.Fingerprint(string(jpeg)) || e.Size != int64(len(jpeg)) || e.API != "media/upload" {
			t.Errorf("the history has %+v", e)
		}
		response := w.send("GET /cgi-bin/media/get?media_id="+id, access, "", http.NoBody)
		if got := readAll(t, response); got != string(jpeg) || response.Header.Get("Content-Type") != "image/jpeg" ||
			response.Header.Get("Content-Disposition") != `attachment; filename="`+id+`.jpg"` {
			t.Errorf("got %d bytes, %v", len(got), response.Header)
		}
		if got := w.text("GET /cgi-bin/media/get?media_id="+id, other, ""); !strings.Contains(got, "40007") {
			t.Errorf("another's file: %s", got)
		}
		if answer := w.upload("thumb", access, "a.jpg", jpeg); answer["thumb_media_id"] == nil {
			t.Errorf("a thumb: %v", answer)
		}
		if answer := w.upload("image", access, "long.png", long); answer["media_id"] == nil {
			t.Errorf("10 MiB: %v", answer)
		} else if got := w.text("GET /cgi-bin/media/get?media_id="+answer["media_id"].(string), access, ""); !strings.Contains(got, "40007") {
			t.Errorf("a file that was too long to be kept: %.100s", got)
		}
		if e := w.p.History(); e[len(e)-2].Digest != wechatsim.Fingerprint(string(long)) || e[len(e)-2].Size != int64(len(long)) {
			t.Errorf("the history has %+v", e[len(e)-2])
		}
		video := w.upload("video", access, "a.mp4", jpeg)
		if got := w.text("GET /cgi-bin/media/get?media_id="+video["media_id"].(string), access, ""); !strings.Contains(got, `"video_url":"http`) {
			t.Errorf("a video: %.100s", got)
		}

		for name, row := range map[string]struct {
			kind, file string
			content    []byte
			want       float64
		}{
			"a type that is not": {"film", "a.jpg", jpeg, 40004},
			"no type":            {"", "a.jpg", jpeg, 40004},
			"no file name":       {"image", "", jpeg, 41005},
			"an empty file":      {"image", "a.jpg", nil, 40006},
			"too long":           {"image", "a.jpg", append(long, 0), 45001},
			"too long for thumb": {"thumb", "a.jpg", long[:64<<10+1], 45001},
		} {
			if got := w.upload(row.kind, access, row.file, row.content)["errcode"]; got != row.want {
				t.Errorf("%s: %v, want %v", name, got, row.want)
			}
		}
		if got := w.upload("image", "", "a.jpg", long)["errcode"]; got != 41001.0 {
			t.Errorf("without a token: %v", got)
		}
		for name, body := range map[string]string{"JSON": "{}", "nothing": "", "a form that ends midway": "--B\r\nContent-Disposition: form-data; name=\"media\"; filename=\"a\"\r\n\r\nabc"} {
			response := w.send(uploadTo+"image", access, "multipart/form-data; boundary=B", strings.NewReader(body))
			if got := readAll(t, response); !strings.Contains(got, "41005") {
				t.Errorf("%s: %s", name, got)
			}
		}
		if response := w.send(uploadTo+"image", access, "multipart/form-data; boundary=B", io.MultiReader(strings.NewReader("x"))); response.StatusCode != http.StatusPreconditionFailed {
			t.Errorf("without a length: %s", response.Status)
		}
		if response := w.send("POST /cgi-bin/menu/create", access, "application/json", io.MultiReader(strings.NewReader("{}"))); response.StatusCode != http.StatusPreconditionFailed {
			t.Errorf("JSON without a length: %s", response.Status)
		}

		time.Sleep(3 * 24 * time.Hour)
		if err := w.p.Reauthorize(compID, accountA); err != nil {
			t.Fatal(err)
		}
		access, _ = w.exchange(w.componentToken(), w.last("updateauthorized").fields["AuthorizationCode"])
		if got := w.text("GET /cgi-bin/media/get?media_id="+id, access, ""); !strings.Contains(got, "40007") {
			t.Errorf("after three days: %.100s", got)
		}
	})
}

// TestMediaFaults lets an upload and a download fail once, in each way that callers meet.
func TestMediaFaults(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		access, _ := w.account(w.componentToken(), accountA)
		id := w.upload("image", access, "a.jpg", []byte("abc"))["media_id"].(string)
		for _, api := range []string{"media/upload", "/cgi-bin/media/get", "menu/create"} {
			if err := w.p.Fail(wechatsim.Fault{API: api, Authorizer: accountA, Errcode: 40001, Times: 1}); err != nil {
				t.Fatal(err)
			}
		}
		const menu = `{"button":[{"name":"a"}]}`
		if got := w.upload("image", access, "a.jpg", []byte("abc"))["errcode"]; got != 40001.0 {
			t.Errorf("an upload that fails: %v", got)
		}
		if e := w.lastCall(); e.Outcome != wechatsim.OutcomeFaked || e.Errcode != 40001 || e.Size != 3 {
			t.Errorf("the history has %+v", e)
		}
		for call, body := range map[string]string{"GET /cgi-bin/media/get?media_id=" + id: "", "POST /cgi-bin/menu/create": menu} {
			if got := w.text(call, access, body); !strings.Contains(got, `"errcode":40001,"errmsg":"invalid credential`) {
				t.Errorf("%s: %s", call, got)
			}
		}
		if got := w.text("GET /cgi-bin/media/get?media_id="+id, access, ""); got != "abc" {
			t.Errorf("the fault was for one call: %s", got)
		}
		if answer := w.upload("image", access, "a.jpg", []byte("abc")); answer["media_id"] == nil {
			t.Errorf("the fault was for one call: %v", answer)
		}
		for _, mode := range []wechatsim.FaultMode{wechatsim.FaultLost, wechatsim.FaultDrop} {
			if err := w.p.Fail(wechatsim.Fault{API: "media/get", Mode: mode}); err != nil {
				t.Fatal(err)
			}
			if response, err := w.try("GET /cgi-bin/media/get?media_id="+id, access, "", http.NoBody); err == nil {
				t.Errorf("%s: %s", mode, readAll(t, response))
			}
			w.p.Heal()
		}

		kill := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/invalidate", strings.NewReader(url.Values{"authorizer": {accountA}}.Encode()))
		kill.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer := httptest.NewRecorder()
		if w.p.Control().ServeHTTP(answer, kill); answer.Code != http.StatusOK {
			t.Fatal(answer.Body)
		}
		if got := w.upload("image", access, "a.jpg", []byte("abc"))["errcode"]; got != 40001.0 {
			t.Errorf("with the token that the control door killed: %v", got)
		}
	})
}

// TestMediaKept fills the shelf of files.
func TestMediaKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.KeepMedia = 11 << 20
		w := start(t, config)
		access, _ := w.account(w.componentToken(), accountA)
		long := bytes.Repeat([]byte("0123456789"), 1<<20)
		first := w.upload("voice", access, "a", []byte("first"))["media_id"].(string)
		get := func(id string) string { return w.text("GET /cgi-bin/media/get?media_id="+id, access, "") }
		if id := w.upload("image", access, "a", long)["media_id"].(string); get(id) != string(long) {
			t.Error("10 MB did not come back")
		}
		for range wechatsim.MaxKept - 2 {
			w.upload("voice", access, "a", []byte("next"))
		}
		if got := get(first); got != "first" {
			t.Errorf("the oldest file of a full shelf: %s", got)
		}
		w.upload("voice", access, "a", []byte("one more"))
		if got := get(first); !strings.Contains(got, "40007") {
			t.Errorf("a file that made room: %s", got)
		}
	})
}

// try makes a call; the token goes into the query unless it is empty.
func (w *world) try(call, token, contentType string, body io.Reader) (*http.Response, error) {
	w.t.Helper()
	method, path, _ := strings.Cut(call, " ")
	at, err := url.Parse("http://api" + path)
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		query := at.Query()
		query.Set("access_token", token)
		at.RawQuery = query.Encode()
	}
	request, err := http.NewRequestWithContext(w.t.Context(), method, at.String(), body)
	if err != nil {
		w.t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return w.client.Do(request)
}

func (w *world) send(call, token, contentType string, body io.Reader) *http.Response {
	w.t.Helper()
	response, err := w.try(call, token, contentType, body)
	if err != nil {
		w.t.Fatalf("%s: %v", call, err)
	}
	w.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// text makes a call and returns its answer.
func (w *world) text(call, token, body string) string {
	w.t.Helper()
	return readAll(w.t, w.send(call, token, "application/json", strings.NewReader(body)))
}

// upload uploads a file and returns the answer.
func (w *world) upload(kind, token, name string, content []byte) fields {
	w.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("media", name)
	if err == nil {
		_, err = part.Write(content)
	}
	if err == nil {
		err = form.Close()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	var answer fields
	if err := json.Unmarshal([]byte(readAll(w.t, w.send("POST /cgi-bin/media/upload?type="+kind, token, form.FormDataContentType(), &body))), &answer); err != nil {
		w.t.Fatal(err)
	}
	return answer
}

func (w *world) lastCall() wechatsim.Entry {
	all := w.p.History()
	return all[len(all)-1]
}
