package wechat

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"wxtoken/client/document"
	"wxtoken/internal/lang"
)

// The InfoTypes on which the refresher acts ("component_verify_ticket", "authorize_event"). There
// are others, and new ones appear: they are parsed all the same.
const (
	InfoTicket           = "component_verify_ticket"
	InfoAuthorized       = "authorized"
	InfoUpdateAuthorized = "updateauthorized"
	InfoUnauthorized     = "unauthorized"
	// Quick registration of a mini program; the e is WeChat's.
	InfoFastRegister = "notify_third_fasteregister"
)

// Push is a push to the authorization event URL. Fields that are missing, or whose value is in
// doubt, are empty.
type Push struct {
	hidden
	AppID           string    // component_appid
	InfoType        string    // known or unknown, may contain any characters
	CreateTime      time.Time // when WeChat made the event, UTC, to the second; zero if it can't be read
	Ticket          string    // component_verify_ticket
	AuthorizerAppID string    // in a quick registration the new mini program; empty if that failed
	Code            string    // authorization code for api_query_auth
	PreAuthCode     string    // of the authorization link that led to the event

	// What the refresher needs from this InfoType and can't be read; empty if nothing is missing.
	Lacks string
	Odd   []document.Oddity // what is odd about the document

	text [sha256.Size]byte // digest of the document, if its content is not all in the fields
}

// Bounds of the values in a push, in bytes. The public pages give none but advise to leave room; a
// real ticket has about 100.
const (
	maxTicket = 2048
	maxCode   = 2048
)

// ParsePush reads a decrypted document of the authorization event URL, XML or JSON with the same
// names, as far as possible. Unknown fields are ignored. It returns an error, a *Refusal, only for
// a document with a document type.
func ParsePush(text []byte) (Push, error) {
	d, err := document.Read(text, nil)
	if err != nil {
		return Push{}, refuse(ReasonXML, "%v", err)
	}
	if d == nil {
		return Push{Lacks: unreadable[0].Detail, Odd: unreadable, text: sha256.Sum256(text)}, nil
	}
	p := Push{AppID: d.Field("AppId"), InfoType: d.Field("InfoType")}
	if !document.IsAppID(p.AppID) {
		p.AppID = ""
		d.Odd(document.Field, "AppId is missing, in doubt, or not an appid")
	}
	p.readTime(d)
	p.readFields(d)
	if p.Lacks = p.lacks(d); p.Lacks != "" {
		d.Odd(document.Field, "%s", p.Lacks)
	}
	switch p.InfoType {
	case InfoTicket, InfoAuthorized, InfoUpdateAuthorized, InfoUnauthorized:
		if p.CreateTime.IsZero() || p.Lacks != "" {
			p.text = sha256.Sum256(text)
		}
	default:
		p.text = sha256.Sum256(text)
	}
	p.Odd = d.Oddities
	return p, nil
}

func (p *Push) readTime(d *document.Document) {
	if created := d.Field("CreateTime"); isTimestamp(created) && created[0] != '0' {
		p.CreateTime = time.Unix(seconds(created), 0).UTC()
	} else {
		d.Odd(document.Field, "CreateTime is missing, in doubt, or not ten digits")
	}
}

// readFields reads the fields that the refresher needs. Values that WeChat never sends are left
// out: a line end in one, for instance, would do harm in headers and logs.
func (p *Push) readFields(d *document.Document) {
	field, appID, code := d.Field, "AuthorizerAppid", "AuthorizationCode"
	switch p.InfoType {
	case InfoTicket, InfoAuthorized, InfoUpdateAuthorized, InfoUnauthorized:
		field = d.Sole // these contain no user's text
	case InfoFastRegister:
		appID, code = "appid", "auth_code"
		if d.Sole("status") == "0" {
			// A successful registration has all three fields, so a second one, forged by a
			// company's name, would be seen.
			field = d.Sole
		}
	}
	printable := func(name string, limit int) string {
		value := field(name)
		if value != "" && !isPrintable(value, limit) {
			d.Odd(document.Field, "%s is not 1 to %d visible ASCII characters", name, limit)
			return ""
		}
		return value
	}
	if p.InfoType == InfoTicket {
		p.Ticket = printable("ComponentVerifyTicket", maxTicket)
		return
	}
	p.Code, p.PreAuthCode = printable(code, maxCode), printable("PreAuthCode", maxCode)
	if p.AuthorizerAppID = field(appID); p.AuthorizerAppID != "" && !document.IsAppID(p.AuthorizerAppID) {
		p.AuthorizerAppID = ""
		d.Odd(document.Field, "the authorizer's appid is not 1 to 64 letters, digits, _ or -")
	}
}

const (
	lacking = " is missing or in doubt"
	// NotRedactable says why services get no copy of a document.
	NotRedactable = "its secrets can't be told from the rest"
)

// UnreadableText is what is said of a document that can't be read or shown, Push.Lacks or
// NotRedactable, in both languages.
func UnreadableText(detail string) lang.Text {
	field, lacks := strings.CutSuffix(detail, lacking)
	switch {
	case lacks:
		return lang.T("%s is missing or in doubt", "缺少 %s，或者无法确定", field)
	case detail == NotRedactable:
		return lang.Given(detail, "无法把其中的机密与其余内容分开")
	case detail == unreadable[0].Detail:
		return lang.Given(detail, "既不是以 xml 为根的 XML，也不是 JSON 对象")
	}
	return lang.Same(detail)
}

// lacks returns which necessary field of the InfoType is missing or can't be read, "" if none.
func (p *Push) lacks(d *document.Document) string {
	switch p.InfoType {
	case "":
		if !d.Whole {
			return "InfoType" + lacking
		}
	case InfoTicket:
		if p.Ticket == "" {
			return "ComponentVerifyTicket" + lacking
		}
	case InfoAuthorized, InfoUpdateAuthorized:
		if p.Code == "" { // the code is enough: WeChat's answer to it names the account
			return "AuthorizationCode" + lacking
		}
	case InfoUnauthorized:
		if p.AuthorizerAppID == "" {
			return "AuthorizerAppid" + lacking
		}
	case InfoFastRegister:
		status, err := strconv.Atoi(d.Sole("status")) // 0 is success
		if err != nil {
			return "status is missing, in doubt, or not a number"
		}
		if status == 0 && p.Code == "" {
			return "auth_code" + lacking
		}
	}
	return ""
}

// seconds parses a number of at most eleven digits; it returns 0 for any other text.
func seconds(text string) int64 {
	if len(text) > 11 || !isDigits(text) {
		return 0
	}
	n, _ := strconv.ParseInt(text, 10, 64) // eleven digits always fit
	return n
}

// ID returns a digest of the push's content. WeChat's repeats of one push have the same ID although
// they are encrypted anew, and no other push has it. Ticket and code can't be recovered from it.
func (p Push) ID() string {
	ticket := sha256.Sum256([]byte(p.Ticket))
	return digest([]byte("push"), []byte(p.InfoType), []byte(p.AppID), strconv.AppendInt(nil, p.CreateTime.Unix(), 10),
		[]byte(p.AuthorizerAppID), []byte(p.Code), ticket[:], p.text[:])
}

// DocumentID returns a digest of a component and a document that can't be read, or can't be
// redacted.
func DocumentID(component string, text []byte) string {
	return digest([]byte("unreadable"), []byte(component), text)
}

// digest returns the hex SHA-256 of fields. Each is preceded by its length, so that different lists
// of fields never give the same text.
func digest(fields ...[]byte) string {
	h := sha256.New()
	var length [8]byte
	for _, field := range fields {
		binary.BigEndian.PutUint64(length[:], uint64(len(field)))
		h.Write(length[:])
		h.Write(field)
	}
	var sum [sha256.Size]byte
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], h.Sum(sum[:0]))
	return string(text[:])
}
