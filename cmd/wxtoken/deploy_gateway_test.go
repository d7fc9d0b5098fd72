//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"wxtoken/internal/events"
)

// TestDeployedGateway runs a gateway under its user in both files of deploy/nats, with the files of deploy/sim: it gives tokens, WeChat takes
// what it hands on, --check finds nothing, and then names each thing that is spoiled.
func TestDeployedGateway(t *testing.T) {
	t.Parallel()
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			testGateway(t, file)
		})
	}
}

func testGateway(t *testing.T, file string) {
	srv := shipped(t, file)
	code, out := checksGateway(t, urlOf(srv, "gateway"))
	if code != 1 || !says(out, "FAIL", "buckets", "KV_tokens: .*", "start a refresher") {
		t.Errorf("before a refresher: exit code %d\n%s", code, out)
	}

	sim, key := startSystem(t, srv, file, func(string) []string { return nil })
	api := httptest.NewServer(sim.Handler())
	t.Cleanup(api.Close)
	door := "http://" + deployedGateway(t, srv, api.URL).find(t, `"server":"gateway","addr":"([^"]+)"`)
	token := ""
	eventually(t, "a token through the gateway", func() (err error) {
		token, err = field(t, door+"/cgi-bin/token?grant_type=client_credential&appid="+key.Authorizer+"&secret="+demoKey, "access_token")
		return err
	})
	if !strings.HasPrefix(token, "wxg1_") {
		t.Errorf("the token is none of the gateway's: %s", token)
	}
	eventually(t, "a call that WeChat answers", func() error {
		_, err := field(t, door+"/cgi-bin/getcallbackip?access_token="+token, "ip_list")
		return err
	})

	wechat := "--wechat-api-url=" + api.URL
	eventually(t, "that nothing is wrong", func() error {
		if code, out = checksGateway(t, urlOf(srv, "gateway"), wechat); code != 0 || regexp.MustCompile(`(?m)^(warn|skip)`).MatchString(out) {
			return fmt.Errorf("exit code %d\n%s", code, out)
		}
		return nil
	})
	for _, name := range []string{"settings", "nats", "nats rights", "buckets", "wechat", "spool", "services"} {
		if !says(out, "ok", name, "", "") {
			t.Errorf("%s is not ok:\n%s", name, out)
		}
	}
	poor := shippedWithout(t, file)
	for _, row := range []struct {
		name, url string
		args      []string
		code      int
		mark      string
		line      string
		pattern   string
		remedy    string
	}{
		{"in Chinese", urlOf(srv, "gateway"), []string{wechat, "--lang=zh"}, 0, "ok", "buckets", "令牌和状态的 bucket 都在", ""},
		{"no WeChat", urlOf(srv, "gateway"), []string{"--wechat-api-url=http://127.0.0.1:1"}, 1, "FAIL", "wechat", "no answer from http://127.0.0.1:1", "HTTPS_PROXY.*--wechat-api-url"},
		{"no WeChat, in Chinese", urlOf(srv, "gateway"), []string{"--wechat-api-url=http://127.0.0.1:1", "--lang=zh"}, 1, "FAIL", "wechat", ".*http://127.0.0.1:1.*没有应答", "--wechat-api-url"},
		{"no folder", urlOf(srv, "gateway"), []string{wechat, "--spool-dir=/nowhere"}, 1, "FAIL", "spool", "no room for a body.*", `--spool-dir \(WXTOKEN_SPOOL_DIR\)`},
		{"no folder, in Chinese", urlOf(srv, "gateway"), []string{wechat, "--spool-dir=/nowhere", "--lang=zh"}, 1, "FAIL", "spool", ".*", "目录.*"},
		{"no services file", urlOf(srv, "gateway"), []string{wechat, "--services-file=/nowhere"}, 1, "FAIL", "services", ".*/nowhere.*", `--services-file \(WXTOKEN_SERVICES_FILE\)`},
		{"no Redis", urlOf(srv, "gateway"), []string{wechat, "--redis-url=redis://u:SEKRET@127.0.0.1:1/0", "--redis-format=wxjava"}, 1, "FAIL", "redis", "connect to 127.0.0.1:1/0.*refused", `--redis-url \(WXTOKEN_REDIS_URL\)`},
		{"no Redis, in Chinese", urlOf(srv, "gateway"), []string{wechat, "--redis-url=redis://127.0.0.1:1/0", "--redis-format=wxjava", "--lang=zh"}, 1, "FAIL", "redis", ".*refused", "权限"},
		{"a wrong password", "nats://gateway:SEKRET@" + srv.Addr().String(), []string{wechat}, 1, "FAIL", "nats", ".*(?i:authorization violation)", `check user and password in --nats-url \(WXTOKEN_NATS_URL\)`},
		{"no NATS", "nats://127.0.0.1:1", []string{wechat}, 1, "FAIL", "nats", "no connection to nats://127.0.0.1:1", "start nats-server"},
		{"another program's user", urlOf(srv, "ingest"), []string{wechat}, 1, "FAIL", "nats rights", `user "ingest" may not subscribe _INBOX_gateway\.>`, "Give gateway its own"},
		{"a right is missing", urlOf(poor, "gateway"), []string{wechat}, 1, "FAIL", "nats rights", `user "gateway".* may not publish wxtoken\.reject$`, "deploy/nats/nats-server.conf"},
	} {
		code, out := checksGateway(t, row.url, row.args...)
		if code != row.code || !says(out, row.mark, row.line, row.pattern, row.remedy) {
			t.Errorf("%s: exit code %d, want %d and %s  %s  %s -> %s:\n%s", row.name, code, row.code, row.mark, row.line, row.pattern, row.remedy, out)
		}
	}
}

// shippedWithout starts a server whose user gateway may not report a refused token.
func shippedWithout(t *testing.T, file string) *server.Server {
	return shipped(t, file, func(text string) string {
		before, after, _ := strings.Cut(text, "user: gateway")
		return before + "user: gateway" + strings.Replace(after, `"`+events.SubjectReject+`"`, "", 1)
	})
}

// checksGateway is checks for a gateway.
func checksGateway(t *testing.T, natsURL string, args ...string) (code int, out string) {
	t.Helper()
	return checks(t, "gateway", natsURL, append(gatewayFiles(), args...)...)
}

// gatewayFiles are the settings of a gateway that name files.
func gatewayFiles() []string {
	sim := filepath.Join("..", "..", "deploy", "sim")
	return []string{"--services-file=" + filepath.Join(sim, "gateway", "services.json"), "--token-key-file=" + filepath.Join(sim, "gateway_token_key")}
}

// deployedGateway is deployed for a gateway.
func deployedGateway(t *testing.T, srv *server.Server, wechat string) running {
	t.Helper()
	return deployedAs(t, "gateway", srv, append(gatewayFiles(), "--http-addr=127.0.0.1:0", "--wechat-api-url="+wechat)...)
}

// field asks, and returns a field of the JSON that is answered.
func field(t *testing.T, url, name string) (string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: patience}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return "", err
	}
	if fields[name] == nil {
		return "", errors.New(string(text))
	}
	return fmt.Sprint(fields[name]), nil
}
