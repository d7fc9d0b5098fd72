package settings

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wxtoken/client"
)

// aesKeyLen is the length of an EncodingAESKey in characters: base64 of 32 bytes without its "="
// (page "message_push").
const aesKeyLen = 43

// maxWord bounds a token and a secret, in characters. Package wechat takes no longer token.
const maxWord = 128

// ComponentSettings says which components a process serves.
type ComponentSettings struct {
	ComponentAppid string `group:"Component" placeholder:"appid" help:"AppID of the third-party platform."`
	ComponentsDir  string `group:"Component" placeholder:"dir" help:"Several components: one folder for each, named by its AppID, with the files appsecret, token, aes_key, and where there are any token_previous, aes_key_previous and page.json with its logo."`
}

// AppsecretSettings is the secret of the component named by flag. Only the refresher needs it.
type AppsecretSettings struct {
	ComponentAppsecret     wxtoken.Secret `hidden:""`
	ComponentAppsecretFile string         `group:"Component" placeholder:"file" help:"File with the AppSecret. (In development: WXTOKEN_COMPONENT_APPSECRET with the value itself.)"`
}

// PushSettings is what opens the pushes to the component named by flag. Only ingest needs it.
type PushSettings struct {
	ComponentToken              wxtoken.Secret `hidden:""`
	ComponentTokenFile          string         `group:"Component" placeholder:"file" help:"File with the message verification token. (Or WXTOKEN_COMPONENT_TOKEN.)"`
	ComponentTokenPrevious      wxtoken.Secret `hidden:""`
	ComponentTokenPreviousFile  string         `group:"Component" placeholder:"file" help:"File with the token before, while it is being changed. (Or WXTOKEN_COMPONENT_TOKEN_PREVIOUS.)"`
	ComponentAesKey             wxtoken.Secret `hidden:""`
	ComponentAesKeyFile         string         `group:"Component" placeholder:"file" help:"File with the EncodingAESKey, 43 characters. (Or WXTOKEN_COMPONENT_AES_KEY.)"`
	ComponentAesKeyPrevious     wxtoken.Secret `hidden:""`
	ComponentAesKeyPreviousFile string         `group:"Component" placeholder:"file" help:"File with the EncodingAESKey before, while it is being changed. (Or WXTOKEN_COMPONENT_AES_KEY_PREVIOUS.)"`
	ComponentPageFile           string         `group:"Component" placeholder:"file" help:"File with what merchants read on the pages of authorization links: JSON with name, name_en, contact, contact_en, color, category_id_list, and logo, the name of a picture beside it."`
	ComponentPage               Page           `kong:"-"` // where there is no such file
}

// Component is one third-party platform, with the secrets that the process needs of it: a refresher
// the AppSecret, ingest the others.
type Component struct {
	AppID     string // component_appid
	AppSecret wxtoken.Secret
	Tokens    []wxtoken.Secret // sign pushes: the current one, then the previous one if there is any
	AESKeys   []wxtoken.Secret // EncodingAESKeys, in the same order
	Page      Page             // of its authorization links
}

// LoadComponents reads the components and their secrets, sorted by appid: the one named by flag and
// those in the components directory. A nil secret or push means that this process does not need
// those, and they are not even read. It returns an *Error with all that is missing or wrong,
// which never shows a secret.
func LoadComponents(c ComponentSettings, secret *AppsecretSettings, push *PushSettings) ([]Component, error) {
	l := load(c, secret, push)
	if err := NewError(l.faults...); err != nil {
		return nil, err
	}
	return byAppID(l.good), nil
}

// load reads what can be read.
func load(c ComponentSettings, secret *AppsecretSettings, push *PushSettings) *loader {
	l := &loader{good: map[string]Component{}, faulty: map[string]bool{}}
	if c.ComponentAppid == "" && c.ComponentsDir == "" {
		l.fault(Fault("component-appid", "no component: set this, or --components-dir (%s)", Variable("components-dir")))
	}
	if c.ComponentAppid != "" {
		l.flagged(c.ComponentAppid, secret, push)
	}
	if c.ComponentsDir != "" {
		l.directory(c.ComponentsDir, secret != nil, push != nil)
	}
	return l
}

// byAppID returns the components in the order of their appids.
func byAppID(components map[string]Component) []Component {
	var out []Component
	for _, appid := range slices.Sorted(maps.Keys(components)) {
		out = append(out, components[appid])
	}
	return out
}

// AppIDs returns the appids of components.
func AppIDs(components []Component) (appids []string) {
	for _, c := range components {
		appids = append(appids, c.AppID)
	}
	return appids
}

// loader gathers the components, and what is wrong.
type loader struct {
	good    map[string]Component // those that can be used, by appid
	faulty  map[string]bool      // those that are there and can't
	folders int                  // that the directory holds for components, whatever is in them
	faults  []error
}

func (l *loader) fault(err error) { l.faults = append(l.faults, err) }

// add takes a component that was read, or notes that it had faults: more than there were before.
func (l *loader) add(c Component, before int) {
	if len(l.faults) > before {
		l.faulty[c.AppID] = true
		return
	}
	l.good[c.AppID] = c
}

// source is where one secret comes from, and what to call it in a fault.
type source struct {
	value  wxtoken.Secret
	file   string
	flag   string
	needed bool
	check  func(string) error
}

// flagged reads the component of the flags.
func (l *loader) flagged(appid string, secret *AppsecretSettings, push *PushSettings) {
	c, before := Component{AppID: appid}, len(l.faults)
	if !wxtoken.ValidAppID(appid) {
		l.fault(Fault("component-appid", "%q is not an appid: it stands on the component's page of the open platform, for instance wx1234567890abcdef", appid))
	}
	from := func(flag string, value wxtoken.Secret, file string, needed bool, check func(string) error) wxtoken.Secret {
		if file != "" {
			flag += "-file"
		}
		return l.read(source{value, file, flag, needed, check})
	}
	if secret != nil {
		c.AppSecret = from("component-appsecret", secret.ComponentAppsecret, secret.ComponentAppsecretFile, true, checkWord)
	}
	if push != nil {
		c.Tokens = present(
			from("component-token", push.ComponentToken, push.ComponentTokenFile, true, checkWord),
			from("component-token-previous", push.ComponentTokenPrevious, push.ComponentTokenPreviousFile, false, checkWord))
		c.AESKeys = present(
			from("component-aes-key", push.ComponentAesKey, push.ComponentAesKeyFile, true, checkAESKey),
			from("component-aes-key-previous", push.ComponentAesKeyPrevious, push.ComponentAesKeyPreviousFile, false, checkAESKey))
		c.Page = push.ComponentPage
		if push.ComponentPageFile != "" {
			c.Page = l.page("component-page-file", push.ComponentPageFile)
		}
	}
	l.add(c, before)
}

// directory reads the components of a directory, as a secret mount of Docker or Kubernetes lays it
// out.
func (l *loader) directory(dir string, secret, push bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		l.fault(Fault("components-dir", "%w", err))
		return
	}
	empty := true
	for _, entry := range entries {
		appid, path := entry.Name(), filepath.Join(dir, entry.Name())
		info, err := os.Stat(path) // follows the links of a mount
		if strings.HasPrefix(appid, ".") || err == nil && !info.IsDir() {
			continue // "..data" and the like are Kubernetes's own
		}
		empty = false
		valid := wxtoken.ValidAppID(appid)
		if valid {
			l.folders++
		}
		if err != nil || !valid {
			l.faulty[appid] = true
			l.fault(Fault("components-dir", "%s is not a folder named by an appid", path))
			continue
		}
		if l.good[appid].AppID != "" || l.faulty[appid] {
			l.fault(Fault("component-appid", "%q has a folder in --components-dir as well: keep one of the two", appid))
			continue // the flag's own is in force
		}
		from := func(name string, needed bool, check func(string) error) wxtoken.Secret {
			file := filepath.Join(path, name)
			if !exists(file) {
				if needed {
					l.fault(Fault("components-dir", "%s is missing", file))
				}
				return wxtoken.Secret{}
			}
			return l.read(source{wxtoken.Secret{}, file, "components-dir", needed, check})
		}
		c, before := Component{AppID: appid}, len(l.faults)
		if secret {
			c.AppSecret = from("appsecret", true, checkWord)
		}
		if push {
			c.Tokens = present(from("token", true, checkWord), from("token_previous", false, checkWord))
			c.AESKeys = present(from("aes_key", true, checkAESKey), from("aes_key_previous", false, checkAESKey))
			if file := filepath.Join(path, "page.json"); exists(file) {
				c.Page = l.page("components-dir", file)
			}
		}
		l.add(c, before)
	}
	if empty {
		l.fault(Fault("components-dir", "%s holds no folder: want one for each component, named by its appid", dir))
	}
}

// exists reports whether there is something of that name, be it that it can't be read.
func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, os.ErrNotExist)
}

// page reads what merchants are told.
func (l *loader) page(flag, file string) Page {
	p, err := ReadPage(file)
	for _, fault := range leaves(err) {
		l.fault(Fault(flag, "%w", fault))
	}
	return p
}

// read returns one secret, without the space around it.
func (l *loader) read(from source) wxtoken.Secret {
	value, place := from.value.Reveal(), ""
	switch {
	case value != "" && from.file != "":
		l.fault(Fault(from.flag, "the value is set as well: keep the file, and unset the variable"))
		return wxtoken.Secret{}
	case from.file != "":
		content, err := os.ReadFile(from.file)
		if err != nil {
			l.fault(Fault(from.flag, "%w", err))
			return wxtoken.Secret{}
		}
		value, place = strings.TrimSpace(string(content)), from.file+" "
		if value == "" {
			l.fault(Fault(from.flag, "%s is empty", from.file))
			return wxtoken.Secret{}
		}
	case value == "":
		if from.needed {
			l.fault(Fault(from.flag, "not set: it stands on the component's page of the open platform; put it in a file and name that with the same flag and -file"))
		}
		return wxtoken.Secret{}
	}
	if err := from.check(value); err != nil {
		l.fault(Fault(from.flag, "%s%w", place, err))
		return wxtoken.Secret{}
	}
	return wxtoken.NewSecret(value)
}

// present leaves out the secrets that are not there.
func present(secrets ...wxtoken.Secret) []wxtoken.Secret {
	return slices.DeleteFunc(secrets, wxtoken.Secret.IsZero)
}

// checkWord says whether value can be a token or a secret, without showing it.
func checkWord(value string) error {
	if len(value) > maxWord {
		return fmt.Errorf("holds %d characters, no token or secret has more than %d: copy it from WeChat's page again", len(value), maxWord)
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("holds a space or a character that is not ASCII: copy it from WeChat's page again")
	}
	return nil
}

// checkAESKey says whether value can be an EncodingAESKey, without showing it.
func checkAESKey(value string) error {
	if len(value) != aesKeyLen {
		return fmt.Errorf("holds %d characters: an EncodingAESKey has %d letters and digits", len(value), aesKeyLen)
	}
	if _, err := base64.StdEncoding.DecodeString(value + "="); err != nil {
		return errors.New("is not base64: copy the EncodingAESKey from WeChat's page again")
	}
	return nil
}
