package wechatsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	compID    = "wxb11529c136998cb6"
	compKey   = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	compToken = "pamtest"
	accountA  = "wxaaaaaaaaaaaaaaaa"
	accountB  = "wxbbbbbbbbbbbbbbbb"
)

// calmConfig returns a config of one component and no trouble.
func calmConfig() wechatsim.Config {
	return wechatsim.Config{Components: []wechatsim.Component{{
		AppID: compID, AppSecret: "SEKRET-appsecret", Token: compToken, EncodingAESKey: compKey,
		AuthURL: "http://ingest/auth", MessageURL: "http://ingest/message/$APPID$", AutoPush: true,
	}}}
}

// bubble runs a test in virtual time, from the year 2026 on.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)))
		test(t)
	})
}

// pipes is a network of one host: what dials it is accepted.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.IPAddr{} }

// received is one push as ingest saw it.
type received struct {
	at       time.Time
	path     string
	query    url.Values
	fields   map[string]string
	document string
}

// world is a running platform with a client of its API and a receiver of its pushes.
type world struct {
	t      *testing.T
	p      *wechatsim.Platform
	client *http.Client
	stop   func() // ends the platform; called by itself at the end of the test

	mu      sync.Mutex
	inbox   []received
	answer  func(received) string // of the receiver; nil means "success"
	handler http.HandlerFunc      // instead of the receiver, if not nil
}

// start runs a platform in the bubble of t.
func start(t *testing.T, config wechatsim.Config) *world {
	t.Helper()
	w := &world{t: t}
	ingest, platform := newPipes(), newPipes()
	pushTransport := &http.Transport{DialContext: ingest.DialContext}
	config.Transport = pushTransport
	p, err := wechatsim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	w.p = p
	w.client = &http.Client{Transport: &http.Transport{DialContext: platform.DialContext}}
	receiver := &http.Server{Handler: http.HandlerFunc(w.receive)}
	api := &http.Server{Handler: p.Handler()}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = receiver.Serve(ingest) })
	wg.Go(func() { _ = api.Serve(platform) })
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	w.stop = sync.OnceFunc(func() {
		cancel()
		w.client.CloseIdleConnections()
		pushTransport.CloseIdleConnections()
		_ = receiver.Close()
		_ = api.Close()
		wg.Wait()
	})
	t.Cleanup(w.stop)
	return w
}

func (w *world) receive(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	handler := w.handler
	w.mu.Unlock()
	if handler != nil {
		handler(rw, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	got, err := open(r.URL.Query(), body)
	if err != nil {
		w.t.Errorf("push to %s: %v\n%s", r.URL.Path, err, body)
	}
	got.path, got.at = r.URL.Path, time.Now()
	w.mu.Lock()
	w.inbox = append(w.inbox, got)
	answer := w.answer
	w.mu.Unlock()
	if answer == nil {
		_, _ = io.WriteString(rw, "success")
		return
	}
	_, _ = io.WriteString(rw, answer(got))
}

// open checks and decrypts a push the way that message_push describes it.
func open(query url.Values, body []byte) (received, error) {
	var envelope struct {
		AppID      string `xml:"AppId"`
		ToUserName string
		Encrypt    string
	}
	if err := xml.Unmarshal(body, &envelope); err != nil {
		return received{}, err
	}
	timestamp, nonce := query.Get("timestamp"), query.Get("nonce")
	if query.Get("signature") != wechatsim.Sign(compToken, timestamp, nonce) {
		return received{}, errors.New("wrong signature")
	}
	if query.Get("msg_signature") != wechatsim.Sign(compToken, timestamp, nonce, envelope.Encrypt) {
		return received{}, errors.New("wrong msg_signature")
	}
	if query.Get("encrypt_type") != "aes" {
		return received{}, errors.New("encrypt_type is not aes")
	}
	key, err := wechatsim.AESKey(compKey)
	if err != nil {
		return received{}, err
	}
	document, appid, err := wechatsim.Decrypt(key, envelope.Encrypt)
	if err != nil {
		return received{}, err
	}
	if appid != compID {
		return received{}, errors.New("the appid at the end is " + appid)
	}
	got := received{query: query, document: string(document), fields: map[string]string{"envelope": envelope.AppID + envelope.ToUserName}}
	decoder := xml.NewDecoder(bytes.NewReader(document))
	var path []string
	for {
		at, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return received{}, err
		}
		switch at := at.(type) {
		case xml.StartElement:
			path = append(path, at.Name.Local)
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.CharData:
			if len(path) > 1 && strings.TrimSpace(string(at)) != "" {
				got.fields[strings.Join(path[1:], "/")] += string(at)
			}
		}
	}
}

// pushed returns what was received so far of an InfoType, "" for everything, when all is quiet.
func (w *world) pushed(infoType string) []received {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var some []received
	for _, r := range w.inbox {
		if infoType == "" || r.fields["InfoType"] == infoType {
			some = append(some, r)
		}
	}
	return some
}

func (w *world) setAnswer(answer func(received) string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

func (w *world) setHandler(handler http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = handler
}

// wechat returns the client of internal/wechat for the platform's API.
func (w *world) wechat() *wechat.Client {
	w.t.Helper()
	client, err := wechat.NewClient(wechat.ClientConfig{BaseURL: "http://api", Transport: w.client.Transport})
	if err != nil {
		w.t.Fatal(err)
	}
	return client
}

// errcodeOf returns the errcode in an error of internal/wechat, 0 for none.
func errcodeOf(err error) int {
	if e, ok := errors.AsType[*wechat.Error](err); ok {
		return e.Code
	}
	return 0
}

// last returns the newest push of an InfoType.
func (w *world) last(infoType string) received {
	w.t.Helper()
	all := w.pushed(infoType)
	if len(all) == 0 {
		w.t.Fatalf("no %s was pushed", infoType)
	}
	return all[len(all)-1]
}

// fields is a JSON object.
type fields = map[string]any

// post calls an API and returns its answer.
func (w *world) post(path string, body fields) (fields, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	response, err := w.client.Post("http://api"+path, "application/json", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	var answer fields
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer, err
}

// must calls an API and fails the test unless it succeeds.
func (w *world) must(path string, body fields) fields {
	w.t.Helper()
	answer, err := w.post(path, body)
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	if code, there := answer["errcode"]; there && code != 0.0 {
		w.t.Fatalf("%s: %v", path, answer)
	}
	return answer
}

// errcode calls an API and returns the errcode it answers, 0 if none.
func (w *world) errcode(path string, body fields) int {
	w.t.Helper()
	answer, err := w.post(path, body)
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	code, _ := answer["errcode"].(float64)
	return int(code)
}

const apiPath = "/cgi-bin/component/"

// componentToken gets a component token with the newest ticket.
func (w *world) componentToken() string {
	w.t.Helper()
	ticket := w.last("component_verify_ticket").fields["ComponentVerifyTicket"]
	answer := w.must(apiPath+"api_component_token", fields{
		"component_appid": compID, "component_appsecret": "SEKRET-appsecret", "component_verify_ticket": ticket,
	})
	return answer["component_access_token"].(string)
}

// account authorizes an account, exchanges its code and returns its access and refresh token.
func (w *world) account(token, appid string) (access, refresh string) {
	w.t.Helper()
	if err := w.p.Authorize(compID, appid); err != nil {
		w.t.Fatal(err)
	}
	return w.exchange(token, w.last("authorized").fields["AuthorizationCode"])
}

func (w *world) exchange(token, code string) (access, refresh string) {
	w.t.Helper()
	answer := w.must(apiPath+"api_query_auth?component_access_token="+token, fields{"component_appid": compID, "authorization_code": code})
	info := answer["authorization_info"].(fields)
	return info["authorizer_access_token"].(string), info["authorizer_refresh_token"].(string)
}

func refreshBody(appid, refresh string) fields {
	return fields{"component_appid": compID, "authorizer_appid": appid, "authorizer_refresh_token": refresh}
}

func (w *world) refresh(token, appid, refresh string) (access, next string) {
	w.t.Helper()
	answer := w.must(apiPath+"api_authorizer_token?component_access_token="+token, refreshBody(appid, refresh))
	return answer["authorizer_access_token"].(string), answer["authorizer_refresh_token"].(string)
}

// businessErrcode returns the errcode of a business call with an access token.
func (w *world) businessErrcode(access string) int {
	w.t.Helper()
	return w.errcode("/cgi-bin/user/info?access_token="+access, fields{})
}

// outcomes returns the outcomes of the entries of a kind, in order.
func (w *world) outcomes(kind wechatsim.EntryKind) []string {
	var list []string
	for _, e := range w.p.History() {
		if e.Kind == kind {
			list = append(list, e.Outcome)
		}
	}
	return list
}
