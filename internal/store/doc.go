// Package store keeps what rests: tokens, credentials, statuses.
//
// The credential is the authority of its key. Every save compares and sets: it names the revision
// that it was made from, and a save that comes late is refused with [ErrLost]. A renewal is one
// atomic batch of credential, token and schedule: all of it is stored, or nothing is.
//
// A claim on a credential says who is about to change it. It keeps two refreshers from asking
// WeChat at once; that a late one can't store anything is what the revision is for.
package store
