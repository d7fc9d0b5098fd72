// Package login decides who may use the operator's page, and in which role: reader, operator or admin.
//
// A person logs in with a password (--console-users-file), or a proxy names the person in a header: that
// header must be set up, and the request must come from the proxy's address. Where neither is set up, a
// request from this machine is an admin's, and any other is refused.
//
// A session is a cookie that scripts can't read. It is signed, not stored, so every refresher with the same
// file accepts it. The signing key is derived from the file's secret and the person's password hash, so
// that a new password, or removing the person from the file, ends the session everywhere. A request that
// changes something must come from the page itself: the browser says where it comes from (Origin,
// Sec-Fetch-Site), and the form has a token that belongs to the browser's cookies.
package login
