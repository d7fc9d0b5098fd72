package ingest_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/ingest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/settings"
	"wxtoken/internal/wechat"
)

func componentOf(appid, token, aesKey string) settings.Component {
	return settings.Component{AppID: appid, Tokens: []wxtoken.Secret{wxtoken.NewSecret(token)}, AESKeys: []wxtoken.Secret{wxtoken.NewSecret(aesKey)}}
}

// TestSetComponents changes the components of an Ingest that runs.
func TestSetComponents(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	at := r.serve(t)
	number := 0
	check := func(phase, appid, token, aesKey string, want int) {
		t.Helper()
		number++
		text := strings.Replace(ticketAt(now.Add(time.Duration(number)*time.Second)), component, appid, 1)
		c := push(t, "/wechat/"+appid+"/auth", wechat.Keys{AppID: appid, Tokens: []string{token}, AESKeys: []string{aesKey}}, text)
		if status, _, body := c.send(t, at); status != want {
			t.Errorf("%s: answer %d %q, want %d", phase, status, body, want)
		}
	}
	const other = "wxother0000000001"
	check("at first", component, token, aesKey, 200)
	check("not there yet", other, token, aesKey, 404)

	if err := r.ingest.SetComponents([]settings.Component{componentOf(component, tokenBefore, aesBefore), componentOf(other, token, aesKey)}); err != nil {
		t.Fatal(err)
	}
	check("other keys", component, tokenBefore, aesBefore, 200)
	check("keys of before", component, token, aesKey, 403)
	check("added", other, token, aesKey, 200)

	for name, faulty := range map[string][]settings.Component{
		"key":   {componentOf(component, token, aesKey), componentOf(other, token, "SEKRETshort")},
		"token": {componentOf(component, "", aesKey)},
		"twice": {componentOf(component, token, aesKey), componentOf(component, token, aesKey)},
		"appid": {componentOf("", token, aesKey)},
	} {
		if err := r.ingest.SetComponents(faulty); err == nil || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("%s: error %v, want one without a secret", name, err)
		}
	}
	check("as before the faults", component, tokenBefore, aesBefore, 200)
	check("as before the faults", other, token, aesKey, 200)

	if err := r.ingest.SetComponents([]settings.Component{componentOf(component, token, aesKey)}); err != nil {
		t.Fatal(err)
	}
	check("removed", other, token, aesKey, 404)
	if err := r.ingest.SetComponents(nil); err != nil {
		t.Fatal(err)
	}
	check("drained", component, token, aesKey, 404)
}

// TestRemovedWhileUnderWay removes the component of a message that waits for its reply: it is
// encrypted all the same.
func TestRemovedWhileUnderWay(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	startService(t, srv, func(msg *nats.Msg) []byte {
		if err := r.ingest.SetComponents(nil); err != nil {
			t.Error(err)
		}
		return echo(t)(msg)
	})
	_, header, body := componentPush(t, msgPath, messageOf("text", "<Content>hello</Content>")).send(t, r.serve(t))
	if got := openReply(t, keys, header, body); got != echoReply("hello") {
		t.Errorf("reply %q", got)
	}
}

// TestSetComponentsUnderFire changes them while pushes come in, for the race detector.
func TestSetComponentsUnderFire(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	c := componentPush(t, authPath, ticketEvent())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				if rec := c.serveDirectly(r); rec.Code != http.StatusOK {
					t.Errorf("answer %d %q, want 200", rec.Code, rec.Body)
				}
			}
		})
	}
	for range 50 {
		if err := r.ingest.SetComponents([]settings.Component{componentOf(component, token, aesKey)}); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
}

// TestSettings reads the settings as a program does.
func TestSettings(t *testing.T) {
	for name, row := range map[string]struct {
		args           []string
		env            map[string]string
		release, plain bool
	}{
		"default":  {release: true},
		"flags":    {args: []string{"--release-check=false", "--plain-messages"}, plain: true},
		"variable": {env: map[string]string{"WXTOKEN_RELEASE_CHECK": "false", "WXTOKEN_PLAIN_MESSAGES": "true"}, plain: true},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range row.env {
				t.Setenv(variable, value)
			}
			var cfg ingest.Config
			k, err := kong.New(&cfg, kong.DefaultEnvars("WXTOKEN"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Parse(row.args); err != nil {
				t.Fatal(err)
			}
			if cfg.ReleaseCheck != row.release || cfg.PlainMessages != row.plain {
				t.Errorf("release check %v, plain messages %v", cfg.ReleaseCheck, cfg.PlainMessages)
			}
		})
	}
}
