package events

import "strings"

// The verbs of a Right.
const (
	MayPublish   = "publish"
	MaySubscribe = "subscribe"
	MayAnswer    = "allow_responses" // answer each request once, wherever its reply goes
)

// Right is one thing that a user of NATS must be allowed.
type Right struct {
	Verb    string
	Subject string // empty for MayAnswer
}

// The processes that have rights of their own. Each has its inbox below _INBOX_<role>.
const (
	RoleIngest    = "ingest"
	RoleRefresher = "refresher"
	RoleGateway   = "gateway"
)

// SubjectUserInfo is where a NATS server tells a user who asks what that user may do. Only --check
// needs it.
const SubjectUserInfo = "$SYS.REQ.USER.INFO"

const (
	jsInfo   = "$JS.API.STREAM.INFO."
	jsDirect = "$JS.API.DIRECT.GET."
	jsAck    = "$JS.ACK."
)

// Rights returns what the user of a role must be allowed; the refresher's include those of its
// console, and what it needs to make mirrors behind the API prefixes of services.
func Rights(role string, services ...string) (rights []Right) {
	add := func(verb string, subjects ...string) {
		for _, s := range subjects {
			rights = append(rights, Right{verb, s})
		}
	}
	add(MaySubscribe, "_INBOX_"+role+".>")
	switch role {
	case RoleIngest:
		add(MayPublish, AllAuth, prefixMessage+">", prefixNotice+">", jsInfo+StreamAuth, SubjectConnectOpen, prefixReply+">", JournalFilter(JournalPush), JournalFilter(JournalCount))
	case RoleGateway:
		// Watched by a consumer that has any name but those of others: x.
		for _, bucket := range []string{BucketTokens, BucketStatus} {
			stream := "KV_" + bucket
			add(MayPublish, jsInfo+stream, "$JS.API.CONSUMER.CREATE."+stream+".x.$KV."+bucket+".>", "$JS.API.CONSUMER.DELETE."+stream+".x", "$JS.FC."+stream+".x.y")
		}
		add(MayPublish, SubjectReject, SubjectConnectCreate)
		// for webhooks
		add(MayPublish, "$JS.API.CONSUMER.CREATE."+StreamMessages+".x.wechat.message.>", "$JS.API.CONSUMER.INFO."+StreamMessages+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+StreamMessages+".*", jsAck+StreamMessages+".>", prefixDead+"webhook.>", AnsweredSubject("*"))
		add(MaySubscribe, prefixReply+">", AnsweredSubject("*"))
		add(MayAnswer, "")
		add(MayPublish, JournalSubject(JournalCount, RoleGateway, "*")) // what it serves
	case RoleRefresher:
		add(MayPublish, AllTokens, AllCredentials, prefixScheduled+">", AllDue, "$KV."+BucketStatus+".>", prefixDead+">", AllJournal, AllAuth, ConsolePrefix+">")
		for _, sc := range Streams(SetupConfig{}) {
			add(MayPublish, jsInfo+sc.Name, "$JS.API.STREAM.CREATE."+sc.Name, "$JS.API.STREAM.UPDATE."+sc.Name)
		}
		add(MayPublish, jsDirect+StreamTokens+".>", jsDirect+StreamStatus+".>")
		add(MayPublish, jsDirect+StreamDead, jsDirect+StreamDead+".>", jsDirect+StreamJournal, jsDirect+StreamJournal+".>", jsDirect+StreamTraffic, jsDirect+StreamTraffic+".>", "$JS.API.STREAM.MSG.DELETE."+StreamDead)
		add(MayPublish, "$JS.API.STREAM.MSG.GET."+StreamMessages, SubjectConnectList) // of its page
		for _, name := range []string{StreamAuth, StreamTokens, StreamJournal} {
			add(MayPublish, "$JS.API.CONSUMER.CREATE."+name+".>", "$JS.API.CONSUMER.INFO."+name+".*",
				"$JS.API.CONSUMER.MSG.NEXT."+name+".*", jsAck+name+".>")
		}
		// Of its page.
		add(MayPublish, "$JS.API.CONSUMER.CREATE."+StreamTraffic+".>", "$JS.API.CONSUMER.INFO."+StreamTraffic+".*", "$JS.API.CONSUMER.MSG.NEXT."+StreamTraffic+".*")
		// Of its page, too.
		add(MayPublish, SubjectAccount, SubjectQuota)
		// Of its page.
		add(MayPublish, "$JS.API.CONSUMER.CREATE."+StreamStatus+".*.$KV."+BucketStatus+".>", "$JS.API.CONSUMER.MSG.NEXT."+StreamStatus+".*")
		// Of its watch.
		add(MayPublish, "$JS.API.CONSUMER.DELETE."+StreamTokens+".*")
		// Is there an account of services?
		add(MayPublish, DefaultServicesAPI+".STREAM.INFO."+StreamTokens)
		for _, api := range services {
			add(MayPublish, api+".INFO") // its limits
			for _, m := range Mirrors(SetupConfig{}) {
				add(MayPublish, api+".STREAM.INFO."+m.Name, api+".STREAM.CREATE."+m.Name, "$JS.API.CONSUMER.CREATE."+m.Name+"."+MirrorAccount(api),
					"$JS.API.CONSUMER.INFO."+m.Name+"."+MirrorAccount(api), "$JS.API.CONSUMER.RESET."+m.Name+"."+MirrorAccount(api))
			}
		}
		add(MaySubscribe, ServiceName+".>", "$SRV.>")
		add(MayAnswer, "")
	}
	return rights
}

// Covers reports whether every subject that wanted stands for is one that allowed stands for too.
// Both may hold wildcards.
func Covers(allowed, wanted string) bool {
	a, w := strings.Split(allowed, "."), strings.Split(wanted, ".")
	for i, part := range a {
		switch {
		case part == ">":
			return len(w) > i
		case i >= len(w) || w[i] == ">" || part != "*" && part != w[i]:
			return false
		}
	}
	return len(a) == len(w)
}

// Overlaps reports whether there is a subject that both stand for.
func Overlaps(one, other string) bool {
	a, b := strings.Split(one, "."), strings.Split(other, ".")
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == ">" || b[i] == ">":
			return true
		case a[i] != b[i] && a[i] != "*" && b[i] != "*":
			return false
		}
	}
	return len(a) == len(b)
}
