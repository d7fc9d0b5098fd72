// Package notify tells operators when something needs a person, and when it is over
// (docs/notices.md). Each refresher has a Teller, which writes notices to JOURNAL, each notice only
// once among all refreshers, and a Deliverer, which delivers them to webhooks and to the robots of
// WeCom, DingTalk and Feishu.
package notify
