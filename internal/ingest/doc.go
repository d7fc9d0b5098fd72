// Package ingest turns WeChat's pushes into events, and takes merchants through an authorization by
// link. It may only publish and send requests: it can't read tokens, tickets or codes back.
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
// every event made of it. Without an ack the answer is 503 and WeChat sends the push again. The id
// of an event is a digest of the push's content, so a repeat is stored only once.
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
// Once a message is stored, ingest asks the services for a reply: a request on wechat.reply.…, with
// the document as it is on MESSAGES, and the same Content-Type and ce-id. If no service listens,
// WeChat gets "success" at once, and on a subject with many messages most are not asked about
// (listeners.go). A service's answer must come within 4 seconds of the message's arrival, and be an
// XML or JSON document of at most 64 KiB; an empty one, or "success", means no reply. For any other
// answer WeChat gets "success" too. A reply goes back in the form of the message: XML or JSON,
// encrypted with the same key and signed with the same token, in plain mode in the clear. When
// WeChat repeats a message, the services are asked again, with the same ce-id.
//
// The ten accounts of the network release check are answered by ingest itself (release.go).
//
// # Modes
//
// In security mode and in compatibility mode the content of a message is that of its Encrypt;
// fields in the clear beside it are ignored. Plain mode has no Encrypt, and its signature does not
// cover the body: such messages are accepted on the message URL only, and only if the setting
// plain-messages is on.
//
// # Authorization links
//
// ingest keeps no state of links: every page asks the refresher (wxtoken.connect.open). The landing
// page sets a cookie in the browser, without which no code is accepted: only a browser that opened
// the link can bring a code to it. The callback stores the code as an event and redirects to the
// same page without a query, which waits up to 4 seconds for the result, and reloads if that is not
// enough. The page of a link that is over tells how it ended, with the account's name.
//
// The pages have no scripts, forms or inline styles. Each component has its own look: texts, a
// style sheet and a logo, the latter two with a digest in their paths (look.go). The texts of the
// pages are in texts.go, in both languages.
//
// # What is refused, and what is odd
//
// A push is read in steps. A fault in the envelope is answered with 400; from the signature on,
// every fault gets the same answer, 403, so that an attacker can't learn how far a forgery got. The
// log has the reason and the detail, never the query, the body or decrypted content. Of the id of a
// link it shows the first 8 characters.
//
// A push that WeChat signed for the component is never refused for its form (package document),
// except for a document type. Oddities are counted and logged. A field whose value is in doubt is
// empty, and "_" in a subject.
package ingest
