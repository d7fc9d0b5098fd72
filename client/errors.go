package wxtoken

import "errors"

// ErrBadKey is returned for a text that is not a key, or a Key that can't be part of a subject.
var ErrBadKey = errors.New("malformed key")

// ErrBadToken is returned for a record in the bucket that is not a token.
var ErrBadToken = errors.New("unreadable token record")

// ErrBadStatus is returned for a record in the bucket that is not a status.
var ErrBadStatus = errors.New("unreadable status record")

// ErrNoToken is returned for a key of which the view has never seen a token.
var ErrNoToken = errors.New("no token")

// ErrExpired is returned for a key whose token has expired without a successor.
var ErrExpired = errors.New("token expired")

// ErrRevoked is returned for a key whose token was removed: the authorization was cancelled.
var ErrRevoked = errors.New("authorization revoked")

// ErrNoStatus is returned for a key without a status.
var ErrNoStatus = errors.New("no status")

// ErrClosed is returned by the methods of a Client after Close.
var ErrClosed = errors.New("client closed")

// ErrTooSoon is returned by Replace for a token that is too young to be replaced: it is hardly the
// reason why WeChat refused the call.
var ErrTooSoon = errors.New("token too young to be replaced")

// ErrNotKept is returned by Replace for a key under which wxtoken keeps no token, or none that it
// can renew.
var ErrNotKept = errors.New("no token kept under this key")
