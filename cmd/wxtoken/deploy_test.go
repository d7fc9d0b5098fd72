//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/internal/events"
)

// users are those of deploy/nats/nats-server.conf, but for repair, whom somebody has to let in
// first.
var users = []string{"ingest", "refresher", "service", "gateway", "console", "operator", "backup"}

// deployEnv sets the variables that the files of deploy/nats want, for all tests of the process.
func deployEnv() error {
	faults := []error{
		os.Setenv("JETSTREAM_KEY", "secret-of-the-disk"),
		os.Setenv("NATS_SERVER_NAME", "nats-2"),
		os.Setenv("CLUSTER_PASSWORD", "pw"),
		os.Setenv("CLUSTER_ROUTES", "[nats://cluster:pw@nats-1:6222, nats://cluster:pw@nats-2:6222, nats://cluster:pw@nats-3:6222]"),
	}
	for _, user := range append(slices.Clone(users), "shop") {
		faults = append(faults, os.Setenv(strings.ToUpper(user)+"_PASSWORD", "secret-of-"+user))
	}
	return errors.Join(faults...)
}

// The files of deploy/nats that say who may do what.
const (
	accounts = "nats-server.conf"
	single   = "single-account.conf"
)

// shipped starts a NATS server with one of these files, on a free port and in a directory of the
// test. Each change is applied to the text of the file first.
func shipped(t testing.TB, file string, changes ...func(string) string) *server.Server {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{file, "tls.conf"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "nats", name))
		if err != nil {
			t.Fatal(err)
		}
		if name == file {
			for _, change := range changes {
				text = []byte(change(string(text)))
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts, err := server.ProcessConfigFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	if !opts.JetStream || !opts.SyncAlways || opts.JetStreamMaxStore == 0 || opts.StoreDir != "/data" || opts.JetStreamKey == "" {
		t.Errorf("JetStream %v, sync always %v, max store %d, directory %s, key %t", opts.JetStream, opts.SyncAlways, opts.JetStreamMaxStore, opts.StoreDir, opts.JetStreamKey != "")
	}
	opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, 0, t.TempDir(), true, true
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not get ready")
	}
	return srv
}

// urlOf is the server's URL with a user's password in it.
func urlOf(srv *server.Server, user string) string {
	of := user
	if user == "repair" {
		of = "backup"
	}
	return "nats://" + user + ":secret-of-" + of + "@" + srv.Addr().String()
}

// withRepair lets the user repair in.
func withRepair(text string) string { return strings.ReplaceAll(text, "#repair ", "") }

// as connects as a user, with the inbox that is the user's own.
func as(t testing.TB, srv *server.Server, user string) *nats.Conn {
	t.Helper()
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // refusals are what the tests are about
	nc, err := nats.Connect(urlOf(srv, user), nats.CustomInboxPrefix("_INBOX_"+user), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// may says which users may publish to a subject, and subscribe to it.
type may struct{ publish, subscribe []string }

// TestDeployedPermissions asks for what each user may and may not do.
func TestDeployedPermissions(t *testing.T) {
	t.Parallel()
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			testPermissions(t, file)
		})
	}
}

func testPermissions(t *testing.T, file string) {
	for _, url := range []string{"nats://" + shipped(t, file).Addr().String(), urlOf(shipped(t, file), "repair")} {
		if nc, err := nats.Connect(url); err == nil {
			nc.Close()
			t.Errorf("%s was let in", url)
		}
	}
	srv := shipped(t, file, withRepair)
	const key = "authorizer.wx1.wx2"
	rows := map[string]may{
		"wechat.auth.wx1.component_verify_ticket": {publish: []string{"ingest", "refresher"}}, // the refresher: again, from DEAD
		"journal.audit.wx1.renew":                 {publish: []string{"refresher"}},
		"journal.push.wx1.refused":                {publish: []string{"ingest", "refresher"}},
		"journal.count.ingest.a":                  {publish: []string{"ingest", "refresher"}},
		"journal.count.gateway.a":                 {publish: []string{"ingest", "refresher", "gateway"}},
		"wechat.message.wx1.wx2.text":             {publish: []string{"ingest"}},
		"wechat.notice.wx1.authorized":            {publish: []string{"ingest"}},
		"wechat.reply.wx1.wx2.text":               {publish: []string{"ingest"}, subscribe: []string{"service", "gateway"}},
		"wechat.reply.>":                          {subscribe: []string{"service", "gateway"}},
		"$KV.tokens." + key:                       {publish: []string{"refresher", "repair"}},
		"$KV.status." + key:                       {publish: []string{"refresher", "repair"}},
		"credential." + key:                       {publish: []string{"refresher"}},
		"renewal.scheduled." + key:                {publish: []string{"refresher"}},
		"renewal.due." + key:                      {publish: []string{"refresher"}},
		"dead.wx1":                                {publish: []string{"refresher"}},
		"dead.webhook.shop.x":                     {publish: []string{"refresher", "gateway"}},
		"webhook.answered.x":                      {publish: []string{"gateway"}, subscribe: []string{"gateway"}},
		"token.updated." + key:                    {subscribe: []string{"service"}},
		"status.updated." + key:                   {subscribe: []string{"service", "operator"}},
		"status.updated.>":                        {subscribe: []string{"service", "operator"}},
		"wxtoken.reject":                          {publish: []string{"service", "gateway", "operator"}, subscribe: []string{"refresher"}},
		"wxtoken.renew":                           {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"wxtoken.reconcile":                       {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"wxtoken.quota":                           {publish: []string{"refresher", "operator"}, subscribe: []string{"refresher"}},
		"wxtoken.account":                         {publish: []string{"refresher", "operator"}, subscribe: []string{"refresher"}},
		"wxtoken.connect.create":                  {publish: []string{"service", "gateway", "operator"}, subscribe: []string{"refresher"}},
		"wxtoken.connect.list":                    {publish: []string{"refresher", "operator"}, subscribe: []string{"refresher"}},
		"wxtoken.connect.open":                    {publish: []string{"ingest"}, subscribe: []string{"refresher"}},
		"wxtoken.dead":                            {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"wxtoken.reveal":                          {subscribe: []string{"refresher"}},                                 // for a user of its own, if for any
		"wxtoken.console.renew":                   {publish: []string{"refresher"}, subscribe: []string{"refresher"}}, // says who asks
		"wxtoken.console.reveal":                  {publish: []string{"refresher"}, subscribe: []string{"refresher"}},
		"wxtoken.new":                             {subscribe: []string{"refresher"}},
		"wxtoken.>":                               {subscribe: []string{"refresher"}},
		"$SRV.PING":                               {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.PING.wxtoken":                       {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.PING.wxtoken.x":                     {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.INFO":                               {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.INFO.wxtoken":                       {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.INFO.wxtoken.x":                     {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.STATS":                              {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.STATS.wxtoken":                      {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.STATS.wxtoken.x":                    {publish: []string{"operator"}, subscribe: []string{"refresher"}},
		"$SRV.PING.other":                         {subscribe: []string{"refresher"}},
		"_INBOX_ingest.x":                         {subscribe: []string{"ingest"}},
		"_INBOX_service.x":                        {subscribe: []string{"service"}},
		"_INBOX_gateway.x":                        {subscribe: []string{"gateway"}},
		"_INBOX_refresher.x":                      {subscribe: []string{"refresher"}},
		"_INBOX_console.x":                        {subscribe: []string{"console"}},
		"_INBOX_operator.x":                       {subscribe: []string{"operator"}},
		"_INBOX_backup.x":                         {subscribe: []string{"backup"}},
		"_INBOX_repair.x":                         {subscribe: []string{"repair"}},
		"_INBOX.x":                                {subscribe: []string{"service"}},
		"$JS.API.DIRECT.GET.KV_tokens.$KV.tokens." + key:          {publish: []string{"refresher", "service", "console"}},
		"$JS.API.DIRECT.GET.KV_tokens.credential." + key:          {publish: []string{"refresher"}},
		"$JS.API.DIRECT.GET.KV_tokens":                            {},
		"$JS.API.DIRECT.GET.KV_status.$KV.status." + key:          {publish: []string{"refresher", "service", "console", "operator"}},
		"$JS.API.DIRECT.GET.AUTH.wechat.auth.wx1.callback":        {},
		"$JS.API.STREAM.MSG.GET.KV_tokens":                        {},
		"$JS.API.STREAM.MSG.GET.AUTH":                             {},
		"$JS.API.STREAM.MSG.GET.DEAD":                             {},
		"$JS.API.STREAM.MSG.GET.MESSAGES":                         {publish: []string{"refresher"}},
		"$JS.API.CONSUMER.CREATE.KV_tokens.x.$KV.tokens.>":        {publish: []string{"refresher", "service", "gateway"}},
		"$JS.API.CONSUMER.CREATE.KV_tokens.x.credential.>":        {publish: []string{"refresher"}},
		"$JS.API.CONSUMER.CREATE.KV_tokens.x":                     {publish: []string{"refresher"}},
		"$JS.API.CONSUMER.CREATE.KV_status.x.$KV.status.>":        {publish: []string{"refresher", "service", "gateway"}},
		"$JS.API.CONSUMER.CREATE.AUTH.x.wechat.auth.>":            {publish: []string{"refresher"}},
		"$JS.API.CONSUMER.CREATE.MESSAGES.x.wechat.message.wx1.>": {publish: []string{"service", "gateway"}},
		"$JS.API.CONSUMER.CREATE.DEAD.x.dead.>":                   {publish: []string{"operator"}},
		"$JS.API.CONSUMER.MSG.NEXT.DEAD.x":                        {publish: []string{"operator"}},
		"$JS.API.CONSUMER.MSG.NEXT.AUTH.x":                        {publish: []string{"refresher"}},
		"$JS.API.CONSUMER.MSG.NEXT.MESSAGES.x":                    {publish: []string{"service", "gateway"}},
		"$JS.API.CONSUMER.LIST.AUTH":                              {publish: []string{"operator"}},
		"$JS.API.CONSUMER.INFO.AUTH.x":                            {publish: []string{"refresher", "operator"}},
		"$JS.API.CONSUMER.INFO.MESSAGES.x":                        {publish: []string{"service", "gateway", "operator"}},
		"$JS.API.CONSUMER.DELETE.AUTH.x":                          {},
		"$JS.API.STREAM.LIST":                                     {publish: []string{"operator"}},
		"$JS.API.STREAM.NAMES":                                    {publish: []string{"operator", "repair"}},
		"$JS.API.STREAM.INFO.AUTH":                                {publish: []string{"ingest", "refresher", "operator", "backup", "repair"}},
		"$JS.API.STREAM.INFO.DEAD":                                {publish: []string{"refresher", "operator", "backup", "repair"}},
		"$JS.API.STREAM.INFO.MESSAGES":                            {publish: []string{"refresher", "service", "gateway", "operator", "backup", "repair"}},
		"$JS.API.STREAM.INFO.KV_tokens":                           {publish: []string{"refresher", "service", "gateway", "console", "operator", "backup", "repair"}},
		"$JS.API.STREAM.INFO.KV_status":                           {publish: []string{"refresher", "service", "gateway", "console", "operator", "backup", "repair"}},
		"$JS.API.STREAM.CREATE.AUTH":                              {publish: []string{"refresher"}},
		"$JS.API.STREAM.DELETE.KV_tokens":                         {publish: []string{"repair"}},
		"$JS.API.STREAM.PURGE.KV_tokens":                          {publish: []string{"repair"}},
		"$JS.API.STREAM.MSG.DELETE.KV_tokens":                     {},
		"$JS.API.STREAM.SNAPSHOT.KV_tokens":                       {publish: []string{"backup"}},
		"$JS.API.STREAM.SNAPSHOT.KV_status":                       {publish: []string{"backup"}},
		"$JS.API.STREAM.SNAPSHOT.MESSAGES":                        {publish: []string{"backup"}},
		"$JS.API.STREAM.SNAPSHOT.DEAD":                            {publish: []string{"backup"}},
		"$JS.API.STREAM.SNAPSHOT.AUTH":                            {},
		"$JS.SNAPSHOT.ACK.KV_tokens.x.1024.1":                     {publish: []string{"backup"}},
		"$JS.API.STREAM.RESTORE.KV_tokens":                        {publish: []string{"repair"}},
		"$JS.SNAPSHOT.RESTORE.KV_tokens.x":                        {publish: []string{"repair"}},
		"wechat.>":                                                {},
		"credential.>":                                            {},
		"dead.>":                                                  {},
		"token.updated.>":                                         {subscribe: []string{"service"}},
		"renewal.>":                                               {},
		"$KV.>":                                                   {},
		"$SRV.>":                                                  {subscribe: []string{"refresher"}},
		">":                                                       {},
	}
	for subject, may := range map[string]map[string]may{
		accounts: {
			"$JS.API.CONSUMER.CREATE.KV_tokens.services.$KV.tokens.>": {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.CREATE.KV_status.services.$KV.status.>": {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.CREATE.KV_status.services":              {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.INFO.MESSAGES.x":                        {publish: []string{"refresher", "service", "gateway", "operator"}},
			"$JS.API.CONSUMER.CREATE.MESSAGES.services":               {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.CREATE.MESSAGES.services.wechat.>":      {},
			"$JS.API.CONSUMER.CREATE.MESSAGES.x":                      {publish: []string{"refresher", "service", "gateway"}},
			"$JS.FC.KV_tokens.services.x":                             {},
			"services.API.STREAM.CREATE.KV_tokens":                    {publish: []string{"refresher"}},
			"services.API.STREAM.DELETE.KV_tokens":                    {},
			"setup.API.STREAM.UPDATE.KV_tokens":                       {},
			"keeper.API.CONSUMER.RESET.KV_tokens.services":            {},
			"$JS.API.CONSUMER.RESET.KV_tokens.services":               {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.RESET.KV_tokens.refresher-due":          {},
			"$JS.API.CONSUMER.DELETE.MESSAGES.services":               {},
			"mirror.services.KV_tokens":                               {},
			"mirror.>":                                                {},
		},
		single: {
			"$JS.API.STREAM.LIST":                                                           {publish: []string{"operator", "service"}},
			"$JS.API.STREAM.NAMES":                                                          {publish: []string{"operator", "repair", "service"}},
			"$JS.API.STREAM.MSG.GET.KV_tokens":                                              {publish: []string{"service"}}, // it goes where nobody listens
			"$JS.API.DIRECT.GET.KV_tokens":                                                  {publish: []string{"service"}}, // the same
			"$JS.API.CONSUMER.CREATE.KV_tokens":                                             {publish: []string{"service"}}, // the same
			"$JS.API.CONSUMER.DELETE.KV_tokens.x":                                           {publish: []string{"refresher", "service", "gateway"}},
			"$JS.API.CONSUMER.DELETE.KV_tokens.refresher-due":                               {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.DELETE.MESSAGES.x":                                            {},
			"$JS.API.CONSUMER.INFO.MESSAGES.x":                                              {publish: []string{"service", "gateway", "operator"}},
			"$JS.API.CONSUMER.CREATE.KV_tokens.refresher-due.$KV.tokens.>":                  {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.CREATE.KV_tokens.refresher-due.$KV.tokens.authorizer.wx1.wx2": {publish: []string{"refresher"}},
			"$JS.API.CONSUMER.CREATE.KV_status.x":                                           {publish: []string{"service", "gateway"}},
		},
	}[file] {
		rows[subject] = may
	}
	for subject, may := range rows {
		for _, user := range append(slices.Clone(users), "repair") {
			for _, verb := range []struct {
				name string
				do   func(nc *nats.Conn) error
				may  []string
			}{
				{"publish", func(nc *nats.Conn) error { return nc.Publish(subject, nil) }, may.publish},
				{"subscribe", func(nc *nats.Conn) error {
					_, err := nc.SubscribeSync(subject)
					return err
				}, may.subscribe},
			} {
				wanted := strings.Contains(strings.Join(verb.may, " "), user)
				if verb.name == "publish" && strings.HasSuffix(subject, ">") && !strings.HasPrefix(subject, "$JS") {
					continue // nobody publishes to a wildcard
				}
				if file == accounts && verb.name == "publish" && !wanted && unheard(user, subject) {
					continue // it may, and what is not imported hears nothing of it: TestServiceRefused
				}
				nc := as(t, srv, user)
				if err := verb.do(nc); err != nil {
					t.Fatal(err)
				}
				if err := nc.Flush(); err != nil {
					t.Fatal(err)
				}
				allowed := !errors.Is(nc.LastError(), nats.ErrPermissionViolation)
				if allowed != wanted {
					t.Errorf("%s may %s %s: %v, want %v", user, verb.name, subject, allowed, wanted)
				}
				nc.Close()
			}
		}
	}
}

// unheard reports whether a user in the services' account may publish to a subject there, whether or not anything listens.
func unheard(user, subject string) bool {
	for _, denied := range []string{"$JS.API.CONSUMER.RESET.>", "$JS.API.CONSUMER.CREATE.*.services", "$JS.API.CONSUMER.CREATE.*.services.>"} {
		if events.Covers(denied, subject) {
			return false
		}
	}
	switch user {
	case "service":
		return strings.HasPrefix(subject, "$JS.API.") || strings.HasPrefix(subject, "$KV.")
	case "gateway":
		return strings.HasPrefix(subject, "$JS.API.")
	}
	return false
}

// TestDeployedRequests asks as each user asks, and has it answered by the user who answers.
func TestDeployedRequests(t *testing.T) {
	t.Parallel()
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			testRequests(t, file)
		})
	}
}

func testRequests(t *testing.T, file string) {
	srv := shipped(t, file)
	// No word of a refusal, on either side.
	quietly := func(user string) *nats.Conn {
		nc := as(t, srv, user)
		nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("%s: %v", user, err) })
		return nc
	}
	refresher := quietly("refresher")
	service, err := micro.AddService(refresher, micro.Config{Name: events.ServiceName, Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := service.Stop(); err != nil {
			t.Error(err)
		}
	}()
	subjects := []string{
		events.SubjectReject, events.SubjectRenew, events.SubjectReconcile, events.SubjectQuota,
		events.SubjectConnectCreate, events.SubjectConnectOpen, events.SubjectDead, events.ConsoleSubject(events.SubjectReveal),
	}
	for _, subject := range subjects {
		name := strings.ReplaceAll(subject, ".", "-")
		err := service.AddEndpoint(name, micro.HandlerFunc(func(r micro.Request) {
			if err := r.Respond([]byte("answer to " + r.Subject())); err != nil {
				t.Error(err)
			}
		}), micro.WithEndpointSubject(subject))
		if err != nil {
			t.Fatal(err)
		}
	}
	replier := quietly("service")
	if _, err := replier.QueueSubscribe("wechat.reply.*.wx2.>", "shop", func(m *nats.Msg) {
		if err := m.Respond([]byte("answer to " + m.Subject)); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, nc := range []*nats.Conn{refresher, replier} {
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	id := service.Info().ID
	for user, subjects := range map[string][]string{
		"ingest":    {events.SubjectConnectOpen, "wechat.reply.wx1.wx2.text", "wechat.reply.wx1.wx2.event.subscribe"},
		"refresher": {events.ConsoleSubject(events.SubjectReveal)}, // a button of its page
		"service":   {events.SubjectReject, events.SubjectConnectCreate},
		"gateway":   {events.SubjectReject, events.SubjectConnectCreate},
		"operator": {
			events.SubjectReject, events.SubjectRenew, events.SubjectReconcile, events.SubjectQuota, events.SubjectConnectCreate, events.SubjectDead,
			"$SRV.PING", "$SRV.PING.wxtoken", "$SRV.PING.wxtoken." + id, "$SRV.INFO", "$SRV.INFO.wxtoken", "$SRV.INFO.wxtoken." + id,
			"$SRV.STATS", "$SRV.STATS.wxtoken", "$SRV.STATS.wxtoken." + id,
		},
	} {
		nc := quietly(user)
		for range 2 { // the right to answer is given anew for each request
			for _, subject := range subjects {
				m, err := nc.Request(subject, nil, patience)
				if err != nil {
					t.Errorf("%s asks %s: %v", user, subject, err)
					continue
				}
				if strings.HasPrefix(subject, "w") && string(m.Data) != "answer to "+subject {
					t.Errorf("%s asks %s: %s", user, subject, m.Data)
				}
			}
		}
	}

	// A second answer, and one without a question, go nowhere.
	asker, answerer := as(t, srv, "ingest"), as(t, srv, "service")
	answers, err := asker.SubscribeSync("_INBOX_ingest.answers")
	if err != nil {
		t.Fatal(err)
	}
	asked, err := answerer.SubscribeSync("wechat.reply.wx1.wx3.text")
	if err != nil {
		t.Fatal(err)
	}
	flush := func(nc *nats.Conn) {
		t.Helper()
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	flush(asker)
	flush(answerer)
	publish := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	publish(answerer.Publish("_INBOX_ingest.answers", []byte("unasked")))
	flush(answerer)
	publish(asker.PublishRequest("wechat.reply.wx1.wx3.text", "_INBOX_ingest.answers", nil))
	m, err := asked.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	publish(m.Respond([]byte("first")))
	publish(m.Respond([]byte("second")))
	flush(answerer)
	flush(asker)
	m, err = answers.NextMsg(patience)
	if err != nil || string(m.Data) != "first" {
		t.Fatalf("answer %v %v, want the first", m, err)
	}
	if n, _, err := answers.Pending(); err != nil || n != 0 {
		t.Errorf("%d more answers, %v", n, err)
	}
}

// eventually waits until try has no error.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	within(t, patience, what, try)
}

// within is eventually with another end.
func within(t testing.TB, patience time.Duration, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait for %s: %v", what, err)
		}
	}
}
