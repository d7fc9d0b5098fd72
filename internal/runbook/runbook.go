// Package runbook names the entries of the runbook, docs/operations.md, to which remedies point.
package runbook

import "wxtoken/internal/lang"

// Entry is an entry of the runbook.
type Entry int

// The entries.
const (
	None Entry = iota // no entry tells more
	AccountAuthorizes
	ComponentAddRemove
	ComponentOperator
	ComponentTokenLate
	DataLost
	DeadLetter
	FullDisk
	HeldBack
	ManyRefused
	NATSAway
	NoTicket
	OldValues
	QuotaGone
	SealKeyChange
	SealKeyUnknown
	SealOn
	SecretWrong
	TokenRefused
	WeChatAway
)

// headings are the headings of the entries, in both languages.
var headings = [...]lang.Text{
	AccountAuthorizes:  lang.T("An authorizer is in state `needs_authorization` or `revoked`", "授权方处于 `needs_authorization` 或 `revoked` 状态"),
	ComponentAddRemove: lang.T("Add or remove a component", "增加或移除第三方平台"),
	ComponentOperator:  lang.T("A component is in state `operator`", "第三方平台处于 `operator` 状态"),
	ComponentTokenLate: lang.T("The component token is late", "平台令牌没有按时续期"),
	DataLost:           lang.T("All data of NATS is lost", "NATS 的数据全部丢失"),
	DeadLetter:         lang.T("A message is on `DEAD`", "`DEAD` 里有消息"),
	FullDisk:           lang.T("A full disk under NATS", "NATS 的磁盘写满"),
	HeldBack:           lang.T("Renewals are held back", "续期被暂缓"),
	ManyRefused:        lang.T("Many accounts are refused at once", "大量授权方同时被拒"),
	NATSAway:           lang.T("NATS is away", "NATS 不可用"),
	NoTicket:           lang.T("No ticket arrives", "收不到验证票据"),
	OldValues:          lang.T("Services read old values", "业务服务读到旧值"),
	QuotaGone:          lang.T("The day's quota is gone", "当天的调用额度用完"),
	SealKeyChange:      lang.T("Change the seal key", "更换密封密钥"),
	SealKeyUnknown:     lang.T("A refresher does not start: `record sealed for a key whose seed is not here`", "refresher 无法启动：`record sealed for a key whose seed is not here`"),
	SealOn:             lang.T("Turn sealing on", "启用密封"),
	SecretWrong:        lang.T("The AppSecret is wrong", "AppSecret 不对"),
	TokenRefused:       lang.T("A service gets 40001, 40014 or 42001", "业务服务收到 40001、40014 或 42001"),
	WeChatAway:         lang.T("WeChat is away", "微信不可用"),
}

// Heading returns the entry's heading; that of None is empty.
func (e Entry) Heading() lang.Text { return headings[e] }

// See returns a remedy with a pointer to the entry that tells more.
func (e Entry) See(remedy lang.Text) lang.Text {
	if e == None {
		return remedy
	}
	return lang.T("%s; runbook: %s", "%s；运维手册：%s", remedy, headings[e])
}
