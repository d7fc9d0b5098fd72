package console

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// firstWindow and maxWindow bound how many sequences are searched at once, from the newest
	// backwards. After a nearly empty window the next one is wider.
	firstWindow, maxWindow = 64, 1 << 22
	// fullWindow is how many messages a window may hold; a fuller one is made narrower.
	fullWindow = 256
	// maxLooked bounds the messages that are read for one page.
	maxLooked = 2000
)

// newest passes the messages of a stream that match a filter and lie before a sequence (0: all) to
// take, the newest first, until take says that it has enough. left: there may be older ones that were
// not looked at.
func (c *Console) newest(ctx context.Context, stream, filter string, before uint64,
	take func(*jetstream.RawStreamMsg) (enough bool)) (left bool, err error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", stream, err)
	}
	first, end := s.CachedInfo().State.FirstSeq, s.CachedInfo().State.LastSeq
	if before > 0 {
		end = min(end, before-1)
	}
	looked := 0
	for width := uint64(firstWindow); end >= first && end > 0; {
		from := first
		if end-first >= width {
			from = end - width + 1
		}
		all, err := window(ctx, s, filter, from, end)
		if err != nil {
			return false, err
		}
		if looked += len(all); len(all) > fullWindow && width > firstWindow && looked < maxLooked {
			width /= 8
			continue
		}
		for _, m := range slices.Backward(all) {
			if take(m) {
				return m.Sequence > first, nil
			}
		}
		if looked >= maxLooked {
			return from > first, nil
		}
		if len(all) < fullWindow/8 {
			width = min(8*width, maxWindow)
		}
		end = from - 1
	}
	return false, nil
}

// window reads the messages between two sequences that match a filter, at most fullWindow+1.
func window(ctx context.Context, s jetstream.Stream, filter string, from, end uint64) (all []*jetstream.RawStreamMsg, err error) {
	for seq := from; seq <= end && len(all) <= fullWindow; {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", s.CachedInfo().Config.Name, err)
		}
		if m.Sequence > end {
			break
		}
		all, seq = append(all, m), m.Sequence+1
	}
	return all, nil
}
