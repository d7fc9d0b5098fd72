package wxtoken

import "errors"

// ErrBadKey is returned for a text that is not a key.
var ErrBadKey = errors.New("not a key")

// ErrBadToken is returned for a record in the bucket that is not a token.
var ErrBadToken = errors.New("not a token record")
