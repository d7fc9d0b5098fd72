// Package ingest turns WeChat's pushes into events. It may publish and nothing else: it reads no
// token, no ticket and no code back.
//
// # The URLs
//
//	POST /wechat/{component_appid}/auth              授权事件接收URL, the authorization event URL
//	POST /wechat/{component_appid}/message/{appid}   消息与事件接收URL; {appid} is $APPID$ on WeChat's console
//	GET  /wechat/{component_appid}/message/{appid}   answers echostr when the signature is right
//
// A push is answered with exactly "success", and only after NATS has acked every event that it
// becomes. Without an ack the answer is 503 and WeChat sends the push again: the id of an event is a
// digest of what the push says, so that a repeat is stored once.
//
// # What a push becomes
//
//	InfoType or message                event on AUTH             event on MESSAGES
//	component_verify_ticket            wechat.auth.…             none
//	authorized, updateauthorized,      wechat.auth.…             wechat.notice.…, without the code
//	unauthorized, notify_third_fasteregister
//	any other InfoType                 none                      wechat.notice.…
//	message or event of an authorizer  none                      wechat.message.…
//	QUERY_AUTH_CODE of the network     wechat.auth.….release_check  none: it carries a code
//	release check
//
// The type of an event (ce-type) is its subject without the appids: wechat.auth.authorized,
// wechat.notice.notify_3rd_wxa_auth, wechat.message.text, wechat.message.event.subscribe. Its source
// (ce-source) is the path of the push, its subject (ce-subject) the authorizer's appid, its time
// (ce-time) WeChat's CreateTime.
//
// # What is refused
//
// A push is read in steps, each of which can only refuse. Until the envelope is read, the answer is
// 400; from the signature on every fault has the same answer, 403, so that nobody learns from it
// how far he got. The log tells the reason, and never the query, the body or what was decrypted.
package ingest
