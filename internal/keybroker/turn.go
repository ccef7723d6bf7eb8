package keybroker

import (
	"context"
	"sync"
)

// turn is a request that was let in. Nobody is known yet: as soon as the caller turns out to be somebody, it leaves.
type turn struct {
	limits  *limits
	peer    string
	place   func() // gives back a place in the line, nil on credit
	charged bool
}

// admit lets a request in: at once with credit, after its turn without. What is behind it finds out whether the caller is
// somebody.
func (b *Broker) admit(ctx context.Context, peer string, credit bool) (*turn, error) {
	t := &turn{limits: b.limits, peer: peer}
	if credit {
		return t, nil
	}
	if t.place = b.line.enter(ctx); t.place == nil {
		return nil, b.anonymous(t, CodeRate, "too many requests wait")
	}
	return t, nil
}

// leave lets the next one in: it is known that the caller is somebody, or the request has ended.
func (t *turn) leave() {
	if t.place != nil {
		t.place()
	}
}

// refused has the address pay, and pay once, whoever of those that a refusal passes through says so.
func (t *turn) refused() {
	if !t.charged {
		t.charged = true
		t.limits.peerRefused(t.peer)
	}
	t.leave()
}

// line is where requests wait whose address has spent its credit. They are not refused for it: they take turns in the order
// in which they came, so that what a stranger can take from those who share his address is a share of these places.
type line struct{ waiting, places chan struct{} }

func newLine() *line {
	return &line{waiting: make(chan struct{}, lineLength), places: make(chan struct{}, linePlaces)}
}

// enter returns once there is a place; leave gives it back, and may be called more than once. It is nil if too many wait.
func (l *line) enter(ctx context.Context) (leave func()) {
	select {
	case l.waiting <- struct{}{}:
	default:
		return nil
	}
	defer func() { <-l.waiting }()
	select {
	case l.places <- struct{}{}:
		return sync.OnceFunc(func() { <-l.places })
	case <-ctx.Done():
		return nil
	}
}
