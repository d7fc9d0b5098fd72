package console

import (
	"fmt"
	"net/http"
	"time"
)

const (
	// maxStreams bounds the streams of events: each holds a connection of the ops address.
	maxStreams = 64
	// newsEvery is the shortest time between two news on one stream. A large house renews several
	// tokens a second.
	newsEvery = 2 * time.Second
	// beatEvery is the time between two signs of life on a quiet stream: shorter than proxies wait.
	beatEvery = 15 * time.Second
	// paceLimit is how long one event may take to be written.
	paceLimit = 10 * time.Second
)

// stream answers GET /events: one event "changed" whenever pages may have changed, and nothing
// about how. Its id says up to where; a browser that comes back names it, and is told at once if
// there is more.
func (c *Console) stream(w http.ResponseWriter, r *http.Request) {
	select {
	case c.following <- struct{}{}:
		defer func() { <-c.following }()
	default:
		w.Header().Set("Retry-After", "30") // seconds
		http.Error(w, "too many streams are open", http.StatusServiceUnavailable)
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // a server without deadlines has none to move
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // or nginx keeps the events to itself
	send := func(format string, args ...any) bool {
		_ = control.SetWriteDeadline(time.Now().Add(paceLimit))
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	told := r.Header.Get("Last-Event-ID")
	if !send("retry: 3000\n\n") {
		return
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		mark, changed := c.index.news()
		if mark != told && !send("id: %s\nevent: changed\ndata: {}\n\n", mark) {
			return
		}
		told = mark
		select {
		case <-time.After(newsEvery):
		case <-c.ended.Done():
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
		case <-c.ended.Done():
			return
		case <-r.Context().Done():
			return
		}
	}
}
