// Package ingest turns WeChat's pushes into events, and takes merchants through an authorization by
// link. It may publish and ask, and nothing else: it reads no token, no ticket and no code back.
//
// # The URLs
//
//	POST /wechat/{component_appid}/auth              授权事件接收URL, the authorization event URL
//	POST /wechat/{component_appid}/message/{appid}   消息与事件接收URL; {appid} is $APPID$ on WeChat's console
//	GET  /wechat/{component_appid}/message/{appid}   answers echostr when the signature is right
//	GET  /connect/{id}                               the page of an authorization link, which leads to WeChat
//	GET  /connect/{id}/callback                      where WeChat sends the browser with a code, and how it ended
//	GET  /connect/-/{component_appid}/{digest}.css   style sheet of the pages; .logo is the logo
//
// A push is answered with exactly "success", or with a passive reply, and only after NATS has acked
// every event that it becomes. Without an ack the answer is 503 and WeChat sends the push again:
// the id of an event is a digest of what the push says, so that a repeat is stored once.
//
// # What a push becomes
//
//	InfoType or message                event on AUTH             event on MESSAGES
//	component_verify_ticket            wechat.auth.…             none
//	authorized, updateauthorized,      wechat.auth.…             wechat.notice.…, without the code
//	unauthorized, notify_third_fasteregister
//	any other InfoType, or none        none                      wechat.notice.…
//	what of it can't be read, or can't  wechat.auth.….unreadable  wechat.notice.…, where it can
//	be shown, of any InfoType
//	message or event of an authorizer  none                      wechat.message.…
//	QUERY_AUTH_CODE of the network     wechat.auth.….release_check  none: it carries a code
//	release check
//	the callback of a link             wechat.auth.….callback    none
//
// The type of an event (ce-type) is its subject without the appids: wechat.auth.authorized,
// wechat.notice.notify_3rd_wxa_auth, wechat.message.text, wechat.message.event.subscribe. Its
// source (ce-source) is the path of the push, and /connect for a callback; its subject (ce-subject)
// the authorizer's appid, its time (ce-time) WeChat's CreateTime.
//
// # Passive replies
//
// Once a message is stored, the services are asked about it: a request on wechat.reply.…, with the
// document as it is on MESSAGES, and Content-Type and ce-id as there. Where no service listens the
// answer is "success" at once, and on a subject with many messages most are not asked about
// (listeners.go). The answer of a service counts until 4 seconds after the message's arrival, and
// has to be an XML or JSON document of at most 64 KiB; empty, or "success", is no reply. Whatever
// else it is, WeChat gets "success". A reply goes back as the message came: in XML or JSON,
// encrypted with the key and signed with the token that the message was made with, in plain mode in
// the clear. A message that WeChat repeats is asked about again, with the same ce-id.
//
// The ten accounts of the network release check are answered by ingest itself (release.go).
//
// # Modes
//
// In security mode and in compatibility mode a message is what its Encrypt says; fields in the
// clear beside it are not looked at. Plain mode has no Encrypt, and a signature that covers no
// body: it is taken on the message URL alone, and only where the setting plain-messages is on.
//
// # Authorization links
//
// ingest remembers nothing of a link: every page asks the refresher (wxtoken.connect.open). The
// landing page gives the browser a cookie, without which no code is taken: only who has the link
// can bring a code to it. The callback stores the code as an event and sends the browser to the
// same page without a query, which waits up to 4 seconds for the result, and loads itself again
// where that is not enough. A link that is over tells how it ended, with the account's name.
//
// The pages have no scripts, forms or inline styles. What differs between components is a look: the
// texts, and a style sheet and a logo, each with a digest in its path (look.go). What the pages say
// stands in texts.go, in both languages.
//
// # What is refused, and what is odd
//
// A push is read in steps. Until the envelope is read, the answer to what is wrong is 400; from the
// signature on it is the same for every fault, 403, so that an attacker can't learn from it how far
// a forgery got. The log tells the reason and the detail, and never the query, the body or what was
// decrypted. Of the id of a link it has the first 8 characters.
//
// What WeChat signed for the component is never refused for its form (package document), but for a
// document type. What is odd about it is counted and logged. A field that can't be told without
// doubt is empty, and "_" in a subject.
package ingest
