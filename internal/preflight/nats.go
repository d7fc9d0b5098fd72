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
)

// connectWithin is how long a connection that was just begun may take.
const connectWithin = 3 * time.Second

// nats looks at the server, the rights, the streams and the server's settings.
func (c *Checker) nats(ctx context.Context) []Line {
	const name = "nats"
	if c.NATS == nil {
		return []Line{skip(name, "the server of this process does not run")}
	}
	for wait := time.Now().Add(connectWithin); !c.NATS.IsConnected() && time.Now().Before(wait) && ctx.Err() == nil && !refusedUser(c.NATS.LastError()); {
		time.Sleep(10 * time.Millisecond)
	}
	if !c.NATS.IsConnected() {
		line := Line{Fail, name, "no connection to " + c.NATSURL + because(c.NATS.LastError()),
			"start nats-server, or say with --nats-url (WXTOKEN_NATS_URL) where it is; runbook: NATS is away"}
		if refusedUser(c.NATS.LastError()) {
			line.Remedy = "check user and password in --nats-url (WXTOKEN_NATS_URL), or --nats-creds (WXTOKEN_NATS_CREDS)"
		}
		return []Line{line}
	}
	version := c.NATS.ConnectedServerVersion()
	began := time.Now()
	if err := c.NATS.FlushWithContext(ctx); err != nil {
		return []Line{{Fail, name, c.NATSURL + " does not answer" + because(err), "look at nats-server's log; runbook: NATS is away"}}
	}
	first := ok(name, "%s, version %s, answers in %s", c.NATSURL, version, time.Since(began).Round(10*time.Microsecond))
	if err := events.CheckServer(version); err != nil {
		first = Line{Fail, name, err.Error(), "install a newer nats-server"}
	}
	if unheard := c.wrongUser(); unheard != nil {
		return append(append([]Line{first}, unheard...), c.server(ctx)...)
	}
	user, askErr := c.askUser(ctx)
	lines := []Line{first}
	if c.Role != "" {
		lines = append(lines, c.rights(ctx, user, askErr))
	}
	if askErr == nil {
		lines = append(lines, clock("clock, to NATS", time.Since(user.Server.Time)-user.took/2, "schedules fire by the clock of NATS"))
	}
	complete := true
	for _, stream := range c.Streams {
		line, there := c.stream(ctx, stream)
		lines, complete = append(lines, line), complete && there
	}
	for _, p := range c.Probes {
		if !complete {
			lines = append(lines, skip(p.Name, "before the streams are there"))
			continue
		}
		lines = append(lines, p.line(ctx))
	}
	return append(lines, c.server(ctx)...)
}

// line makes the check.
func (p Probe) line(ctx context.Context) Line {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if p.Look != nil {
		return p.Look(ctx)
	}
	if err := p.Run(ctx); err != nil {
		return Line{Fail, p.Name, err.Error(), p.Remedy}
	}
	return ok(p.Name, "%s", p.Works)
}

func refusedUser(err error) bool { return errors.Is(err, nats.ErrAuthorization) }

// because returns the words of an error for the end of a sentence. A *url.Error is made without its URL.
func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + strings.TrimPrefix(err.Error(), "nats: ")
}

// userInfo is what a NATS server tells a user of that user.
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
	took time.Duration
}

// permission is what may be done; with neither list, everything.
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
	info.took = time.Since(began)
	if err == nil {
		err = json.Unmarshal(answer.Data, &info)
	}
	return info, err
}

// rights compares what the user may do with what the process needs.
func (c *Checker) rights(ctx context.Context, user userInfo, err error) Line {
	const name = "nats rights"
	if err != nil {
		return Line{Warn, name, "the server does not say what this user may do" + because(err),
			"allow it to publish " + events.SubjectUserInfo + ", which shows a user its own rights and nothing else (deploy/nats/nats-server.conf)"}
	}
	services := slices.DeleteFunc(slices.Clone(c.Setup.ServicesAPI), func(api string) bool { return !events.HasServices(ctx, c.NATS, api) })
	rights := events.Rights(c.Role, services...)
	who := fmt.Sprintf("user %q of account %s", user.Data.User, user.Data.Account)
	if user.Data.Permissions == nil {
		return Line{Warn, name, who + " may do everything", "give each process a user of its own: deploy/nats/nats-server.conf"}
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
		return Line{Fail, name, who + " may not " + strings.Join(lacks, ", "), "add what is missing to the permissions of that user: deploy/nats/nats-server.conf has all of them"}
	case inPart != nil:
		return Line{Warn, name, who + " may only in part " + strings.Join(inPart, ", "), "nothing, if that is meant: pushes and keys outside of it fail"}
	}
	return ok(name, "%s may do all %d things that %s needs", who, len(rights), c.Role)
}

// all reports whether everything on subject is allowed.
func (p permission) all(subject string) bool {
	return (p.Allow == nil || slices.ContainsFunc(p.Allow, func(a string) bool { return events.Covers(a, subject) })) &&
		!slices.ContainsFunc(p.Deny, func(d string) bool { return events.Overlaps(d, subject) })
}

// any reports whether something on subject is allowed.
func (p permission) any(subject string) bool {
	return (p.Allow == nil || slices.ContainsFunc(p.Allow, func(a string) bool { return events.Overlaps(a, subject) })) &&
		!slices.ContainsFunc(p.Deny, func(d string) bool { return events.Covers(d, subject) })
}

// stream compares a stream with the table, and tells whether it is there.
func (c *Checker) stream(ctx context.Context, stream string) (line Line, there bool) {
	name := "stream " + stream
	drift, missing, err := events.Drift(ctx, c.js, c.Setup, stream)
	switch {
	case err != nil:
		return Line{Fail, name, err.Error(), "look at the line nats rights and at nats-server's log: JetStream must be on"}, false
	case missing && c.Role == events.RoleIngest:
		return Line{Warn, name, "is not there", "start a refresher: it makes the streams. Until then pushes are answered 503"}, false
	case missing:
		return ok(name, "is not there: a refresher makes it when it starts. If it was there before, runbook: All data of NATS is lost"), false
	case drift == nil:
		return ok(name, "as it should be"), true
	}
	line = Line{Warn, name, strings.Join(drift, "; "), "restart a refresher, which sets it right, or says why it can't"}
	if stream == events.StreamTokens {
		line.Mark = Fail // a limit there makes schedules and credentials vanish
	}
	return line, true
}

// monitor is what /jsz of a NATS server says.
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

// server looks at the settings of the server that the data needs.
func (c *Checker) server(ctx context.Context) []Line {
	if c.Role == events.RoleIngest {
		return nil
	}
	cipher := skip(nameCipher, "NATS tells it nobody: look for jetstream.cipher in its configuration, or see that its disk is encrypted")
	s := c.Server
	if s == nil {
		if c.MonitorURL == "" {
			why := "not visible without --nats-monitor-url (WXTOKEN_NATS_MONITOR_URL): the configuration of nats-server has it"
			return []Line{skip(nameSync, "%s", why), skip(nameStore, "%s", why), cipher}
		}
		var err error
		if s, err = c.monitored(ctx); err != nil {
			return []Line{{Fail, nameSync, "the monitoring address does not say" + because(err),
				"--nats-monitor-url (WXTOKEN_NATS_MONITOR_URL) wants the address of http: in nats-server's configuration, http://127.0.0.1:8222 for instance"}, cipher}
		}
	}
	sync := ok(nameSync, "always")
	if !s.SyncAlways {
		sync = Line{Fail, nameSync, "not always: a power cut takes acked pushes and tokens with it", "set jetstream.sync_interval: always in nats-server's configuration, and restart it"}
	}
	return []Line{sync, storeLine(s), cipherLine(s, cipher)}
}

// cipherLine looks whether what lies on the disk is encrypted, where it can be seen: each stream that is has a key of its own.
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
		return Line{Warn, nameCipher, fmt.Sprintf("in the clear on the disk: %s", strings.Join(open, ", ")),
			"set jetstream.cipher and key in nats-server's configuration, or see that JETSTREAM_KEY is not empty (the server says nothing then), and restart it: it encrypts what it finds; or see that its disk is encrypted"}
	}
	return ok(nameCipher, "the streams are encrypted")
}

// storeLine compares the limit of the store with the disk under it.
func storeLine(s *Server) Line {
	size, found := diskSize(s.StoreDir)
	switch {
	case !found:
		return skip(nameStore, "%s; its disk can only be looked at where the data lies: it must be larger", bytes(s.MaxStore))
	case s.MaxStore <= 0 || uint64(s.MaxStore) >= size:
		return Line{Fail, nameStore, fmt.Sprintf("%s, and the disk under %s has %s", bytes(s.MaxStore), s.StoreDir, bytes(int64(size))),
			"set jetstream.max_file_store below the size of the disk: a full disk stops everything, a reached limit does not; runbook: A full disk under NATS"}
	}
	return ok(nameStore, "%s, and the disk under %s has %s", bytes(s.MaxStore), s.StoreDir, bytes(int64(size)))
}

func bytes(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// monitored reads the settings of a server from its monitoring address.
func (c *Checker) monitored(ctx context.Context) (*Server, error) {
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
