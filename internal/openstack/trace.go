package openstack

import (
	"context"
	"sync"
)

// Call is one request as it went over the wire, for the audit entry of the step that caused it.
type Call struct {
	Service   string
	Method    string
	Path      string // without query
	Status    int    // 0: no answer came
	RequestID string // the service's id of the request
	Sent      string // the id we sent, req-<uuid>, which operators can find in every service's log
}

// Trace collects the calls made under one context.
type Trace struct {
	mu    sync.Mutex
	calls []Call
}

type traceKey struct{}

// WithTrace returns a context under which every call is recorded.
func WithTrace(ctx context.Context) (context.Context, *Trace) {
	t := &Trace{}
	return context.WithValue(ctx, traceKey{}, t), t
}

// Calls returns what was recorded so far.
func (t *Trace) Calls() []Call {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Call(nil), t.calls...)
}

func (t *Trace) add(c Call) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls = append(t.calls, c)
}
