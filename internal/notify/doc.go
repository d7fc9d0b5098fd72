// Package notify tells operators when something needs a person, and when that is over
// (docs/notices.md). A Teller writes notices to JOURNAL, in each refresher and each notice once; a
// Deliverer brings them to webhooks and to the robots of WeCom, DingTalk and Feishu.
package notify
