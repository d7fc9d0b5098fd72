package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/seal"
	"wxtoken/wechatsim"
)

// everywhere are all streams.
var everywhere = []string{events.StreamAuth, events.StreamMessages, events.StreamTokens, "KV_" + events.BucketStatus, events.StreamDead}

// accessToken is the form of an access token of the platform. Services read them in the bucket, so they lie there in the clear.
var accessToken = regexp.MustCompile(`\b[0-9]{2}_SEKRET-[0-9]+-[0-9a-f]{32}_[0-9a-f]{64}`)

// secretMarks are what a secret of the platform is known by, in the clear or URL-escaped, and in base64 at each alignment.
var secretMarks = []string{"SEKRET", "U0VLUkVU", "NFS1JFV", "TRUtSRV"}

// lifeOf plays a life on a sealed system with what NATS keeps in dir, and returns what no stranger may see beside the
// platform's own secrets. At its end something lies on every stream.
func lifeOf(t *testing.T, w *world) (secrets []string) {
	t.Helper()
	ask := func(subject string, q, answer any) {
		t.Helper()
		data, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		w.eventually(time.Minute, func() error {
			m, err := w.reader().Request(subject, data, 5*time.Second)
			if err == nil && m.Header.Get("Nats-Service-Error") != "" {
				err = errors.New(m.Header.Get("Nats-Service-Error"))
			}
			if err != nil {
				return err
			}
			return json.Unmarshal(m.Data, answer)
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(w.reader())
	must(err)
	one := w.start()
	alice, bob, carol := appidOf(1), appidOf(2), appidOf(3)
	for _, a := range []string{alice, bob} {
		must(w.sim.Authorize(testAppID, a))
		w.eventually(time.Minute, func() error { return w.accepted(a) })
	}
	// By link.
	var link events.ConnectCreated
	ask(events.SubjectConnectCreate, events.ConnectCreate{Component: testAppID, Ref: "tenant"}, &link)
	secrets = append(secrets, link.ID)
	browse := func(address string, cookies []*http.Cookie) (string, []*http.Cookie) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		must(err)
		for _, c := range cookies {
			request.AddCookie(c)
		}
		client := &http.Client{Transport: w.http, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		response, err := client.Do(request)
		must(err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		must(err)
		return string(body), response.Cookies()
	}
	page, cookies := browse(link.URL, nil)
	_, query, _ := strings.Cut(page, "componentloginpage?")
	query, _, _ = strings.Cut(query, `"`)
	v, err := url.ParseQuery(strings.ReplaceAll(query, "&amp;", "&"))
	must(err)
	location, err := w.sim.Consent(testAppID, carol, v.Get("pre_auth_code"), v.Get("redirect_uri"))
	must(err)
	browse(location, cookies)
	for _, c := range cookies {
		secrets = append(secrets, c.Value)
	}
	w.eventually(time.Minute, func() error { return w.accepted(carol) })
	// Renewed on request, authorized anew, cancelled; a message.
	before, err := w.token(wxtoken.AuthorizerKey(testAppID, alice))
	must(err)
	w.eventually(time.Minute, func() error {
		var verdict events.Verdict
		ask(events.SubjectRenew, events.Renew{Key: before.Key}, &verdict)
		if now, err := w.token(before.Key); err != nil || now.Generation == before.Generation {
			return fmt.Errorf("not renewed: %w", err)
		}
		return nil
	})
	must(w.sim.Reauthorize(testAppID, bob))
	must(w.sim.PushMessage(testAppID, alice, wechatsim.Message{Content: "hello"}))
	must(w.sim.Cancel(testAppID, bob))
	w.eventually(time.Minute, func() error {
		if _, err := w.token(wxtoken.AuthorizerKey(testAppID, bob)); !errors.Is(err, jetstream.ErrKeyNotFound) {
			return fmt.Errorf("bob's token is there: %w", err)
		}
		return nil
	})
	// What comes to nothing goes to DEAD.
	public, err := seal.FromPublic(w.seal.Public())
	must(err)
	e, err := events.Auth{Kind: events.KindAuthorized, Component: testAppID, Code: "queryauthcode@@@SEKRET-dead", CreateTime: time.Now(), ReceivedAt: time.Now()}.Event("dead", "/auth")
	must(err)
	e.Seal = public
	_, err = bus.Publish(t.Context(), js, e)
	must(err)
	holds := func(name string, n uint64) {
		t.Helper()
		w.eventually(time.Minute, func() error {
			stream, err := js.Stream(t.Context(), name)
			if err != nil || stream.CachedInfo().State.Msgs < n {
				return fmt.Errorf("%s has not %d messages: %w", name, n, err)
			}
			return nil
		})
	}
	holds(events.StreamDead, 1)
	// While no refresher is there AUTH holds a ticket and a code.
	one.stop()
	must(w.sim.PushTicket(testAppID))
	must(w.sim.Authorize(testAppID, appidOf(4)))
	holds(events.StreamAuth, 2)
	for _, name := range everywhere {
		holds(name, 1)
	}
	return secrets
}

// TestNothingToRead looks for every secret of a life where a stranger might: in each message of each stream with its headers, in a
// backup of each stream, and in each file of the server, with and without encryption of those.
func TestNothingToRead(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		key       string
		encrypted bool
	}{{"sealed", "", false}, {"sealed and encrypted", "a key", true}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			keys, seed := newKeys(t)
			w := newSealedWorld(t, keys, wechatsim.Config{TicketEvery: time.Hour, TokenLife: 30 * time.Second}, func(c *natsd.Config) { c.Key = wxtoken.NewSecret(row.key) })
			w.cfg.PublicURL, w.cfg.WechatPageURL = "http://ingest", "http://wechat"
			w.cfg.SweepEvery = time.Second
			secrets := append(lifeOf(t, w), seed, testSecret, testToken, testAESKey)
			if n := len(w.sim.Secrets()); n < 12 {
				t.Fatalf("the platform made only %d secrets", n)
			}
			// look says what a text shows. Access tokens may stand where services read them.
			look := func(where string, text []byte, tokensToo bool) (tokens int) {
				t.Helper()
				tokens = len(accessToken.FindAll(text, -1))
				if !tokensToo {
					text = accessToken.ReplaceAll(text, nil)
				}
				for _, mark := range slices.Concat(secretMarks, secrets) {
					if at := bytes.Index(text, []byte(mark)); at >= 0 {
						t.Errorf("%s shows a secret: %q", where, text[max(0, at-30):min(len(text), at+30)])
					}
				}
				return tokens
			}
			nc := w.reader()
			js := natsdtest.JetStream(t, nc)
			tokens := 0
			for _, name := range everywhere {
				dump, subjects := dumpOf(t, js, name)
				for _, each := range dump {
					inBucket := strings.HasPrefix(each.subject, "$KV.tokens.")
					n := look(name+" "+each.subject, each.text, !inBucket)
					if inBucket {
						tokens += n
					}
				}
				if name == events.StreamTokens && (!subjects("credential.authorizer.") || !subjects("credential.component.") || !subjects("credential.connect.") || !subjects("credential.preauth.") || !subjects(events.SealSubject)) {
					t.Errorf("not every kind of record lies in %s: the search is not worth much", name)
				}
				look("backup of "+name, backupOf(t, nc, name), name != events.StreamTokens)
			}
			if tokens < 3 {
				t.Errorf("%d access tokens found in the bucket: the search finds nothing", tokens)
			}
			w.nats.Stop()
			inFiles, files := 0, 0
			err := filepath.WalkDir(w.nats.StoreDir(), func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				text, err := os.ReadFile(path)
				files++
				inFiles += look(path, text, row.encrypted)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if files < 20 || (inFiles > 0) == row.encrypted {
				t.Errorf("%d access tokens in %d files, encrypted %t", inFiles, files, row.encrypted)
			}
		})
	}
}

type dumped struct {
	subject string
	text    []byte
}

// dumpOf returns every message of a stream with its headers, and whether there is one whose subject begins in a certain way.
func dumpOf(t *testing.T, js jetstream.JetStream, name string) (all []dumped, begins func(string) bool) {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var of uint64
	for deadline := time.Now().Add(time.Minute); len(all) == 0 || uint64(len(all)) != of; { // again where a schedule fired meanwhile: it is gone then
		if time.Now().After(deadline) {
			t.Errorf("%d of %d messages of %s were looked through", len(all), of, name)
			break
		}
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, of = nil, info.State.Msgs
		for seq := max(info.State.FirstSeq, 1); seq <= info.State.LastSeq; seq++ {
			m, err := stream.GetMsg(t.Context(), seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			text := []byte(m.Subject + "\n")
			for name, values := range m.Header {
				text = append(text, name+": "+strings.Join(values, ",")+"\n"...)
			}
			all = append(all, dumped{m.Subject, append(text, m.Data...)})
		}
	}
	return all, func(prefix string) bool {
		return slices.ContainsFunc(all, func(d dumped) bool { return strings.HasPrefix(d.subject, prefix) })
	}
}

// backupOf makes a snapshot of a stream, as "nats stream backup" does, and returns all that is in it, packed and unpacked.
func backupOf(t *testing.T, nc *nats.Conn, name string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	inbox := nats.NewInbox()
	chunks, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.SNAPSHOT."+name, []byte(`{"deliver_subject":"`+inbox+`"}`))
	if err != nil || bytes.Contains(answer.Data, []byte(`"error"`)) {
		t.Fatalf("back %s up: %v %s", name, err, answer.Data)
	}
	var packed []byte
	for {
		m, err := chunks.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatalf("back %s up: %v", name, err)
		}
		if len(m.Data) == 0 {
			break
		}
		packed = append(packed, m.Data...)
		if m.Reply != "" {
			_ = m.Respond(nil) // the server sees when it stays away
		}
	}
	content, err := io.ReadAll(s2.NewReader(bytes.NewReader(packed)))
	if err != nil {
		t.Fatalf("unpack the backup of %s: %v", name, err)
	}
	if !bytes.Contains(content, []byte(seal.HeaderFor)) && name != events.StreamMessages && name != "KV_"+events.BucketStatus {
		t.Errorf("no sealed message in the backup of %s: the search finds nothing", name)
	}
	return append(packed, content...)
}
