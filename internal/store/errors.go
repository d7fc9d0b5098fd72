package store

import (
	"errors"
	"time"

	"wxtoken/internal/events"
)

// LostDelay is the wait after ErrLost before the record is loaded again.
const LostDelay = 50 * time.Millisecond

// ErrLost is returned by a save or commit that came late: the credential changed meanwhile. Nothing
// was stored. Load it again before doing anything else. If a handler returns it, its message is
// delivered again after LostDelay.
var ErrLost = events.Later(LostDelay, errors.New("the credential changed meanwhile"))

// ErrUnreadable is returned for a record that can't be read. WeChat's list can replace it.
var ErrUnreadable = errors.New("unreadable record")

// ErrNewer is returned for a record that a newer program wrote. It must be left alone.
var ErrNewer = errors.New("record of a newer program")

// ErrSealed is returned for a record that is sealed for a key whose seed is not here. It must be
// left alone like a record of a newer program, so it is an ErrNewer too.
var ErrSealed error = sealedError{}

type sealedError struct{}

func (sealedError) Error() string        { return "record sealed for a key whose seed is not here" }
func (sealedError) Is(target error) bool { return target == ErrNewer }
