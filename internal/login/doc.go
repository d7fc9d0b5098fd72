// Package login says who may use the operator's page, and as what: reader, operator or admin.
//
// A person is known by a password (--console-users-file), or by a header that a proxy sets, where
// that header is named and the request comes from the proxy's address. Where neither is set, a
// request from this machine is an admin's, and any other is refused.
//
// A session is a cookie that scripts can't read. It is signed, not stored, so every refresher with
// the same file takes it; the key that signs it is made of the file's secret and the person's own
// hash, so that a new password, or a person who is taken out of the file, ends it everywhere. A
// request that changes something must come from the page itself: the browser says where it comes
// from (Origin, Sec-Fetch-Site), and the form has a token that belongs to the browser's cookies.
package login
