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

// The roles: processes with rights of their own. Each has its inbox below _INBOX_<role>.
const (
	RoleIngest    = "ingest"
	RoleRefresher = "refresher"
	RoleGateway   = "gateway"
)

// SubjectUserInfo is where a NATS server tells a user its own permissions. Only --check needs it.
const SubjectUserInfo = "$SYS.REQ.USER.INFO"

const (
	jsInfo   = "$JS.API.STREAM.INFO."
	jsDirect = "$JS.API.DIRECT.GET."
	jsAck    = "$JS.ACK."
)

// Rights returns what the user of a role must be allowed. The refresher's rights include those of
// its page, and those for creating mirrors behind the API prefixes of services.
func Rights(role string, services ...string) (rights []Right) {
	add := func(verb string, subjects ...string) {
		for _, s := range subjects {
			rights = append(rights, Right{verb, s})
		}
	}
	add(MaySubscribe, "_INBOX_"+role+".>")
	switch role {
	case RoleIngest:
		add(MayPublish, AllAuth, prefixMessage+">", prefixNotice+">", jsInfo+StreamAuth, SubjectConnectOpen,
			prefixReply+">", JournalFilter(JournalPush), JournalFilter(JournalCount))
	case RoleGateway:
		// Watched through a consumer of any name but the refreshers' own: x stands for it.
		for _, bucket := range []string{BucketTokens, BucketStatus} {
			stream := "KV_" + bucket
			add(MayPublish, jsInfo+stream, "$JS.API.CONSUMER.CREATE."+stream+".x.$KV."+bucket+".>",
				"$JS.API.CONSUMER.DELETE."+stream+".x", "$JS.FC."+stream+".x.y")
		}
		add(MayPublish, SubjectReject, SubjectConnectCreate)
		// for webhooks
		add(MayPublish, "$JS.API.CONSUMER.CREATE."+StreamMessages+".x.wechat.message.>", "$JS.API.CONSUMER.INFO."+StreamMessages+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+StreamMessages+".*", jsAck+StreamMessages+".>", prefixDead+"webhook.>", AnsweredSubject("*"))
		add(MaySubscribe, prefixReply+">", AnsweredSubject("*"))
		add(MayAnswer, "")
		add(MayPublish, JournalSubject(JournalCount, RoleGateway, "*")) // what it serves
	case RoleRefresher:
		add(MayPublish, AllTokens, AllCredentials, prefixScheduled+">", AllDue, AllStatuses,
			prefixDead+">", AllJournal, AllAuth, ConsolePrefix+">")
		for _, sc := range Streams(SetupConfig{}) {
			add(MayPublish, jsInfo+sc.Name, "$JS.API.STREAM.CREATE."+sc.Name, "$JS.API.STREAM.UPDATE."+sc.Name)
		}
		add(MayPublish, jsDirect+StreamTokens+".>", jsDirect+StreamStatus+".>")
		add(MayPublish, jsDirect+StreamDead, jsDirect+StreamDead+".>", jsDirect+StreamJournal,
			jsDirect+StreamJournal+".>", jsDirect+StreamTraffic, jsDirect+StreamTraffic+".>",
			"$JS.API.STREAM.MSG.DELETE."+StreamDead)
		add(MayPublish, "$JS.API.STREAM.MSG.GET."+StreamMessages, SubjectConnectList) // of its page
		for _, name := range []string{StreamAuth, StreamTokens, StreamJournal} {
			add(MayPublish, "$JS.API.CONSUMER.CREATE."+name+".>", "$JS.API.CONSUMER.INFO."+name+".*",
				"$JS.API.CONSUMER.MSG.NEXT."+name+".*", jsAck+name+".>")
		}
		// for its page
		add(MayPublish, "$JS.API.CONSUMER.CREATE."+StreamTraffic+".>", "$JS.API.CONSUMER.INFO."+StreamTraffic+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+StreamTraffic+".*")
		add(MayPublish, SubjectAccount, SubjectQuota)
		add(MayPublish, "$JS.API.CONSUMER.CREATE."+StreamStatus+".*.$KV."+BucketStatus+".>",
			"$JS.API.CONSUMER.MSG.NEXT."+StreamStatus+".*")
		// for its watch
		add(MayPublish, "$JS.API.CONSUMER.DELETE."+StreamTokens+".*")
		// to find out whether there is an account of services
		add(MayPublish, DefaultServicesAPI+".STREAM.INFO."+StreamTokens)
		for _, api := range services {
			add(MayPublish, api+".INFO") // its limits
			for _, m := range Mirrors(SetupConfig{}) {
				consumer := m.Name + "." + MirrorAccount(api)
				add(MayPublish, api+".STREAM.INFO."+m.Name, api+".STREAM.CREATE."+m.Name,
					"$JS.API.CONSUMER.CREATE."+consumer, "$JS.API.CONSUMER.INFO."+consumer, "$JS.API.CONSUMER.RESET."+consumer)
			}
		}
		add(MaySubscribe, ServiceName+".>", "$SRV.>")
		add(MayAnswer, "")
	}
	return rights
}

// Covers reports whether allowed covers every subject that wanted covers. Both may contain
// wildcards.
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

// Overlaps reports whether there is a subject that both cover.
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
