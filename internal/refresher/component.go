package refresher

import (
	"wxtoken/client"
	"wxtoken/internal/gate"
)

// component is one third-party platform: the gate that every call for it passes, and what the sweep
// remembers of it. The gate has a lock of its own. The other fields are the sweep's and need none:
// it is one goroutine, and Run touches them only while there is none. They are memory alone; a
// process that starts anew is told by the statuses what was said, and says it once more at worst.
//
// A component that was taken out of the settings and put back is another one, with a new gate: what
// the old one had learned may be over by then.
type component struct {
	appid string
	gate  *gate.Gate

	late    wxtoken.Reason // what the status says of tickets that stay away
	doubted bool           // the status says that refusals are not believed
	greeted bool
	lost    bool // something of what rested in NATS, and WeChat's list was not asked yet what
}
