package settings_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wxtoken/client"
	"wxtoken/internal/logtest"
	"wxtoken/internal/settings"
)

// settled is more than it takes until a change is in force: one reading finds it, the next one
// agrees.
const settled = 7 * time.Second

// follower is a ComponentWatch at work on files, in a bubble of synctest.
type follower struct {
	t   *testing.T
	dir string // of files
	out *logtest.Buffer

	mu    sync.Mutex
	calls []string // what Changed got, as describe writes it
	fail  error    // what Changed returns
}

// follow starts a watch. What named returns names files below a directory with the given ones in
// it.
func follow(t *testing.T, files map[string]string, named func(in func(string) string) (settings.ComponentSettings, *settings.AppsecretSettings, *settings.PushSettings)) *follower {
	t.Helper()
	f := &follower{t: t, dir: tree(t, files)}
	log, out := logtest.New()
	f.out = out
	c, secret, push := named(f.in)
	known, err := settings.LoadComponents(c, secret, push)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- settings.ComponentWatch{
			Components: c, Secret: secret, Push: push, Known: known, Log: log,
			Changed: func(components []settings.Component) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.calls = append(f.calls, describe(components))
				return f.fail
			},
		}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if strings.Contains(out.String(), "SEKRET") {
			t.Errorf("a secret in the log: %s", out)
		}
	})
	synctest.Wait()
	return f
}

// inDir is for a refresher's components in the folder "all".
func inDir(in func(string) string) (settings.ComponentSettings, *settings.AppsecretSettings, *settings.PushSettings) {
	return settings.ComponentSettings{ComponentsDir: in("all")}, &settings.AppsecretSettings{}, nil
}

// describe writes components with what they hold: "wxa(secret) wxb(secret token key)".
func describe(components []settings.Component) string {
	var all []string
	for _, c := range components {
		var words []string
		for _, s := range append(append([]wxtoken.Secret{c.AppSecret}, c.Tokens...), c.AESKeys...) {
			if !s.IsZero() {
				words = append(words, s.Reveal())
			}
		}
		all = append(all, c.AppID+"("+strings.Join(words, " ")+")")
	}
	return strings.Join(all, " ")
}

func (f *follower) in(name string) string { return filepath.Join(f.dir, name) }

func (f *follower) write(name, content string) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.in(name)), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(f.in(name), []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *follower) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(f.in(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *follower) rename(from, to string) {
	f.t.Helper()
	if err := os.Rename(f.in(from), f.in(to)); err != nil {
		f.t.Fatal(err)
	}
}

// after lets time pass, and looks that Changed was called with what is wanted, once each.
func (f *follower) after(d time.Duration, want ...string) {
	f.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Join(f.calls, "; "); got != strings.Join(want, "; ") {
		f.t.Errorf("taken: %s, want %s", got, strings.Join(want, "; "))
	}
	f.calls = nil
}

// logged looks how often text is in the log.
func (f *follower) logged(text string, times int) {
	f.t.Helper()
	if got := strings.Count(f.out.String(), text); got != times {
		f.t.Errorf("%d times %s in the log, want %d:\n%s", got, text, times, f.out)
	}
}

func TestComponentsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, map[string]string{"all/wxa/appsecret": "SEKRET1"}, inDir)
		f.after(time.Minute)

		f.write("all/wxb/appsecret", "SEKRET2\n")
		f.after(settled, "wxa(SEKRET1) wxb(SEKRET2)")
		f.logged(`"level":"info","component":"wxb","msg":"component added"`, 1)

		f.write("all/wxa/appsecret", "SEKRET3")
		f.after(settled, "wxa(SEKRET3) wxb(SEKRET2)")
		f.logged(`"level":"info","component":"wxa","msg":"component's secrets changed"`, 1)

		f.write("all/wxa/token", "not for this process")
		f.write("all/README", "not a component")
		f.after(settled)

		f.remove("all/wxa")
		f.write("all/wxc/appsecret", "SEKRET4")
		f.after(settled, "wxb(SEKRET2) wxc(SEKRET4)")
		f.logged(`"level":"info","component":"wxa","msg":"component removed"`, 1)
		f.logged(`"level":"info","component":"wxc","msg":"component added"`, 1)
		f.after(time.Minute)
		f.logged(`"level":"warn"`, 0)
	})
}

// A component named by flag: each of its files may change, and so may a folder beside it.
func TestComponentOfFlagsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, map[string]string{"appsecret": "SEKRET1", "token": "SEKRET2", "aes_key": aesKey, "all/wxb/appsecret": "SEKRETb", "all/wxb/token": "SEKRETt", "all/wxb/aes_key": aesKey},
			func(in func(string) string) (settings.ComponentSettings, *settings.AppsecretSettings, *settings.PushSettings) {
				return settings.ComponentSettings{ComponentAppid: "wxa", ComponentsDir: in("all")}, &settings.AppsecretSettings{ComponentAppsecretFile: in("appsecret")},
					&settings.PushSettings{ComponentTokenFile: in("token"), ComponentAesKeyFile: in("aes_key")}
			})
		const wxb = " wxb(SEKRETb SEKRETt " + aesKey + ")"
		f.write("appsecret", "SEKRET3")
		f.after(settled, "wxa(SEKRET3 SEKRET2 "+aesKey+")"+wxb)
		f.write("token", "SEKRET4")
		f.after(settled, "wxa(SEKRET3 SEKRET4 "+aesKey+")"+wxb)
		f.write("aes_key", aesKeyOld)
		f.after(settled, "wxa(SEKRET3 SEKRET4 "+aesKeyOld+")"+wxb)
		f.write("all/wxb/token_previous", "SEKRETp")
		f.after(settled, "wxa(SEKRET3 SEKRET4 "+aesKeyOld+") wxb(SEKRETb SEKRETt SEKRETp "+aesKey+")")

		f.remove("token") // of the flag, and nothing else says what it is
		f.write("all/wxa/appsecret", "SEKRET5")
		f.after(time.Minute)
		f.logged("--component-token-file (WXTOKEN_COMPONENT_TOKEN_FILE): open ", 1)
		f.logged("keep one of the two", 1)
		f.remove("all/wxb") // the last one of the directory, though not of the process
		f.after(settled, "wxa(SEKRET3 SEKRET4 "+aesKeyOld+")")
		f.remove("all/wxa")
		f.after(settled)
	})
}

// What is faulty holds up nobody else, keeps what it had, and is told once.
func TestFaultyComponentsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, map[string]string{"all/wxa/appsecret": "SEKRET1", "all/wxb/appsecret": "SEKRET2"}, inDir)
		f.write("all/half/readme", "its secret is still to come")
		f.write("all/no appid/appsecret", "SEKRET")
		f.write("all/wxa/appsecret", "")
		f.write("all/wxb/appsecret", "SEKRET 2")
		f.write("all/wxc/appsecret", "SEKRET3")
		f.after(time.Minute, "wxa(SEKRET1) wxb(SEKRET2) wxc(SEKRET3)")
		f.logged(`"level":"warn"`, 4)
		f.logged(f.in("all/half/appsecret")+" is missing", 1)
		f.logged(f.in("all/no appid")+" is not a folder named by an appid", 1)
		f.logged(f.in("all/wxa/appsecret")+" is empty", 1)
		f.logged(f.in("all/wxb/appsecret")+" holds a space", 1)

		f.write("all/half/appsecret", "SEKRET4")
		f.write("all/wxa/appsecret", "SEKRET1")
		f.write("all/wxb/appsecret", "SEKRET5")
		f.after(settled, "half(SEKRET4) wxa(SEKRET1) wxb(SEKRET5) wxc(SEKRET3)")
		f.logged("component's secrets changed", 1)
		f.write("all/wxa/appsecret", "") // the same fault once more is news again
		f.after(settled)
		f.logged(f.in("all/wxa/appsecret")+" is empty", 2)
		f.remove("all/wxa") // what is faulty can be removed
		f.after(settled, "half(SEKRET4) wxb(SEKRET5) wxc(SEKRET3)")
	})
}

// A directory that goes away takes no component with it.
func TestComponentsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, map[string]string{"all/wxa/appsecret": "SEKRET1", "all/wxb/appsecret": "SEKRET2"}, inDir)
		f.rename("all", "away")
		f.after(time.Minute)
		f.logged("--components-dir (WXTOKEN_COMPONENTS_DIR): open "+f.in("all"), 1)
		f.write("all/..data/x", "nothing mounted here yet")
		f.after(time.Minute)
		f.logged("holds no folder", 1)
		f.remove("all")
		f.rename("away", "all")
		f.after(time.Minute)

		f.remove("all/wxb")
		f.after(settled, "wxa(SEKRET1)")
		f.rename("all/wxa", "all/wxc") // nothing tells that they are not both meant
		f.after(settled, "wxc(SEKRET1)")
		f.remove("all/wxc")
		f.write("all/wxd/token", "and no appsecret")
		f.after(time.Minute)
		f.logged("holds no usable component: those of before stay in force", 1)
		f.write("all/wxd/appsecret", "SEKRET3")
		f.after(settled, "wxd(SEKRET3)")
	})
}

// A change counts when two readings agree on it.
func TestComponentsSettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, map[string]string{"all/wxa/appsecret": "SEKRET1", "all/wxb/appsecret": "SEKRET2"}, inDir)
		f.rename("all/wxb", "away")
		f.after(5500 * time.Millisecond) // it was read at 5 s, and will be at 6 s, 11 s and so on
		f.rename("away", "all/wxb")
		f.after(time.Minute)

		f.write("all/wxb/appsecret", "SEKRE") // half written
		f.after(time.Second)                  // it was read at 66 s, and will be at 67 s
		f.write("all/wxb/appsecret", "SEKRET3")
		f.after(settled, "wxa(SEKRET1) wxb(SEKRET3)")
		f.logged(`"level":"warn"`, 0)
	})
}

// What Changed refuses is tried again, and told once.
func TestComponentsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, map[string]string{"all/wxa/appsecret": "SEKRET1"}, inDir)
		refuse := func(err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fail = err
		}
		refuse(errors.New("not now"))
		f.write("all/wxb/appsecret", "SEKRET2")
		const both = "wxa(SEKRET1) wxb(SEKRET2)"
		f.after(settled, both)
		f.after(10*time.Second, both, both)
		f.logged("apply changed components: not now", 1)
		f.logged("component added", 0)
		refuse(nil)
		f.after(settled, both)
		f.logged("component added", 1)
		f.after(time.Minute)
	})
}

// A Kubernetes mount: all that is seen are links into ..data, which is swapped, and after that
// links come and go.
func TestComponentsOfAMountFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, map[string]string{"all/..1/wxa/appsecret": "SEKRET1", "all/..1/wxb/appsecret": "SEKRET2"},
			func(in func(string) string) (settings.ComponentSettings, *settings.AppsecretSettings, *settings.PushSettings) {
				for link, to := range map[string]string{"all/..data": "..1", "all/wxa": "..data/wxa", "all/wxb": "..data/wxb"} {
					if err := os.Symlink(to, in(link)); err != nil {
						t.Fatal(err)
					}
				}
				return inDir(in)
			})
		f.write("all/..2/wxa/appsecret", "SEKRET3")
		if err := os.Symlink("..2", f.in("all/..new")); err != nil {
			t.Fatal(err)
		}
		f.rename("all/..new", "all/..data")
		f.after(settled, "wxa(SEKRET3) wxb(SEKRET2)") // the link of wxb leads nowhere, but is there
		f.remove("all/wxb")
		f.after(settled, "wxa(SEKRET3)")
	})
}

// TestPageFollowed changes what merchants are told, and its logo alone; a page that can't be read leaves the one before.
func TestPageFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := func(in func(string) string) (settings.ComponentSettings, *settings.AppsecretSettings, *settings.PushSettings) {
			return settings.ComponentSettings{ComponentsDir: in("all")}, nil, &settings.PushSettings{}
		}
		f := follow(t, map[string]string{"all/wxa/token": "t", "all/wxa/aes_key": aesKey}, dir)
		f.after(time.Minute)
		f.write("all/wxa/page.json", `{"name": "n", "logo": "l.svg"}`)
		f.write("all/wxa/l.svg", svg)
		f.after(settled, "wxa(t "+aesKey+")")
		f.logged(`"level":"info","component":"wxa","msg":"component's page changed"`, 1)
		f.write("all/wxa/l.svg", svg+"\n")
		f.after(settled, "wxa(t "+aesKey+")")
		f.logged("component's page changed", 2)
		f.write("all/wxa/page.json", `{"name": ""}`)
		f.after(settled)
		f.logged("page.json: name: empty", 1)
		f.logged("component's secrets changed", 0)
	})
}
