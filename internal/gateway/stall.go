package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// errStalled ends a call of which WeChat takes no more, or of whose answer it sends no more.
var errStalled = errors.New("WeChat has stopped in the middle of the call")

// wholeWithin bounds a call until its first piece is sent, or, if it has no body, until its answer begins.
const wholeWithin = 2*dialWithin + answerWithin + paceLimit

// watch ends a call to WeChat that does not get on: each piece of the request and of the answer has paceLimit.
// http.Transport bounds only the wait between the two. While the caller is waited for, which paced
// bounds, the watch stands still.
type watch struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// roundTrip makes a call that ends with errStalled if WeChat does not get on.
func roundTrip(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{cancel: cancel, timer: time.AfterFunc(wholeWithin, func() { cancel(errStalled) })}
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sending{req.Body, w}
		if again := req.GetBody; again != nil {
			req.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				return &sending{body, w}, err
			}
		}
	}
	res, err := base.RoundTrip(req)
	if err != nil {
		err = stalled(ctx, err)
		w.end()
		return nil, err
	}
	w.timer.Stop()
	res.Body = &receiving{res.Body, w, ctx}
	return res, nil
}

// end lets go of the call.
func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// stalled returns errStalled where err comes of it.
func stalled(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// sending is the body of a call. What was read from it is being sent until it is read again.
type sending struct {
	io.ReadCloser
	watch *watch
}

// Read reads the next piece, which the caller may still be sending.
func (s *sending) Read(into []byte) (int, error) {
	s.watch.timer.Stop()
	n, err := s.ReadCloser.Read(into)
	limit := paceLimit
	if err != nil { // the last piece; what comes then is the answer
		limit += answerWithin
	}
	s.watch.timer.Reset(limit)
	return n, err
}

// receiving is the body of an answer.
type receiving struct {
	io.ReadCloser
	watch *watch
	ctx   context.Context
}

// Read waits for the next piece.
func (r *receiving) Read(into []byte) (int, error) {
	r.watch.timer.Reset(paceLimit)
	n, err := r.ReadCloser.Read(into)
	r.watch.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = stalled(r.ctx, err)
	}
	return n, err
}

// Close ends the call.
func (r *receiving) Close() error {
	err := r.ReadCloser.Close()
	r.watch.end()
	return err
}
