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

// maxSecret bounds a token and an AppSecret, in characters. Package wechat accepts no longer token.
const maxSecret = 128

// ComponentSettings are the components of a process.
type ComponentSettings struct {
	ComponentAppid string `group:"Component" placeholder:"appid" help:"AppID of the third-party platform."`
	ComponentsDir  string `group:"Component" placeholder:"dir" help:"For several components: a directory with a folder for each, named by its AppID. A folder holds the files appsecret, token and aes_key, and optionally token_previous, aes_key_previous, and page.json with its logo."`
}

// AppsecretSettings is the AppSecret of the component set by flag. Only the refresher needs it.
type AppsecretSettings struct {
	ComponentAppsecret     wxtoken.Secret `hidden:""`
	ComponentAppsecretFile string         `group:"Component" placeholder:"file" help:"File with the AppSecret. (In development: WXTOKEN_COMPONENT_APPSECRET with the value itself.)"`
}

// PushSettings are the secrets that open pushes to the component set by flag. Only ingest needs them.
type PushSettings struct {
	ComponentToken              wxtoken.Secret `hidden:""`
	ComponentTokenFile          string         `group:"Component" placeholder:"file" help:"File with the message verification token. (Or WXTOKEN_COMPONENT_TOKEN.)"`
	ComponentTokenPrevious      wxtoken.Secret `hidden:""`
	ComponentTokenPreviousFile  string         `group:"Component" placeholder:"file" help:"File with the previous token, while the token is being changed. (Or WXTOKEN_COMPONENT_TOKEN_PREVIOUS.)"`
	ComponentAesKey             wxtoken.Secret `hidden:""`
	ComponentAesKeyFile         string         `group:"Component" placeholder:"file" help:"File with the EncodingAESKey, 43 characters. (Or WXTOKEN_COMPONENT_AES_KEY.)"`
	ComponentAesKeyPrevious     wxtoken.Secret `hidden:""`
	ComponentAesKeyPreviousFile string         `group:"Component" placeholder:"file" help:"File with the previous EncodingAESKey, while the key is being changed. (Or WXTOKEN_COMPONENT_AES_KEY_PREVIOUS.)"`
	ComponentPageFile           string         `group:"Component" placeholder:"file" help:"JSON file with what merchants read on the pages of authorization links: name, name_en, contact, contact_en, color, category_id_list, and logo, the name of a picture in the same folder."`
	ComponentPage               Page           `kong:"-"` // used without such a file
}

// Component is a third-party platform with the secrets that the process needs: the refresher the AppSecret,
// ingest the others.
type Component struct {
	AppID     string // component_appid
	AppSecret wxtoken.Secret
	Tokens    []wxtoken.Secret // verify pushes: the current one, then the previous one if there is one
	AESKeys   []wxtoken.Secret // EncodingAESKeys, in the same order
	Page      Page             // of its authorization links
}

// LoadComponents reads the components and their secrets, sorted by appid: the one set by flag and those in the
// components directory. With a nil secret or push it does not read those. It returns an *Error with all that is
// missing or wrong, which never shows a secret.
func LoadComponents(c ComponentSettings, secret *AppsecretSettings, push *PushSettings) ([]Component, error) {
	l := load(c, secret, push)
	if err := NewError(l.faults...); err != nil {
		return nil, err
	}
	return byAppID(l.good), nil
}

// load reads all components that can be read, and notes the faults of the others.
func load(c ComponentSettings, secret *AppsecretSettings, push *PushSettings) *loader {
	l := &loader{good: map[string]Component{}, faulty: map[string]bool{}}
	if c.ComponentAppid == "" && c.ComponentsDir == "" {
		l.fault(Fault("component-appid", "no component: set this, or --components-dir (%s)", Variable("components-dir")))
	}
	if c.ComponentAppid != "" {
		l.readFlags(c.ComponentAppid, secret, push)
	}
	if c.ComponentsDir != "" {
		l.readDirectory(c.ComponentsDir, secret != nil, push != nil)
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

// loader collects components and faults.
type loader struct {
	good    map[string]Component // usable ones, by appid
	faulty  map[string]bool      // faulty ones, by appid
	folders int                  // folders of components in the directory, usable or not
	faults  []error
}

func (l *loader) fault(err error) { l.faults = append(l.faults, err) }

// add adds a component. It is faulty if there are more faults than before.
func (l *loader) add(c Component, before int) {
	if len(l.faults) > before {
		l.faulty[c.AppID] = true
		return
	}
	l.good[c.AppID] = c
}

// source says where a secret comes from, and the flag to name in a fault.
type source struct {
	value  wxtoken.Secret
	file   string
	flag   string
	needed bool
	check  func(string) error
}

// readFlags reads the component that is set by flags.
func (l *loader) readFlags(appid string, secret *AppsecretSettings, push *PushSettings) {
	c, before := Component{AppID: appid}, len(l.faults)
	if !wxtoken.ValidAppID(appid) {
		l.fault(Fault("component-appid", "%q is not an appid: copy it from the component's page on the open platform, for instance wx1234567890abcdef", appid))
	}
	from := func(flag string, value wxtoken.Secret, file string, needed bool, check func(string) error) wxtoken.Secret {
		if file != "" {
			flag += "-file"
		}
		return l.read(source{value, file, flag, needed, check})
	}
	if secret != nil {
		c.AppSecret = from("component-appsecret", secret.ComponentAppsecret, secret.ComponentAppsecretFile, true, checkSecret)
	}
	if push != nil {
		c.Tokens = present(
			from("component-token", push.ComponentToken, push.ComponentTokenFile, true, checkSecret),
			from("component-token-previous", push.ComponentTokenPrevious, push.ComponentTokenPreviousFile, false, checkSecret))
		c.AESKeys = present(
			from("component-aes-key", push.ComponentAesKey, push.ComponentAesKeyFile, true, checkAESKey),
			from("component-aes-key-previous", push.ComponentAesKeyPrevious, push.ComponentAesKeyPreviousFile, false, checkAESKey))
		c.Page = push.ComponentPage
		if push.ComponentPageFile != "" {
			c.Page = l.readPage("component-page-file", push.ComponentPageFile)
		}
	}
	l.add(c, before)
}

// readDirectory reads the components of a directory, which may be a secret mount of Docker or Kubernetes.
func (l *loader) readDirectory(dir string, secret, push bool) {
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
			continue // "..data" and the like belong to Kubernetes
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
			continue // the component of the flag counts
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
			c.AppSecret = from("appsecret", true, checkSecret)
		}
		if push {
			c.Tokens = present(from("token", true, checkSecret), from("token_previous", false, checkSecret))
			c.AESKeys = present(from("aes_key", true, checkAESKey), from("aes_key_previous", false, checkAESKey))
			if file := filepath.Join(path, "page.json"); exists(file) {
				c.Page = l.readPage("components-dir", file)
			}
		}
		l.add(c, before)
	}
	if empty {
		l.fault(Fault("components-dir", "%s holds no folder: want one per component, named by its appid", dir))
	}
}

// exists reports whether a file exists, even if it can't be read.
func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, os.ErrNotExist)
}

// readPage reads a page file.
func (l *loader) readPage(flag, file string) Page {
	p, err := ReadPage(file)
	for _, fault := range leaves(err) {
		l.fault(Fault(flag, "%w", fault))
	}
	return p
}

// read returns a secret, without the space around it.
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
			l.fault(Fault(from.flag, "not set: copy it from the component's page on the open platform into a file, and name that with the same flag and -file"))
		}
		return wxtoken.Secret{}
	}
	if err := from.check(value); err != nil {
		l.fault(Fault(from.flag, "%s%w", place, err))
		return wxtoken.Secret{}
	}
	return wxtoken.NewSecret(value)
}

// present returns the secrets that are set.
func present(secrets ...wxtoken.Secret) []wxtoken.Secret {
	return slices.DeleteFunc(secrets, wxtoken.Secret.IsZero)
}

// checkSecret returns an error for a value that can't be a token or an AppSecret. It does not show the value.
func checkSecret(value string) error {
	if len(value) > maxSecret {
		return fmt.Errorf("holds %d characters, no token or secret has more than %d: copy it from WeChat's page again", len(value), maxSecret)
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("holds a space or a character that is not ASCII: copy it from WeChat's page again")
	}
	return nil
}

// checkAESKey returns an error for a value that can't be an EncodingAESKey. It does not show the value.
func checkAESKey(value string) error {
	if len(value) != aesKeyLen {
		return fmt.Errorf("holds %d characters: an EncodingAESKey has %d letters and digits", len(value), aesKeyLen)
	}
	if _, err := base64.StdEncoding.DecodeString(value + "="); err != nil {
		return errors.New("is not base64: copy the EncodingAESKey from WeChat's page again")
	}
	return nil
}
