package wxtoken

import "errors"

// ErrBadKey is returned for a text that is not a key, or a Key that could not stand in a subject.
var ErrBadKey = errors.New("malformed key")

// ErrBadToken is returned for a record in the bucket that is not a token.
var ErrBadToken = errors.New("unreadable token record")

// ErrBadStatus is returned for a record in the bucket that is not a status.
var ErrBadStatus = errors.New("unreadable status record")

// ErrNoToken is returned for a key that the view has never seen a token of.
var ErrNoToken = errors.New("no token")

// ErrExpired is returned for a key whose token has died without a successor.
var ErrExpired = errors.New("token expired")

// ErrRevoked is returned for a key whose token was removed: the authorization was cancelled.
var ErrRevoked = errors.New("authorization revoked")

// ErrNoStatus is returned for a key that nothing is known about.
var ErrNoStatus = errors.New("no status")

// ErrClosed is returned by the methods of a Client after Close.
var ErrClosed = errors.New("client closed")

// ErrTooSoon is returned by Replace for a token that is too young to be replaced: it is hardly what
// WeChat refused.
var ErrTooSoon = errors.New("token too young to be replaced")

// ErrNotKept is returned by Replace for a token that wxtoken keeps no token for, or can't renew.
var ErrNotKept = errors.New("no token kept under this key")
