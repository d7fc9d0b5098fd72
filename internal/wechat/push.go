package wechat

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"time"
)

// The InfoTypes that a keeper of tokens acts on ("component_verify_ticket", "authorize_event"). There are more,
// and new ones come: they are parsed all the same.
const (
	InfoTicket           = "component_verify_ticket"
	InfoAuthorized       = "authorized"
	InfoUpdateAuthorized = "updateauthorized"
	InfoUnauthorized     = "unauthorized"
	InfoFastRegister     = "notify_third_fasteregister" // quick registration of a mini program; the e is WeChat's
)

// Push is what WeChat says on the authorization event URL.
type Push struct {
	hidden
	AppID           string    // component_appid
	InfoType        string    // letters, digits, _ and -; known or not
	CreateTime      time.Time // when WeChat made the event, UTC, to the second
	Ticket          string    // component_verify_ticket
	AuthorizerAppID string    // in a quick registration the new mini program; empty when that failed
	Code            string    // authorization code for api_query_auth
	PreAuthCode     string    // ties the event to the authorization link that led to it
	CodeExpiresAt   time.Time // UTC; zero when WeChat gave none that can be read
	RegisterStatus  int       // of a quick registration; 0 is success

	text [sha256.Size]byte // digest of the document, for InfoTypes whose fields are not all known
}

// Bounds of what a push carries, in bytes. The public pages give none but advise to leave room; a real ticket has about 100.
const (
	maxTicket   = 2048
	maxCode     = 2048
	maxInfoType = 64
)

// absoluteTime divides AuthorizationCodeExpiredTime, of which "authorize_event" says only that it is in
// seconds: a value above it is epoch seconds, one below counts from CreateTime.
const absoluteTime = 1_000_000_000

// pushFields is a Push as the document spells it.
type pushFields struct {
	appID, infoType, createTime, ticket         field
	authorizerAppID, code, expires, preAuth     field
	registerAppID, registerCode, registerStatus field // lower case, in a quick registration only
	registerFault                               error // does not matter to InfoTypes that use these names otherwise
}

// ParsePush reads a decrypted document of the authorization event URL, XML or JSON with the same names.
// Fields that it does not know are ignored. An empty field counts as missing; AppId, InfoType and CreateTime
// are needed in all, the ticket in a ticket push, AuthorizerAppid in every authorization, and the code in all but unauthorized.
// The error is a *Refusal.
func ParsePush(text []byte) (Push, error) {
	var f pushFields
	if _, err := walk(text, f.set); err != nil {
		return Push{}, err
	}
	return f.push(text)
}

func (f *pushFields) set(at *element) error {
	if at.depth != 2 {
		return nil
	}
	switch string(at.name) {
	case "AppId":
		return f.appID.set(at)
	case "InfoType":
		return f.infoType.set(at)
	case "CreateTime":
		return f.createTime.set(at)
	case "ComponentVerifyTicket":
		return f.ticket.set(at)
	case "AuthorizerAppid":
		return f.authorizerAppID.set(at)
	case "AuthorizationCode":
		return f.code.set(at)
	case "AuthorizationCodeExpiredTime":
		return f.expires.set(at)
	case "PreAuthCode":
		return f.preAuth.set(at)
	case "appid":
		f.holdFault(f.registerAppID.set(at))
	case "auth_code":
		f.holdFault(f.registerCode.set(at))
	case "status":
		f.holdFault(f.registerStatus.set(at))
	}
	return nil
}

func (f *pushFields) holdFault(err error) {
	if f.registerFault == nil {
		f.registerFault = err
	}
}

func (f *pushFields) push(text []byte) (Push, error) {
	p := Push{AppID: f.appID.String(), InfoType: f.infoType.String()}
	if p.AppID == "" {
		return Push{}, refuse(ReasonField, "AppId is missing")
	}
	if !isAppID(p.AppID) {
		return Push{}, refuse(ReasonAppIDSyntax, "AppId is not an appid")
	}
	if !isAppID(p.InfoType) || len(p.InfoType) > maxInfoType { // the alphabet of an appid: an InfoType stands in a subject, too
		return Push{}, refuse(ReasonField, "InfoType is missing or not 1 to %d letters, digits, _ or -", maxInfoType)
	}
	if !isTimestamp(f.createTime.String()) {
		return Push{}, refuse(ReasonField, "CreateTime is missing or not ten digits")
	}
	p.CreateTime = time.Unix(f.createTime.seconds(), 0).UTC()

	appID, code := &f.authorizerAppID, &f.code
	if p.InfoType == InfoFastRegister {
		appID, code = &f.registerAppID, &f.registerCode
	}
	var err error
	if p.Ticket, err = f.ticket.printable("ComponentVerifyTicket", maxTicket); err != nil {
		return Push{}, err
	}
	if p.Code, err = code.printable("the authorization code", maxCode); err != nil {
		return Push{}, err
	}
	if p.PreAuthCode, err = f.preAuth.printable("PreAuthCode", maxCode); err != nil {
		return Push{}, err
	}
	p.AuthorizerAppID = appID.String()
	if p.AuthorizerAppID != "" && !isAppID(p.AuthorizerAppID) {
		return Push{}, refuse(ReasonAppIDSyntax, "the authorizer's appid is not 1 to 64 letters, digits, _ or -")
	}
	// No more than a hint on how long to try: an odd value must not cost the authorization.
	if n := f.expires.seconds(); n > absoluteTime {
		p.CodeExpiresAt = time.Unix(n, 0).UTC()
	} else if n > 0 {
		p.CodeExpiresAt = p.CreateTime.Add(time.Duration(n) * time.Second)
	}

	switch p.InfoType {
	case InfoTicket:
		if p.Ticket == "" {
			return Push{}, refuse(ReasonField, "ComponentVerifyTicket is missing")
		}
	case InfoAuthorized, InfoUpdateAuthorized, InfoUnauthorized:
		if p.AuthorizerAppID == "" {
			return Push{}, refuse(ReasonField, "AuthorizerAppid is missing")
		}
		if p.Code == "" && p.InfoType != InfoUnauthorized {
			return Push{}, refuse(ReasonField, "AuthorizationCode is missing")
		}
	case InfoFastRegister:
		if f.registerFault != nil {
			return Push{}, f.registerFault
		}
		if p.RegisterStatus, err = strconv.Atoi(f.registerStatus.String()); err != nil {
			return Push{}, refuse(ReasonField, "status is missing or not a number")
		}
		p.text = sha256.Sum256(text)
	default:
		p.text = sha256.Sum256(text)
	}
	return p, nil
}

// printable returns the field's text: empty, or no longer than limit and all visible ASCII.
// Line ends above all would travel far.
func (f *field) printable(name string, limit int) (string, error) {
	s := f.String()
	if s != "" && !isPrintable(s, limit) {
		return "", refuse(ReasonField, "%s is not 1 to %d visible ASCII characters", name, limit)
	}
	return s, nil
}

// seconds returns the field as a number of seconds, 0 when it is not one of at most eleven digits.
func (f *field) seconds() int64 {
	if len(f.value) > 11 {
		return 0
	}
	var n int64
	for _, c := range f.value {
		if c < '0' || c > '9' {
			return 0
		}
		n = 10*n + int64(c-'0')
	}
	return n
}

// ID returns a digest of what the push says: WeChat's repeats of one push have the same ID though they are
// encrypted anew, and no other push has it. The ticket and the code can't be had back from it.
func (p Push) ID() string {
	ticket := sha256.Sum256([]byte(p.Ticket))
	return digest([]byte("push"), []byte(p.InfoType), []byte(p.AppID), strconv.AppendInt(nil, p.CreateTime.Unix(), 10),
		[]byte(p.AuthorizerAppID), []byte(p.Code), ticket[:], p.text[:])
}

// digest returns the hex SHA-256 of fields. Each is preceded by its length, so that no two lists
// of fields run together to the same text.
func digest(fields ...[]byte) string {
	h := sha256.New()
	var length [8]byte
	for _, field := range fields {
		binary.BigEndian.PutUint64(length[:], uint64(len(field)))
		h.Write(length[:])
		h.Write(field)
	}
	return hex.EncodeToString(h.Sum(nil))
}
