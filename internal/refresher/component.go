package refresher

import (
	"wxtoken/client"
	"wxtoken/internal/gate"
)

// component is one third-party platform: the gate that every call for it passes, and what the sweep
// remembers of it. The sweep's own fields need no lock: it is one goroutine, and Run touches them
// only while there is none.
type component struct {
	appid string
	gate  *gate.Gate

	late    wxtoken.Reason // what the status says of tickets that stay away
	doubted bool           // the status says that refusals are not believed
	greeted bool
	lost    bool // something of what rested in NATS, and WeChat's list was not asked yet what
}
