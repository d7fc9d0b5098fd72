// Package events is the contract between the processes of wxtoken, as docs/contract.md has it: the
// subjects, streams, buckets and mirrors, the payloads of events, due messages and requests, what
// each process must be allowed, and how a handler answers. It is data and encodings alone and talks
// to no server: [wxtoken/internal/bus] publishes and consumes, [wxtoken/internal/streams] makes the
// streams.
//
// # The streams
//
//	AUTH       wechat.auth.>                       tickets, codes, cancellations: ingest publishes, the refresher consumes
//	MESSAGES   wechat.message.>  wechat.notice.>   what services may see; never a secret
//	KV_tokens  $KV.tokens.>  credential.>          the bucket "tokens", and outside its key space
//	           renewal.scheduled.>  renewal.due.>  the credential, the schedule and the due message of each key
//	KV_status  $KV.status.>                        the bucket "status"
//	DEAD       dead.>                              events that can't be processed, with the reason
//
// # Handlers answer with an error verb
//
// nil acks a message. [Later] gives it back for a while, [Never] ends it and keeps a copy on DEAD;
// any other error is tried again after a short delay. The ack comes last, so that every message
// may be seen again: handlers must bear that.
package events
