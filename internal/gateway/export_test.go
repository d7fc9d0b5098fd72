package gateway

import "time"

// AnswerWithin has WeChat begin its answers within another time. A test calls it before the first call.
func (g *Gateway) AnswerWithin(d time.Duration) { g.relay.base.ResponseHeaderTimeout = d }
