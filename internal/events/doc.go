// Package events is the contract between the processes of wxtoken, as docs/contract.md has it: the
// subjects, streams, buckets and mirrors, the payloads of events, due messages and requests, what
// each process must be allowed, and how a handler answers. It contains only data and encodings and
// talks to no server: [wxtoken/internal/bus] publishes and consumes, [wxtoken/internal/streams]
// creates the streams.
//
// # The streams
//
//	AUTH       wechat.auth.>                       tickets, codes, cancellations: ingest publishes, the refresher consumes
//	MESSAGES   wechat.message.>  wechat.notice.>   what services may see; never a secret
//	KV_tokens  $KV.tokens.>  credential.>          the bucket "tokens", and outside its key space
//	           renewal.scheduled.>  renewal.due.>  the credential, the schedule and the due message of each key
//	KV_status  $KV.status.>                        the bucket "status"
//	DEAD       dead.>                              events that can't be processed, with the reason
//	JOURNAL    journal.audit.>  journal.notice.>   what operators did, and what needs a person
//	TRAFFIC    journal.count.>  journal.push.>     what processes count, and pushes that were refused or odd
//
// # Handlers answer with an error verb
//
// nil acks a message. [Later] has it delivered again after a while, [Never] ends it and keeps a
// copy on DEAD; after any other error it is tried again after a short delay. The ack comes last, so
// any message may be delivered twice: handlers must cope with that.
package events
