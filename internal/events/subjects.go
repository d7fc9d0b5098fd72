package events

import (
	"strings"

	"wxtoken/client"
)

// Streams and buckets.
const (
	StreamAuth     = "AUTH"
	StreamMessages = "MESSAGES"
	StreamTokens   = "KV_tokens"
	StreamStatus   = "KV_" + BucketStatus
	StreamDead     = "DEAD"
	StreamJournal  = "JOURNAL"
	StreamTraffic  = "TRAFFIC"
	BucketTokens   = "tokens"
	BucketStatus   = "status"
)

// Durable consumers of the refresher.
const (
	DurableAuth = "refresher-auth" // on AUTH
	DurableDue  = "refresher-due"  // on KV_tokens, renewal.due.>
)

// Kinds of events on AUTH: the last token of wechat.auth.<component>.<kind>. All but the last three
// are WeChat's InfoTypes.
const (
	KindTicket       = "component_verify_ticket"
	KindAuthorized   = "authorized"
	KindUpdated      = "updateauthorized"
	KindUnauthorized = "unauthorized"
	KindFastRegister = "notify_third_fasteregister"
	KindCallback     = "callback"      // the redirect after an authorization
	KindReleaseCheck = "release_check" // a code inside a message of the full-network-release check
	KindUnreadable   = "unreadable"    // a document that can't be read, or can't be shown to services
)

const (
	prefixAuth      = "wechat.auth."
	prefixNotice    = "wechat.notice."
	prefixMessage   = "wechat.message."
	prefixReply     = "wechat.reply."
	prefixDead      = "dead."
	prefixJournal   = "journal."
	prefixTokens    = "$KV." + BucketTokens + "."
	prefixStatus    = "$KV." + BucketStatus + "."
	prefixCred      = "credential."
	prefixScheduled = "renewal.scheduled."
	prefixDue       = "renewal.due."
)

// Filters for consumers.
const (
	AllAuth        = prefixAuth + ">"
	AllDue         = prefixDue + ">"
	AllTokens      = prefixTokens + ">"
	AllStatuses    = prefixStatus + ">"
	AllCredentials = prefixCred + ">"
	AllJournal     = prefixJournal + ">"
)

// Sorts of records: the second token of journal.<sort>.<whose>.<what>. The first two are on
// JOURNAL, the others on TRAFFIC.
const (
	JournalAudit  = "audit"  // who did what: <component>.<action>
	JournalNotice = "notice" // what needs a person, and that it is over: <component>.<type>
	JournalCount  = "count"  // what a process did in ten minutes: <role>.<instance>
	JournalPush   = "push"   // a push that was refused, or odd: <component>.<result>
)

// JournalSubject returns the subject of a record of a sort; an empty whose becomes "_". With "*"
// for whose or what it is a filter.
func JournalSubject(sort, whose, what string) string {
	if whose != "*" {
		whose = token(whose)
	}
	if what != "*" {
		what = token(what)
	}
	return prefixJournal + sort + "." + whose + "." + what
}

// JournalFilter returns the filter for all records of a sort.
func JournalFilter(sort string) string { return prefixJournal + sort + ".>" }

// AuthSubject returns the subject of an event that only the refresher may read.
func AuthSubject(component, kind string) string {
	return prefixAuth + token(component) + "." + token(kind)
}

// NoticeSubject returns the subject on which services learn of an InfoType.
func NoticeSubject(component, infoType string) string {
	return prefixNotice + token(component) + "." + token(infoType)
}

// MessageSubject returns the subject of a message or event for an authorizer. event is empty
// unless msgType is "event".
func MessageSubject(component, appid, msgType, event string) string {
	s := prefixMessage + token(component) + "." + token(appid) + "." + token(msgType)
	if event != "" {
		s += "." + token(event)
	}
	return s
}

// ReplySubject returns the subject on which services are asked for the passive reply to a message.
func ReplySubject(component, appid, msgType, event string) string {
	return prefixReply + strings.TrimPrefix(MessageSubject(component, appid, msgType, event), prefixMessage)
}

// TokenSubject returns the subject of the token of key: the bucket's own subject.
func TokenSubject(key wxtoken.Key) string { return prefixTokens + key.String() }

// StatusSubject returns the subject of the status of key.
func StatusSubject(key wxtoken.Key) string { return prefixStatus + key.String() }

// CredentialSubject returns the subject of the credential of key.
func CredentialSubject(key wxtoken.Key) string { return prefixCred + key.String() }

// ScheduleSubject returns the subject of the schedule of key.
func ScheduleSubject(key wxtoken.Key) string { return prefixScheduled + key.String() }

// DueSubject returns the target of the schedule of key.
func DueSubject(key wxtoken.Key) string { return prefixDue + key.String() }

// Other records below credential. besides the credentials: none of these tails is a key, so readers
// of credentials skip them.
const (
	prefixConnect = prefixCred + "connect."
	prefixPreAuth = prefixCred + "preauth."
	prefixQuota   = prefixCred + "quota."

	// ProofSubject is the subject of an empty message that is stored only to prove that it can be:
	// see bus.Prove.
	ProofSubject = prefixCred + "proof"
)

// CanarySubject is on AUTH, but no event's subject: see bus.RefusedCanary.
const CanarySubject = prefixAuth + "canary.refused"

// RaisedSubject is on KV_status, but no key's subject: see streams.Raise.
const RaisedSubject = prefixStatus + "raised"

// DeadSubject returns the subject of the copy of a message that can't be processed.
func DeadSubject(subject string) string { return prefixDead + subject }

// OriginalSubject returns the subject that a message on DEAD had.
func OriginalSubject(dead string) string { return strings.TrimPrefix(dead, prefixDead) }

// ComponentOf returns the component in the subject of an event, a message or a due message; "" for
// other subjects.
func ComponentOf(subject string) string {
	if tail, ok := strings.CutPrefix(subject, "webhook."); ok { // a message that a service's webhook did not take
		_, subject, _ = strings.Cut(tail, ".")
	}
	parts := strings.Split(subject, ".")
	at := 2 // wechat.auth.<component>
	if strings.HasPrefix(subject, prefixDue) {
		at = 3 // renewal.due.<kind>.<component>
	}
	if parts[0] != "wechat" && at == 2 || len(parts) <= at {
		return ""
	}
	return parts[at]
}

// IsAuth reports whether a subject is that of an event on AUTH.
func IsAuth(subject string) bool {
	return strings.HasPrefix(subject, prefixAuth) && subject != CanarySubject
}

// SealSubject is the subject of the seal check: a record that tells whether the seal keys are the
// right ones.
const SealSubject = prefixCred + "seal"

// ConnectSubject returns the subject of the record of a link. It takes a digest of the link's id,
// because a client that may look at the stream sees its subjects, and a client that knows an id can
// open the link.
func ConnectSubject(digest string) string { return prefixConnect + token(digest) }

// AllConnects is the filter for all records of links.
const AllConnects = prefixConnect + "*"

// PreAuthSubject returns the subject of the record that leads from a pre-auth code's digest to its
// link.
func PreAuthSubject(digest string) string { return prefixPreAuth + token(digest) }

// QuotaSubject returns the subject of the count of a component's calls.
func QuotaSubject(component string) string { return prefixQuota + token(component) }

// QuotaComponent returns the component whose count is on a subject; ok is false for other subjects.
func QuotaComponent(subject string) (component string, ok bool) {
	return strings.CutPrefix(subject, prefixQuota)
}

// ReconcileScheduleSubject returns the subject of the schedule for comparing with WeChat's list of
// authorizers.
func ReconcileScheduleSubject(component string) string {
	return prefixScheduled + "reconcile." + token(component)
}

// ReconcileDueSubject returns the target of that schedule.
func ReconcileDueSubject(component string) string { return prefixDue + "reconcile." + token(component) }

// ReconcileComponent returns the component whose reconcile is due on a subject; ok is false for
// other subjects.
func ReconcileComponent(subject string) (component string, ok bool) {
	return strings.CutPrefix(subject, prefixDue+"reconcile.")
}

// TokenKey returns the key of a subject in the bucket; ok is false for other subjects.
func TokenKey(subject string) (key wxtoken.Key, ok bool) { return keyAfter(subject, prefixTokens) }

// StatusKey returns the key of a status's subject; ok is false for other subjects.
func StatusKey(subject string) (key wxtoken.Key, ok bool) { return keyAfter(subject, prefixStatus) }

// CredentialKey returns the key of a credential's subject; ok is false for other subjects.
func CredentialKey(subject string) (key wxtoken.Key, ok bool) { return keyAfter(subject, prefixCred) }

func keyAfter(subject, prefix string) (wxtoken.Key, bool) {
	tail, ok := strings.CutPrefix(subject, prefix)
	if !ok {
		return wxtoken.Key{}, false
	}
	key, err := wxtoken.ParseKey(tail)
	return key, err == nil
}

// maxTokenLen bounds one token of a subject that is made from foreign text, in bytes.
const maxTokenLen = 64

// token makes one token of a subject from foreign text: characters with a meaning for NATS become
// "_", and the token is never empty.
func token(s string) string {
	if s == "" {
		return "_"
	}
	b := []byte(s)
	if len(b) > maxTokenLen {
		b = b[:maxTokenLen]
	}
	for i, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			b[i] = '_'
		}
	}
	return string(b)
}

// MsgTypeNotice is the MsgType of a Kind for notices; its Event is the InfoType.
const MsgTypeNotice = "notice"

// Kind is the content of the subject of a message, a notice or a request for a reply. Notices have
// no AppID: it is in their header ce-subject.
type Kind struct{ Component, AppID, MsgType, Event string }

// ParseKind reads a subject below wechat.message., wechat.notice. or wechat.reply.; ok is false for
// others.
func ParseKind(subject string) (k Kind, ok bool) {
	if tail, found := strings.CutPrefix(subject, prefixNotice); found {
		component, infoType, ok := strings.Cut(tail, ".")
		return Kind{Component: component, MsgType: MsgTypeNotice, Event: infoType}, ok
	}
	tail, found := strings.CutPrefix(subject, prefixMessage)
	if !found {
		tail, found = strings.CutPrefix(subject, prefixReply)
	}
	parts := strings.Split(tail, ".")
	if !found || len(parts) < 3 || len(parts) > 4 {
		return Kind{}, false
	}
	k = Kind{Component: parts[0], AppID: parts[1], MsgType: parts[2]}
	if len(parts) == 4 {
		k.Event = parts[3]
	}
	return k, true
}

// Filters returns the filters for the messages or notices of a kind: "*" as AppID or MsgType stands
// for all, an empty Event too.
func (k Kind) Filters() []string {
	switch {
	case k.MsgType == MsgTypeNotice && k.Event == "":
		return []string{prefixNotice + k.Component + ".*"}
	case k.MsgType == MsgTypeNotice:
		return []string{prefixNotice + k.Component + "." + k.Event}
	}
	account := prefixMessage + k.Component + "." + k.AppID + "."
	switch {
	case k.MsgType == "*":
		return []string{account + ">"}
	case k.Event != "":
		return []string{account + k.MsgType + "." + k.Event}
	case k.MsgType == "event":
		return []string{account + "event", account + "event.*"}
	}
	return []string{account + k.MsgType}
}

// ReplyFilters returns the filters for requests for replies to messages of a kind; none for
// notices.
func (k Kind) ReplyFilters() (filters []string) {
	for _, f := range k.Filters() {
		if tail, ok := strings.CutPrefix(f, prefixMessage); ok {
			filters = append(filters, prefixReply+tail)
		}
	}
	return filters
}

// Includes reports whether the kind k includes one. k may have "*" and an empty Event.
func (k Kind) Includes(one Kind) bool {
	notice := one.MsgType == MsgTypeNotice
	return k.Component == one.Component &&
		(k.AppID == "*" || k.AppID == one.AppID) &&
		(k.MsgType == one.MsgType || k.MsgType == "*" && !notice) &&
		(k.Event == "" || k.Event == one.Event)
}

// DeadWebhookSubject returns the subject of the copy of a message that a service's webhook did not
// take.
func DeadWebhookSubject(service, subject string) string {
	return prefixDead + "webhook." + service + "." + subject
}

// AnsweredSubject returns the subject on which gateways tell one another whether a receiver took a
// message when it was asked to reply to it.
func AnsweredSubject(subscription string) string { return "webhook.answered." + subscription }

// TypeOf returns the ce-type of a message of a kind.
func TypeOf(k Kind) string {
	t := prefixMessage + k.MsgType
	if k.Event != "" {
		t += "." + k.Event
	}
	return t
}
