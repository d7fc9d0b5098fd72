package notify

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"wxtoken/client"
	"wxtoken/internal/hook"
	"wxtoken/internal/lang"
	"wxtoken/internal/settings"
)

// Config holds the settings of notices; package settings reads the tags.
type Config struct {
	NotifyFile string `name:"notify-file" group:"Notices" placeholder:"file" help:"Who is told when something needs a person, and when it is over: webhooks and robots of WeCom, DingTalk and Feishu (JSON, docs/notices.md). Read again while the process runs. Its URLs are secrets."`
	ConsoleURL string `name:"console-url" group:"Notices" placeholder:"https://host" help:"Address at which operators reach the operator's page: each notice links to it."`
	NotifyTest bool   `name:"notify-test" group:"Notices" help:"Send a test notice to each receiver of --notify-file, say what each answered, and end."`
}

// Validate returns all faults of the settings, joined.
func (c Config) Validate() error {
	var faults []error
	if c.NotifyFile != "" {
		if _, err := ReadFile(c.NotifyFile); err != nil {
			faults = append(faults, settings.Fault("notify-file", "%w", err))
		}
	} else if c.NotifyTest {
		faults = append(faults, settings.Fault("notify-test", "there is no receiver: set --notify-file"))
	}
	if c.ConsoleURL != "" && !isPageAddress(c.ConsoleURL) {
		faults = append(faults, settings.Fault("console-url", "want http://... or https://..., without a password, a query or a fragment"))
	}
	return errors.Join(faults...)
}

// isPageAddress reports whether links can be made by adding a path to text.
func isPageAddress(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" &&
		u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// The kinds of receivers.
const (
	KindWebhook  = "webhook"
	KindWeCom    = "wecom"
	KindDingTalk = "dingtalk"
	KindFeishu   = "feishu"
)

// Receiver is a receiver of notices.
type Receiver struct {
	Name     string
	Kind     string
	Language lang.Language
	url      string // a secret: it contains a robot's key
	secret   wxtoken.Secret
	key      []byte // of a webhook
}

// Host returns the host of a receiver's address: the only part that may be shown.
func (r Receiver) Host() string {
	u, err := url.Parse(r.url)
	if err != nil {
		return ""
	}
	return u.Host
}

// file is the notify file.
type file struct {
	Receivers []entry `json:"receivers"`
}

// entry is one receiver in it.
type entry struct {
	Name     string         `json:"name"`
	Kind     string         `json:"kind"`
	URL      string         `json:"url"`
	Secret   string         `json:"secret"`
	Language *lang.Language `json:"language"`
}

// maxReceivers bounds the file: each receiver has a consumer and label values of its own.
const maxReceivers = 32

var receiverName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// what names the file in error texts and logs.
const what = "notify file"

// ReadFile reads a notify file.
func ReadFile(path string) ([]Receiver, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	receivers, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return receivers, nil
}

// Parse reads the text of a notify file. The error lists every fault with its place in the file,
// and shows no URL and no secret.
func Parse(data []byte) ([]Receiver, error) {
	var f file
	if err := settings.DecodeJSON(data, &f, ""); err != nil {
		return nil, err
	}
	var receivers []Receiver
	var faults []error
	if len(f.Receivers) > maxReceivers {
		faults = append(faults, fmt.Errorf("receivers: %d, want %d at most", len(f.Receivers), maxReceivers))
	}
	for i, e := range f.Receivers {
		r, errs := e.receiver()
		if slices.ContainsFunc(receivers, func(other Receiver) bool { return other.Name == r.Name }) {
			errs = append(errs, errors.New("name: it stands there twice"))
		}
		for _, err := range errs {
			faults = append(faults, fmt.Errorf("receivers[%d] %w", i, err))
		}
		receivers = append(receivers, r)
	}
	return receivers, errors.Join(faults...)
}

// receiver reads one entry. Its errors name places within it.
func (e entry) receiver() (Receiver, []error) {
	r := Receiver{Name: e.Name, Kind: e.Kind, Language: lang.Chinese, url: e.URL, secret: wxtoken.NewSecret(e.Secret)}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !receiverName.MatchString(e.Name) {
		fault("name: want lower-case letters, digits, - and _, 32 at most")
	}
	if e.Language != nil {
		r.Language = *e.Language
	}
	if r.Language != lang.Chinese && r.Language != lang.English {
		fault("language: want zh or en")
	}
	if _, err := hook.Address(e.URL); err != nil {
		fault("url: %w", err)
	}
	switch e.Kind {
	case KindWebhook:
		var err error
		if r.key, err = hook.Secret(e.Secret); err != nil {
			fault("secret: %w", err)
		}
	case KindWeCom:
		if e.Secret != "" {
			fault("secret: a WeCom robot has none (its key is in the url)")
		}
	case KindDingTalk, KindFeishu:
	default:
		fault("kind: want %s", strings.Join([]string{KindWebhook, KindWeCom, KindDingTalk, KindFeishu}, ", "))
	}
	return r, faults
}
