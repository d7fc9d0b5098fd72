// Package console is the operator's page: which accounts can call WeChat now, and if one can't,
// why, since when, until when and what to do. It is rendered on the server, works without scripts,
// and answers programs with JSON.
//
// A page is a [Page]: one function returns a typed value for a request, and HTML, JSON and text are
// made from that value and nothing else. What the pages share is in page.go (requests and answers),
// render.go (templates) and pages/layout.html; what a page shows is in a file of its own, beside a
// template in pages/.
//
// To add a page: write a method of Console that returns its Page, with the word for the
// navigation; write its template pages/<name>.html, which defines "page"; and list it in New. In a
// template both languages stand side by side, {{t "all" "全部"}}; {{say .X}} writes a lang.Text,
// {{when .X}} and {{ago .X $now}} times, {{n .X}} numbers. Pages hold no inline styles and scripts:
// the Content-Security-Policy forbids them. Without scripts everything works; with them console.js
// replaces <main> when the stream /events says that something changed, which index.touch announces.
//
// The page knows all keys through an index in memory, which follows the buckets tokens and status
// and keeps some four hundred bytes of each account: states, times and what a search looks for,
// never a token. Everything else is read from NATS for the few keys that a page shows. A page never
// holds a token, a ticket, a code or a secret, and foreign names, such as those of accounts, are
// only ever text in it.
package console
