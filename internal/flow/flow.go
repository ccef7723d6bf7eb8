package flow

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ID names one run of a flow: a ULID in lower case.
type ID string

// Step is one named piece of work over the flow's values S. Only Name is required.
type Step[S any] struct {
	Name string
	// Do brings the step's effect about. It runs outside any transaction, possibly more than once, and finds what an
	// earlier run made before it makes anything. nil means done, Again waits, Fatal gives up, any other error is retried.
	// What it writes into S is kept when it returns nil or Again.
	Do func(ctx context.Context, s *S) error
	// Commit runs in the transaction that records the step as succeeded. It never calls the network.
	Commit func(ctx context.Context, tx pgx.Tx, s *S) error
	// Undo takes back what Do may have done, however far it came. It succeeds when there is nothing to take back.
	Undo func(ctx context.Context, s *S) error
	// UndoCommit runs in the transaction that records the step as undone.
	UndoCommit func(ctx context.Context, tx pgx.Tx, s *S) error
	// Deadline is how long the step may take from its first intent; 0 means DefaultDeadline.
	Deadline time.Duration
	// Attempt is how long one run of Do or Undo may take; 0 means DefaultAttempt.
	Attempt time.Duration
}

// Limits of a step that names none.
const (
	DefaultDeadline = 15 * time.Minute
	DefaultAttempt  = time.Minute
)

// Flow is a sequence of steps. S is kept as JSON with the flow: it holds no secrets.
type Flow[S any] struct {
	Kind  string
	Steps []Step[S]
	// OneWay flows are never unwound: a step that gives up parks the flow.
	OneWay bool
	// Failed and Parked are the next step, and whose it is, where a problem names none: after the flow was unwound, and
	// when it stands still halfway.
	Failed, Parked string
	// Record runs in every transaction that ends a step or the flow; the audit entries are written here.
	Record func(ctx context.Context, tx pgx.Tx, s *S, e Event) error
}

// EventKind says what happened to a step or a flow.
type EventKind string

// Kinds of events. Those marked * are given to Flow.Record.
const (
	Created     EventKind = "created"
	Intent      EventKind = "intent"
	TakenOver   EventKind = "taken_over" // intent again, by the worker that follows one whose lease ran out
	Waiting     EventKind = "waiting"
	Retried     EventKind = "retried"
	StepDone    EventKind = "succeeded" // *
	StepFailed  EventKind = "failed"    // *
	UndoIntent  EventKind = "undo_intent"
	UndoWaiting EventKind = "undo_waiting"
	UndoRetried EventKind = "undo_retried"
	StepUndone  EventKind = "undone" // *
	Parked      EventKind = "parked" // *
	Resumed     EventKind = "resumed"
	Superseded  EventKind = "superseded"
	Succeeded   EventKind = "flow_succeeded" // *
	Failed      EventKind = "flow_failed"    // *
)

// Event is what Flow.Record is told.
type Event struct {
	Flow    ID
	Subject string
	Step    string
	Kind    EventKind
	// Problem is why a step failed, or why the flow was unwound or parked.
	Problem *Problem
	// Calls are the outbound calls made for the step, see Config.Trace.
	Calls []Call
}

// Call is one outbound call as it stands in events and audit entries.
type Call struct {
	Service string `json:"service"`
	Method  string `json:"method"`
	Path    string `json:"path"`
	Status  int    `json:"status"`
	Request string `json:"request,omitempty"`
}

// Errors that callers branch on.
var (
	// ErrBusy: the subject already has a live flow.
	ErrBusy = errors.New("another operation is running")
	// ErrLost: the caller no longer holds the flow, so nothing was written.
	ErrLost = errors.New("flow is held by another worker")
	// ErrNotFound: there is no such flow.
	ErrNotFound = errors.New("not found")
)

// Problem is a failure as a person reads it.
type Problem struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
	// Fix is the next step and who can take it.
	Fix string `json:"fix,omitempty"`
}

func (p *Problem) Error() string { return p.Detail }

// or is the problem with that next step where it names none.
func (p *Problem) or(fix string) *Problem {
	if p.Fix != "" {
		return p
	}
	c := *p
	c.Fix = fix
	return &c
}

// An internal problem is one that no step has put into words. It is tried again, unless a step panicked.
const (
	codeInternal = "internal"
	fixInternal  = "if it lasts, an operator looks into siestad's log"
)

// problemOf turns any error into a Problem, keeping one that is already inside.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		c := *p
		c.Detail = clip(err.Error())
		return &c
	}
	return &Problem{Code: codeInternal, Detail: clip(err.Error())}
}

// clip bounds what an error can put into a row.
func clip(s string) string {
	const limit = 1000
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}

type again struct {
	after   time.Duration
	why     string
	problem *Problem
}

func (a *again) Error() string { return fmt.Sprintf("not yet: %s", a.why) }

// Again ends this run of Do or Undo and asks for another one after d. why is shown to people: "server is BUILD".
func Again(d time.Duration, why string) error { return &again{after: d, why: why} }

// AgainBecause is Again with a reason that becomes the flow's problem should the step's deadline pass.
func AgainBecause(d time.Duration, p *Problem) error {
	return &again{after: d, why: p.Detail, problem: p}
}

type fatal struct{ err error }

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

// Fatal gives up: the flow is unwound, or parked where it cannot be.
func Fatal(err error) error { return &fatal{err: err} }

// plan is a Flow with its type erased: values travel as JSON between database and steps.
type plan struct {
	kind   string
	oneWay bool
	failed string // as in Flow
	parked string
	steps  []planStep
	record func(ctx context.Context, tx pgx.Tx, data json.RawMessage, e Event) error
}

type planStep struct {
	name              string
	do, undo          func(ctx context.Context, data json.RawMessage) (json.RawMessage, error)
	commit, unCommit  func(ctx context.Context, tx pgx.Tx, data json.RawMessage) (json.RawMessage, error)
	deadline, attempt time.Duration
	reversible        bool
}

func (p *plan) index(step string) int {
	for i, s := range p.steps {
		if s.name == step {
			return i
		}
	}
	return -1
}

// before returns the last step before index i that has something to undo, or -1.
func (p *plan) before(i int) int {
	for i--; i >= 0 && !p.steps[i].reversible; i-- {
	}
	return i
}

func erase[S any](f Flow[S]) (*plan, error) {
	p := &plan{kind: f.Kind, oneWay: f.OneWay, failed: cmp.Or(f.Failed, fixInternal), parked: cmp.Or(f.Parked, fixInternal)}
	if f.Kind == "" || len(f.Steps) == 0 {
		return nil, fmt.Errorf("flow %q: needs a kind and a step", f.Kind)
	}
	for _, s := range f.Steps {
		if s.Name == "" || p.index(s.Name) >= 0 {
			return nil, fmt.Errorf("flow %q: step name %q is empty or taken", f.Kind, s.Name)
		}
		p.steps = append(p.steps, planStep{
			name: s.Name, do: run(s.Do), undo: run(s.Undo), commit: runTx(s.Commit), unCommit: runTx(s.UndoCommit),
			deadline: orDefault(s.Deadline, DefaultDeadline), attempt: orDefault(s.Attempt, DefaultAttempt),
			reversible: s.Undo != nil || s.UndoCommit != nil,
		})
	}
	if f.Record != nil {
		p.record = func(ctx context.Context, tx pgx.Tx, data json.RawMessage, e Event) error {
			var v S
			if err := json.Unmarshal(data, &v); err != nil {
				return fmt.Errorf("reading the values of flow %s: %w", e.Flow, err)
			}
			return f.Record(ctx, tx, &v, e)
		}
	}
	return p, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// run lets a step work on its typed values. Values are returned also beside an error, since Again keeps them.
func run[S any](fn func(context.Context, *S) error) func(context.Context, json.RawMessage) (json.RawMessage, error) {
	return func(ctx context.Context, data json.RawMessage) (json.RawMessage, error) {
		if fn == nil {
			return data, nil
		}
		return through(data, func(v *S) error { return fn(ctx, v) })
	}
}

func runTx[S any](fn func(context.Context, pgx.Tx, *S) error) func(context.Context, pgx.Tx, json.RawMessage) (json.RawMessage, error) {
	return func(ctx context.Context, tx pgx.Tx, data json.RawMessage) (json.RawMessage, error) {
		if fn == nil {
			return data, nil
		}
		return through(data, func(v *S) error { return fn(ctx, tx, v) })
	}
}

func through[S any](data json.RawMessage, fn func(*S) error) (json.RawMessage, error) {
	var v S
	if err := json.Unmarshal(data, &v); err != nil {
		return data, Fatal(fmt.Errorf("reading the flow's values: %w", err))
	}
	err := fn(&v)
	out, encodeErr := json.Marshal(v)
	if encodeErr != nil {
		return data, Fatal(fmt.Errorf("storing the flow's values: %w", encodeErr))
	}
	return out, err
}
