package keybroker

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// turn is a request that was let in, on credit of its address or in a place of the line. Nobody is known yet: as soon as the
// caller turns out to be somebody, it leaves.
type turn struct {
	limits  *limits
	peer    string
	holds   *account // one of whose credit it has; nil in the line, and once it has left
	place   func()   // gives back a place in the line, nil on credit
	charged bool
}

// admit lets a request in: with credit, unless it is beyond its own rate, as soon as not all of that is under way; without,
// after its turn in the line. What is behind it finds out whether the caller is somebody.
func (b *Broker) admit(ctx context.Context, peer string, within bool) (*turn, error) {
	t := &turn{limits: b.limits, peer: peer}
	if within {
		if t.holds = b.limits.enter(ctx, peer); t.holds != nil {
			return t, nil
		}
	}
	if ctx.Err() == nil {
		t.place = b.line.enter(ctx)
	}
	switch {
	case t.place != nil:
		return t, nil
	case ctx.Err() != nil:
		// It has hung up, and nobody refused it.
		return nil, fmt.Errorf("waiting to be let in: %w", ctx.Err())
	}
	// Nothing was done for it, so it costs no credit: guests that come in thousands and ask again, as they should, do not use
	// up that of their site with this.
	return nil, b.count(CodeRate, "too many requests wait")
}

// leave lets the next one in, and costs nothing: it is known that the caller is somebody, or the request has ended and is
// held against nobody.
func (t *turn) leave() { t.end(1) }

// refused has the address pay, and pay once, whoever of those that a refusal passes through says so. What it pays with is
// what the request holds, or, where that was given back already, another.
func (t *turn) refused() {
	if !t.charged && t.holds == nil {
		t.limits.peerRefused(t.peer)
	}
	t.charged = true
	t.end(0)
}

func (t *turn) end(back float64) {
	if t.holds != nil {
		t.limits.exit(t.holds, back)
		t.holds = nil
	}
	if t.place != nil {
		t.place()
	}
}

// account is the credit of an address. A request under way holds one of it, and gives it back unless it is refused: so an
// address has no more under way on credit than it may be refused for. What is free and what is held are never more than the
// burst together.
//
// A whole site may stand behind one address, and its guests may boot in one moment. They need not be let in in that moment,
// for peerBurst at a time are more than the database answers at once; so those beyond the credit wait for what the others
// give back, each within milliseconds. Where all credit turns out to be spent, those who wait go to the line at once, and
// whom it has no room for hears 429 and asks again: that is delay, and locks nobody out. They do not wait in the line, where the site
// would have two places and strangers before it.
type account struct {
	bucket
	held    int
	waiting []chan bool // in the order in which they came; told whether they have credit
}

// enter takes one of an address's credit for a request, or waits for one that others hold. It is nil when there is none
// left, not even held, when too many wait, and when the caller is gone before its turn.
func (l *limits) enter(ctx context.Context, peer string) *account {
	mine := make(chan bool, 1)
	l.mu.Lock()
	a := l.account(peer)
	a.waiting = append(a.waiting, mine)
	l.waiting++
	l.settle(a)
	if len(a.waiting) > peerWaiting || l.waiting > allWaiting {
		// Not told yet, so it is the last that waits here, and the only one too many.
		if n := len(a.waiting); n > 0 && a.waiting[n-1] == mine {
			a.waiting = a.waiting[:n-1]
			l.waiting--
			l.mu.Unlock()
			return nil
		}
	}
	l.mu.Unlock()
	credit := false
	select {
	case credit = <-mine:
	case <-ctx.Done():
		if l.gone(a, mine) {
			return nil
		}
		credit = <-mine // its turn came first
	}
	if !credit {
		return nil
	}
	return a
}

// gone takes one that waits out of its account; false if it does not wait any more.
func (l *limits) gone(a *account, mine chan bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(a.waiting, mine)
	if i < 0 {
		return false
	}
	a.waiting = slices.Delete(a.waiting, i, i+1)
	l.waiting--
	return true
}

// exit ends what enter began. back is 0 if the request was refused.
func (l *limits) exit(a *account, back float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.held--
	a.tokens += back
	l.settle(a)
}

// peerRefused charges an address for what was refused and held nothing.
func (l *limits) peerRefused(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(peer)
	l.settle(a)
	if a.tokens >= 1 {
		a.tokens--
	}
}

// account finds that of an address. One that is forgotten, see room, lives on for those that hold of it or wait for that,
// and what comes back to it goes to nobody else.
func (l *limits) account(peer string) *account {
	a, ok := l.peers[peer]
	if !ok {
		a = &account{bucket: bucket{tokens: peerBurst, at: l.now()}}
		room(l.peers)
		l.peers[peer] = a
	}
	return a
}

// settle brings an account up to date and lets in whom it can. When nothing is held that could come back, all who wait
// learn that the credit is spent.
func (l *limits) settle(a *account) {
	a.fill(l.now(), float64(peerBurst-a.held), peerEvery)
	for len(a.waiting) > 0 && (a.tokens >= 1 || a.held == 0) {
		credit := a.tokens >= 1
		if credit {
			a.tokens--
			a.held++
		}
		a.waiting[0] <- credit
		a.waiting = a.waiting[1:]
		l.waiting--
	}
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
