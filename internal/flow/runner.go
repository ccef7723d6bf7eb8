package flow

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// Config of a Runner. DB is required; zero fields get the defaults named.
type Config struct {
	DB      *pgxpool.Pool
	Logger  *zap.Logger
	Workers int           // flows advanced at once: 16
	Lease   time.Duration // how long a flow stays with a worker that says nothing: 15 s; renewed three times in it
	Poll    time.Duration // longest time between two looks for due flows: 1 s
	Drain   time.Duration // how long Run waits at its end for steps under way: 10 s
	// UndoFor is how long a step's Undo is retried before the flow is parked: 1 h.
	UndoFor time.Duration
	// Trace collects the outbound calls made under a context; nil collects nothing.
	Trace func(ctx context.Context) (context.Context, func() []Call)
}

// Runner claims due flows and advances them.
type Runner struct{ cfg Config }

// New returns a runner. Register its flows before Run.
func New(cfg Config) (*Runner, error) { return &Runner{cfg: cfg}, nil }

// Register makes the runner claim flows of this kind.
func Register[S any](r *Runner, f Flow[S]) error { return nil }

// Start begins a flow in the caller's transaction: until that commits there is no flow. ErrBusy if the subject has a live one.
// request is the id of the request that caused it. Call Wake after the commit.
func Start[S any](ctx context.Context, tx pgx.Tx, r *Runner, kind, subject, request string, s S) (ID, error) {
	return "", errors.New("flow: not written yet")
}

// Run claims and advances flows until ctx ends, then lets the steps under way finish.
func (r *Runner) Run(ctx context.Context) error { return nil }

// Wake makes the runner look for due flows now.
func (r *Runner) Wake() {}
