package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
	"wxtoken/internal/streams"
)

// connectWithin bounds the wait for a connection, and for each answer of NATS.
const connectWithin = 3 * time.Second

// nats checks the server, the rights, the streams and the server's settings.
func (c *Checker) nats(ctx context.Context) []Line {
	const name = "nats"
	if c.NATS == nil {
		return []Line{skip(name, lang.T("the server of this process does not run",
			"本进程自带的 NATS 没有运行"))}
	}
	for deadline := time.Now().Add(connectWithin); !c.NATS.IsConnected() && time.Now().Before(deadline) &&
		ctx.Err() == nil && !isAuthError(c.NATS.LastError()); {
		time.Sleep(10 * time.Millisecond)
	}
	if !c.NATS.IsConnected() {
		line := Line{Fail, name, lang.T("no connection to %s%s",
			"连不上 %s%s", c.NATSURL, because(c.NATS.LastError())),
			runbook.NATSAway.See(lang.T("start nats-server, or set its address with --nats-url (WXTOKEN_NATS_URL)",
				"启动 nats-server，或用 --nats-url (WXTOKEN_NATS_URL) 指明它的地址"))}
		if isAuthError(c.NATS.LastError()) {
			line.Remedy = lang.T("check user and password in --nats-url (WXTOKEN_NATS_URL), or --nats-creds (WXTOKEN_NATS_CREDS)",
				"检查 --nats-url (WXTOKEN_NATS_URL) 里的用户和密码，或 --nats-creds (WXTOKEN_NATS_CREDS)")
		}
		return []Line{line}
	}
	version := c.NATS.ConnectedServerVersion()
	began := time.Now()
	if err := c.NATS.FlushWithContext(ctx); err != nil {
		return []Line{{Fail, name, lang.T("%s does not answer%s", "%s 没有应答%s", c.NATSURL, because(err)),
			runbook.NATSAway.See(lang.T("check nats-server's log", "查看 nats-server 的日志"))}}
	}
	first := ok(name, lang.T("%s, version %s, answers in %s",
		"%s，版本 %s，应答用时 %s", c.NATSURL, version, time.Since(began).Round(10*time.Microsecond)))
	if err := streams.CheckServer(version); err != nil {
		first = Line{Fail, name, lang.Same(err.Error()), lang.T("install a newer nats-server",
			"安装更新的 nats-server")}
	}
	if unheard := c.checkInbox(); unheard != nil {
		return append(append([]Line{first}, unheard...), c.server(ctx)...)
	}
	user, askErr := c.askUser(ctx)
	lines := []Line{first}
	if c.Role != "" {
		lines = append(lines, c.rightsLine(ctx, user, askErr))
	}
	if askErr == nil {
		lines = append(lines, clockLine("clock, to NATS", user.ahead,
			lang.T("schedules fire by the clock of NATS", "定时消息按 NATS 的时钟触发")))
	}
	complete := true
	for _, stream := range c.Streams {
		line, there := c.streamLine(ctx, stream)
		lines, complete = append(lines, line), complete && there
	}
	for _, p := range c.Probes {
		if !complete {
			lines = append(lines, skip(p.Name, lang.T("before the streams are there", "stream 还没有建立")))
			continue
		}
		lines = append(lines, p.line(ctx))
	}
	return append(lines, c.server(ctx)...)
}

// line runs the probe and returns its line.
func (p Probe) line(ctx context.Context) Line {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if p.Look != nil {
		return p.Look(ctx)
	}
	if err := p.Run(ctx); err != nil {
		return Line{Fail, p.Name, lang.Same(err.Error()), p.Remedy}
	}
	return ok(p.Name, p.Works)
}

func isAuthError(err error) bool { return errors.Is(err, nats.ErrAuthorization) }

// because returns the text of an error, for the end of a sentence.
func because(err error) lang.Text {
	if err == nil {
		return lang.Text{}
	}
	return lang.T(": %s", "：%s", strings.TrimPrefix(err.Error(), "nats: "))
}

// userInfo is what a NATS server tells users about themselves.
type userInfo struct {
	Server struct {
		Time time.Time `json:"time"`
	} `json:"server"`
	Data struct {
		User        string `json:"user"`
		Account     string `json:"account"`
		Permissions *struct {
			Publish   permission `json:"publish"`
			Subscribe permission `json:"subscribe"`
			Responses *struct{}  `json:"responses"`
		} `json:"permissions"`
	} `json:"data"`
	ahead time.Duration // by how much this machine's clock is ahead of the server's
}

// permission lists allowed and denied subjects; without either list, all are allowed.
type permission struct {
	Allow []string `json:"allow"`
	Deny  []string `json:"deny"`
}

// askUser asks the server what this user may do.
func (c *Checker) askUser(ctx context.Context) (info userInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	began := time.Now()
	answer, err := c.NATS.RequestWithContext(ctx, events.SubjectUserInfo, nil)
	middle := began.Add(time.Since(began) / 2)
	if err == nil {
		err = json.Unmarshal(answer.Data, &info)
	}
	info.ahead = middle.Sub(info.Server.Time)
	return info, err
}

// rightsLine compares the user's rights with those that the process needs.
func (c *Checker) rightsLine(ctx context.Context, user userInfo, err error) Line {
	const name = "nats rights"
	if err != nil {
		return Line{Warn, name, lang.T("the server does not tell the rights of this user%s",
			"服务器没有说明这个用户的权限%s", because(err)),
			lang.T("allow it to publish %s, which shows a user its own rights and nothing else (deploy/nats/nats-server.conf)",
				"允许它发布 %s：那里只能看到自己的权限（deploy/nats/nats-server.conf）", events.SubjectUserInfo)}
	}
	services := slices.DeleteFunc(slices.Clone(c.Setup.ServicesAPI), func(api string) bool {
		return !streams.HasServices(ctx, c.NATS, api)
	})
	rights := events.Rights(c.Role, services...)
	who := lang.T("user %q of account %s", "用户 %q（账户 %s）", user.Data.User, user.Data.Account)
	if user.Data.Permissions == nil {
		return Line{Warn, name, lang.T("%s may do everything", "%s没有任何限制", who),
			lang.T("give each process a user of its own: deploy/nats/nats-server.conf",
				"给每个进程单独的用户：deploy/nats/nats-server.conf")}
	}
	var lacks, inPart []string
	for _, right := range rights {
		p := user.Data.Permissions.Publish
		switch right.Verb {
		case events.MaySubscribe:
			p = user.Data.Permissions.Subscribe
		case events.MayAnswer:
			if user.Data.Permissions.Responses == nil {
				lacks = append(lacks, right.Verb)
			}
			continue
		}
		what := right.Verb + " " + right.Subject
		switch {
		case !p.any(right.Subject):
			lacks = append(lacks, what)
		case !p.all(right.Subject):
			inPart = append(inPart, what)
		}
	}
	switch {
	case lacks != nil:
		return Line{Fail, name, lang.T("%s may not %s", "%s缺少权限：%s", who, strings.Join(lacks, ", ")),
			lang.T("add what is missing to the permissions of that user: deploy/nats/nats-server.conf has all of them",
				"给这个用户补上缺少的权限：deploy/nats/nats-server.conf 里都有")}
	case inPart != nil:
		return Line{Warn, name, lang.T("%s may only in part %s",
			"%s只有部分权限：%s", who, strings.Join(inPart, ", ")),
			lang.T("nothing, if that is intended: pushes and keys outside of it fail",
				"如果是有意的，就不用处理：范围之外的推送和 key 会失败")}
	}
	return ok(name, lang.T("%s has all %d rights that %s needs",
		"%s有 %d 项权限，%s 需要的都有", who, len(rights), c.Role))
}

// all reports whether all that subject matches is allowed.
func (p permission) all(subject string) bool {
	return (p.Allow == nil || slices.ContainsFunc(p.Allow, func(a string) bool { return events.Covers(a, subject) })) &&
		!slices.ContainsFunc(p.Deny, func(d string) bool { return events.Overlaps(d, subject) })
}

// any reports whether some of what subject matches is allowed.
func (p permission) any(subject string) bool {
	return (p.Allow == nil || slices.ContainsFunc(p.Allow, func(a string) bool { return events.Overlaps(a, subject) })) &&
		!slices.ContainsFunc(p.Deny, func(d string) bool { return events.Covers(d, subject) })
}

// streamLine compares a stream with the table of streams; there is false if it does not exist.
func (c *Checker) streamLine(ctx context.Context, stream string) (line Line, there bool) {
	name := "stream " + stream
	drift, missing, err := streams.Drift(ctx, c.js, c.Setup, stream)
	switch {
	case err != nil:
		return Line{Fail, name, lang.Same(err.Error()), lang.T("see the line nats rights and nats-server's log: JetStream must be on",
			"看 nats rights 一行和 nats-server 的日志：必须启用 JetStream")}, false
	case missing && c.Role == events.RoleIngest:
		return Line{Warn, name, lang.T("is not there",
			"还没有建立"), lang.T("start a refresher: it makes the streams. Until then pushes are answered 503",
			"启动 refresher，由它建立 stream；在此之前推送会得到 503")}, false
	case missing:
		return ok(name, runbook.DataLost.See(lang.T("is not there: a refresher makes it when it starts. If it was there before",
			"还没有建立：refresher 启动时会建立它。如果原来有过"))), false
	case drift == nil:
		return ok(name, lang.T("as it should be", "正常")), true
	}
	line = Line{Warn, name, lang.Same(strings.Join(drift, "; ")),
		lang.T("restart a refresher: it corrects the settings, or says why it can't",
			"重启 refresher：它会改正，改不了时会说明原因")}
	if stream == events.StreamTokens {
		line.Mark = Fail // a limit there makes schedules and credentials vanish
	}
	return line, true
}

// monitor is the answer of /jsz of a NATS server.
type monitor struct {
	Config *struct {
		StoreDir   string `json:"store_dir"`
		MaxStore   int64  `json:"max_storage"`
		SyncAlways bool   `json:"sync_always"`
	} `json:"config"`
}

const (
	nameSync   = "nats sync_interval"
	nameStore  = "nats max_file_store"
	nameCipher = "nats cipher"
)

// server checks the settings of the server that keep the data safe.
func (c *Checker) server(ctx context.Context) []Line {
	if c.Role == events.RoleIngest || c.Role == events.RoleGateway { // other roles check the server
		return nil
	}
	cipher := skip(nameCipher, lang.T("NATS does not tell: look for jetstream.cipher in its configuration, or make sure that its disk is encrypted",
		"NATS 不对外说明：看它的配置里有没有 jetstream.cipher，或者确认磁盘已加密"))
	s := c.Server
	if s == nil {
		if c.MonitorURL == "" {
			why := lang.T("not checked without --nats-monitor-url (WXTOKEN_NATS_MONITOR_URL): see the configuration of nats-server",
				"没有设置 --nats-monitor-url (WXTOKEN_NATS_MONITOR_URL)，无法检查：请看 nats-server 的配置")
			return []Line{skip(nameSync, why), skip(nameStore, why), cipher}
		}
		var err error
		if s, err = c.readMonitor(ctx); err != nil {
			return []Line{{Fail, nameSync, lang.T("no answer from the monitoring address%s",
				"监控地址没有应答%s", because(err)),
				lang.T("--nats-monitor-url (WXTOKEN_NATS_MONITOR_URL) wants the address of http: in nats-server's configuration, http://127.0.0.1:8222 for instance",
					"--nats-monitor-url (WXTOKEN_NATS_MONITOR_URL) 要填 nats-server 配置里 http: 的地址，例如 http://127.0.0.1:8222")}, cipher}
		}
	}
	sync := ok(nameSync, lang.Same("always"))
	if !s.SyncAlways {
		sync = Line{Fail, nameSync, lang.T("not always: acked pushes and tokens are lost in a power cut",
			"不是 always：断电会丢失已确认的推送和令牌"),
			lang.T("set jetstream.sync_interval: always in nats-server's configuration, and restart it",
				"在 nats-server 的配置里设置 jetstream.sync_interval: always，然后重启")}
	}
	return []Line{sync, storeLine(s), cipherLine(s, cipher)}
}

// cipherLine checks whether the streams on disk are encrypted, if this process can see the disk: an encrypted stream
// has a key file of its own.
func cipherLine(s *Server, unseen Line) Line {
	var open []string
	streams, _ := filepath.Glob(filepath.Join(strings.TrimSuffix(s.StoreDir, "jetstream"), "jetstream", "*", "streams", "*", "meta.inf"))
	for _, meta := range streams {
		dir := filepath.Dir(meta)
		if _, err := os.Stat(filepath.Join(dir, "meta.key")); errors.Is(err, fs.ErrNotExist) {
			open = append(open, filepath.Base(dir))
		}
	}
	switch {
	case len(streams) == 0:
		return unseen
	case len(open) > 0:
		return Line{Warn, nameCipher, lang.T("in the clear on disk: %s",
			"在磁盘上没有加密：%s", strings.Join(open, ", ")),
			lang.T("set jetstream.cipher and key in nats-server's configuration, or make sure that JETSTREAM_KEY is not empty (the server does not complain), "+
				"and restart it: it encrypts the data that it has; or make sure that its disk is encrypted",
				"在 nats-server 的配置里设置 jetstream.cipher 和 key，或确认 JETSTREAM_KEY 不是空的（为空时服务器不会报错），"+
					"然后重启，它会把已有的数据加密；或者确认磁盘已加密")}
	}
	return ok(nameCipher, lang.T("the streams are encrypted", "stream 已加密"))
}

// storeLine compares the limit of the store with the size of its disk.
func storeLine(s *Server) Line {
	size, found := diskSize(s.StoreDir)
	sizes := lang.T("%s, and the disk under %s has %s",
		"%s；%s 所在的磁盘有 %s", bytes(s.MaxStore), s.StoreDir, bytes(int64(size)))
	switch {
	case !found:
		return skip(nameStore, lang.T("%s; the disk, which must be larger, can only be checked on the machine with the data",
			"%s；磁盘只能在存放数据的机器上检查，它必须更大", bytes(s.MaxStore)))
	case s.MaxStore <= 0 || uint64(s.MaxStore) >= size:
		return Line{Fail, nameStore, sizes,
			runbook.FullDisk.See(lang.T("set jetstream.max_file_store below the size of the disk: a full disk stops everything, a reached limit does not",
				"把 jetstream.max_file_store 设得小于磁盘：磁盘写满时一切停止，达到上限时不会"))}
	}
	return ok(nameStore, sizes)
}

func bytes(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// readMonitor reads the settings of a server from its monitoring address.
func (c *Checker) readMonitor(ctx context.Context) (*Server, error) {
	answer, err := c.get(ctx, strings.TrimRight(c.MonitorURL, "/")+"/jsz?config=true")
	if err != nil {
		return nil, err
	}
	var m monitor
	if answer.status != http.StatusOK || json.Unmarshal(answer.body, &m) != nil || m.Config == nil {
		return nil, fmt.Errorf("status %d, without the settings of JetStream", answer.status)
	}
	return &Server{StoreDir: m.Config.StoreDir, MaxStore: m.Config.MaxStore, SyncAlways: m.Config.SyncAlways}, nil
}
