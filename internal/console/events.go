package console

import (
	"fmt"
	"net/http"
	"time"
)

const (
	// maxStreams bounds the streams of events: each holds a connection of the ops server.
	maxStreams = 64
	// minInterval is the shortest time between two events on one stream. With many accounts several
	// tokens are renewed a second.
	minInterval = 2 * time.Second
	// heartbeatEvery is the time between two comments on a quiet stream: shorter than the idle timeout of
	// proxies.
	heartbeatEvery = 15 * time.Second
	// writeTimeout is how long one event may take to be written.
	writeTimeout = 10 * time.Second
)

// stream answers GET /events: an event "changed" whenever pages may have changed, which does not say
// what. Its id is the mark of the index; a browser that reconnects sends it, and hears at once if
// something changed since.
func (c *Console) stream(w http.ResponseWriter, r *http.Request) {
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	default:
		w.Header().Set("Retry-After", "30") // seconds
		http.Error(w, "too many streams are open", http.StatusServiceUnavailable)
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // the error says that the server has no deadlines
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // or nginx would buffer the events
	send := func(format string, args ...any) bool {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	sent := r.Header.Get("Last-Event-ID")
	if !send("retry: 3000\n\n") {
		return
	}
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	for {
		mark, changed := c.index.watch()
		if mark != sent && !send("id: %s\nevent: changed\ndata: {}\n\n", mark) {
			return
		}
		sent = mark
		select {
		case <-time.After(minInterval):
		case <-c.running.Done():
			return
		case <-r.Context().Done():
			return
		}
		select {
		case <-changed:
		case <-beat.C:
			if !send(": still here\n\n") {
				return
			}
		case <-c.running.Done():
			return
		case <-r.Context().Done():
			return
		}
	}
}
