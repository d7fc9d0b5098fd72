package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"wxtoken/client"
	"wxtoken/internal/settings"
)

const (
	appid     = "wx1234567890abcdef"
	aesKey    = "SEKRETabcdefghijklmnopqrstuvwxyz0123456789A"
	aesKeyOld = "SEKRET9876543210abcdefghijklmnopqrstuvwxyzA"
)

// tree writes files below a new directory; a name that ends in "/" is a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func secrets(values ...string) []wxtoken.Secret {
	var out []wxtoken.Secret
	for _, v := range values {
		out = append(out, wxtoken.NewSecret(v))
	}
	return out
}

func TestLoadComponents(t *testing.T) {
	t.Parallel()
	files := tree(t, map[string]string{
		"appsecret": "SEKRETsecret\n", "token": " SEKRETtoken\r\n", "aes_key": aesKey + "\n", "aes_key_previous": aesKeyOld,
		"components/wxaaaa/appsecret": "SEKRETa\n", "components/wxaaaa/token": "SEKRETta", "components/wxaaaa/token_previous": "SEKRETtp\n",
		"components/wxaaaa/aes_key": aesKey, "components/wxaaaa/aes_key_previous": aesKeyOld,
		"components/wxbbbb/..2026_11_22/appsecret": "SEKRETb\n", "components/wxbbbb/..2026_11_22/token": "SEKRETtb", "components/wxbbbb/..2026_11_22/aes_key": aesKey,
		"components/..2026_11_22/x": "x", "components/README": "not a component",
	})
	// A Kubernetes mount: every file is a link into ..data, which is a link itself.
	b := filepath.Join(files, "components", "wxbbbb")
	for name, to := range map[string]string{"..data": "..2026_11_22", "appsecret": "..data/appsecret", "token": "..data/token", "aes_key": "..data/aes_key"} {
		if err := os.Symlink(to, filepath.Join(b, name)); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(files, name) }
	flags := settings.ComponentSettings{ComponentAppid: appid}
	dir := settings.ComponentSettings{ComponentsDir: in("components")}
	push := settings.PushSettings{ComponentTokenFile: in("token"), ComponentAesKeyFile: in("aes_key"), ComponentAesKeyPreviousFile: in("aes_key_previous")}
	for _, row := range []struct {
		name   string
		c      settings.ComponentSettings
		secret *settings.AppsecretSettings
		push   *settings.PushSettings
		want   []settings.Component
	}{
		{"values", flags, &settings.AppsecretSettings{ComponentAppsecret: wxtoken.NewSecret("s")},
			&settings.PushSettings{ComponentToken: wxtoken.NewSecret("t"), ComponentTokenPrevious: wxtoken.NewSecret("tp"), ComponentAesKey: wxtoken.NewSecret(aesKey)},
			[]settings.Component{{appid, wxtoken.NewSecret("s"), secrets("t", "tp"), secrets(aesKey), settings.Page{}}}},
		{"files", flags, &settings.AppsecretSettings{ComponentAppsecretFile: in("appsecret")}, &push,
			[]settings.Component{{appid, wxtoken.NewSecret("SEKRETsecret"), secrets("SEKRETtoken"), secrets(aesKey, aesKeyOld), settings.Page{}}}},
		{"ingest needs no appsecret", flags, nil, &push,
			[]settings.Component{{appid, wxtoken.Secret{}, secrets("SEKRETtoken"), secrets(aesKey, aesKeyOld), settings.Page{}}}},
		{"refresher needs nothing of the push", flags, &settings.AppsecretSettings{ComponentAppsecretFile: in("appsecret")}, nil,
			[]settings.Component{{appid, wxtoken.NewSecret("SEKRETsecret"), nil, nil, settings.Page{}}}},
		{"folders", dir, &settings.AppsecretSettings{}, &settings.PushSettings{}, []settings.Component{
			{"wxaaaa", wxtoken.NewSecret("SEKRETa"), secrets("SEKRETta", "SEKRETtp"), secrets(aesKey, aesKeyOld), settings.Page{}},
			{"wxbbbb", wxtoken.NewSecret("SEKRETb"), secrets("SEKRETtb"), secrets(aesKey), settings.Page{}},
		}},
		{"folders beside flags, sorted", settings.ComponentSettings{ComponentAppid: "wxaabb", ComponentsDir: in("components")},
			&settings.AppsecretSettings{ComponentAppsecretFile: in("appsecret")}, nil, []settings.Component{
				{"wxaaaa", wxtoken.NewSecret("SEKRETa"), nil, nil, settings.Page{}}, {"wxaabb", wxtoken.NewSecret("SEKRETsecret"), nil, nil, settings.Page{}}, {"wxbbbb", wxtoken.NewSecret("SEKRETb"), nil, nil, settings.Page{}},
			}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got, err := settings.LoadComponents(row.c, row.secret, row.push)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, row.want) {
				t.Fatal("not the components that were configured") // %v would say [redacted] anyway
			}
		})
	}
}

func TestLoadComponentsRefuses(t *testing.T) {
	t.Parallel()
	files := tree(t, map[string]string{
		"empty": " \n", "short": "SEKRETshort", "good": "SEKRETgood", "spaced": "SEKRET good", "notbase64": strings.Repeat("!", 43),
		"none/": "", "broken/not an appid/appsecret": "x", "broken/wxaaaa/token": "x", "broken/wxaaaa/aes_key": "SEKRETshort",
		"twice/" + appid + "/appsecret": "x",
	})
	in := func(name string) string { return filepath.Join(files, name) }
	good := wxtoken.NewSecret("SEKRETgood")
	for _, row := range []struct {
		name   string
		c      settings.ComponentSettings
		secret *settings.AppsecretSettings
		push   *settings.PushSettings
		want   []string // each in a fault of its own
	}{
		{"nothing at all", settings.ComponentSettings{}, nil, nil,
			[]string{"--component-appid (WXTOKEN_COMPONENT_APPID): no component: set this, or --components-dir (WXTOKEN_COMPONENTS_DIR)"}},
		{"an appid alone", settings.ComponentSettings{ComponentAppid: appid}, &settings.AppsecretSettings{}, &settings.PushSettings{}, []string{
			"--component-appsecret (WXTOKEN_COMPONENT_APPSECRET): not set",
			"--component-token (WXTOKEN_COMPONENT_TOKEN): not set",
			"--component-aes-key (WXTOKEN_COMPONENT_AES_KEY): not set",
		}},
		{"everything wrong", settings.ComponentSettings{ComponentAppid: "wx.1"},
			&settings.AppsecretSettings{ComponentAppsecret: good, ComponentAppsecretFile: in("good")},
			&settings.PushSettings{
				ComponentTokenFile: in("nowhere"), ComponentTokenPreviousFile: in("empty"),
				ComponentAesKeyFile: in("short"), ComponentAesKeyPreviousFile: in("notbase64"),
			}, []string{
				`--component-appid (WXTOKEN_COMPONENT_APPID): "wx.1" is not an appid`,
				"--component-appsecret-file (WXTOKEN_COMPONENT_APPSECRET_FILE): the value is set as well",
				"--component-token-file (WXTOKEN_COMPONENT_TOKEN_FILE): open " + in("nowhere"),
				"--component-token-previous-file (WXTOKEN_COMPONENT_TOKEN_PREVIOUS_FILE): " + in("empty") + " is empty",
				"--component-aes-key-file (WXTOKEN_COMPONENT_AES_KEY_FILE): " + in("short") + " holds 11 characters: an EncodingAESKey has 43",
				"--component-aes-key-previous-file (WXTOKEN_COMPONENT_AES_KEY_PREVIOUS_FILE): " + in("notbase64") + " is not base64",
			}},
		{"a space in a secret", settings.ComponentSettings{ComponentAppid: appid}, &settings.AppsecretSettings{ComponentAppsecretFile: in("spaced")}, nil,
			[]string{"spaced holds a space"}},
		{"no such directory", settings.ComponentSettings{ComponentsDir: in("nowhere")}, nil, nil,
			[]string{"--components-dir (WXTOKEN_COMPONENTS_DIR): open " + in("nowhere")}},
		{"directory without folders", settings.ComponentSettings{ComponentsDir: in("none")}, nil, nil, []string{"holds no folder"}},
		{"broken folders", settings.ComponentSettings{ComponentsDir: in("broken")}, &settings.AppsecretSettings{}, &settings.PushSettings{}, []string{
			in("broken/not an appid") + " is not a folder named by an appid",
			in("broken/wxaaaa/appsecret") + " is missing",
			in("broken/wxaaaa/aes_key") + " holds 11 characters",
		}},
		{"one component twice", settings.ComponentSettings{ComponentAppid: appid, ComponentsDir: in("twice")}, &settings.AppsecretSettings{ComponentAppsecret: good}, nil,
			[]string{"keep one of the two"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got, err := settings.LoadComponents(row.c, row.secret, row.push)
			var refused *settings.Error
			if !errors.As(err, &refused) || got != nil {
				t.Fatalf("got %d components and %v, want a SettingsError", len(got), err)
			}
			if len(refused.Faults) != len(row.want) {
				t.Errorf("%d faults, want %d", len(refused.Faults), len(row.want))
			}
			for _, want := range row.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing", want)
				}
			}
			if strings.Contains(err.Error(), "SEKRET") {
				t.Error("a secret is shown")
			}
			if t.Failed() {
				t.Log(err)
			}
		})
	}
}
