package flow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"
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
	// Backoff is the wait before the next attempt after the n-th failed one; nil means 1 s doubling to 30 s, with jitter.
	Backoff func(n int) time.Duration
	// Pace may shorten every wait that a step asks for; nil leaves them alone.
	Pace func(d time.Duration) time.Duration
	// Trace collects the outbound calls made under a context; nil collects nothing.
	Trace func(ctx context.Context) (context.Context, func() []Call)
	// Interrupt is nil in production. In tests, true means: stop as if the process were killed at this point.
	Interrupt func(p Point) bool
}

// Point is a moment at which a process can die.
type Point struct {
	Flow     ID
	Kind     string
	Step     string
	Backward bool
	At       Moment
}

// Moment is where in a step.
type Moment string

// Moments of a step, in order.
const (
	BeforeIntent Moment = "before intent"
	AfterIntent  Moment = "after intent"
	AfterDo      Moment = "after do"
	BeforeCommit Moment = "before commit" // everything written, the transaction still open
	AfterCommit  Moment = "after commit"
)

var (
	errKilled    = errors.New("killed by a test")
	errDraining  = errors.New("shutting down")
	errCancelled = errors.New("flow was cancelled")
)

// Runner claims due flows and advances them.
type Runner struct {
	cfg    Config
	log    *zap.Logger
	holder string
	plans  map[string]*plan

	wake  chan struct{} // look for due flows now
	check chan struct{} // look now whether what is held is still held

	mu       sync.Mutex
	held     map[ID]*held
	hungry   bool // the last look may have left due flows behind for want of workers
	draining bool
	dead     bool
	workers  sync.WaitGroup
}

// held is a flow that this process holds.
type held struct {
	row
	plan    *plan
	claimed time.Time // when Age was true
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer // ends ctx before the lease ends
}

// New returns a runner. Register its flows before Run.
func New(cfg Config) (*Runner, error) {
	if cfg.DB == nil {
		return nil, errors.New("flow: no database")
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 16
	}
	cfg.Lease = orDefault(cfg.Lease, 15*time.Second)
	cfg.Poll = orDefault(cfg.Poll, time.Second)
	cfg.Drain = orDefault(cfg.Drain, 10*time.Second)
	cfg.UndoFor = orDefault(cfg.UndoFor, time.Hour)
	if cfg.Backoff == nil {
		cfg.Backoff = backoff
	}
	if cfg.Pace == nil {
		cfg.Pace = func(d time.Duration) time.Duration { return d }
	}
	if cfg.Trace == nil {
		cfg.Trace = func(ctx context.Context) (context.Context, func() []Call) { return ctx, func() []Call { return nil } }
	}
	if cfg.Interrupt == nil {
		cfg.Interrupt = func(Point) bool { return false }
	}
	return &Runner{
		cfg: cfg, log: cfg.Logger.Named("flow"), holder: strings.ToLower(ulid.Make().String()), plans: map[string]*plan{},
		wake: make(chan struct{}, 1), check: make(chan struct{}, 1), held: map[ID]*held{},
	}, nil
}

func backoff(n int) time.Duration {
	d := time.Second << min(n, 5)
	return jitter(min(d, 30*time.Second))
}

// jitter returns something between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1)) // #nosec G404 -- spreads load, decides nothing
}

// Register makes the runner claim flows of this kind.
func Register[S any](r *Runner, f Flow[S]) error {
	p, err := erase(f)
	if err != nil {
		return err
	}
	if r.plans[f.Kind] != nil {
		return fmt.Errorf("flow %q: registered twice", f.Kind)
	}
	r.plans[f.Kind] = p
	return nil
}

// Wake makes the runner look for due flows now, and whether it still holds what it runs.
func (r *Runner) Wake() {
	signal(r.wake)
	signal(r.check)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is pending already
	}
}

// Run claims and advances flows until ctx ends; then it claims no more and lets the steps under way finish for as long as
// Config.Drain says. It returns nil after an orderly end.
func (r *Runner) Run(ctx context.Context) error {
	renewing, stopRenewing := context.WithCancel(context.WithoutCancel(ctx))
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		r.renewLoop(renewing)
	}()
	defer func() {
		stopRenewing()
		<-renewed
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return r.drain()
		case <-r.wake:
		case <-timer.C:
		}
		if r.isDead() {
			r.workers.Wait()
			return errKilled
		}
		if err := r.claim(ctx); err != nil && ctx.Err() == nil && !r.isDead() {
			r.log.Warn("looking for due flows failed", zap.Error(err))
		}
		timer.Reset(jitter(r.cfg.Poll))
	}
}

// drain waits for the steps under way. Those that do not end in time are cut off; their flows are released, and the next
// runner repeats the attempt.
func (r *Runner) drain() error {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		r.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(r.cfg.Drain):
	}
	r.mu.Lock()
	for _, h := range r.held {
		h.cancel(errDraining)
	}
	r.mu.Unlock()
	<-done
	return nil
}

// claim takes as many due flows as there are free workers.
func (r *Runner) claim(ctx context.Context) error {
	r.mu.Lock()
	free := r.cfg.Workers - len(r.held)
	r.hungry = free <= 0
	r.mu.Unlock()
	if free <= 0 {
		return nil
	}
	kinds := make([]string, 0, len(r.plans))
	for kind := range r.plans {
		kinds = append(kinds, kind)
	}
	asked := time.Now() // before the database reads its clock, so that our idea of the lease ends first
	rows, err := r.cfg.DB.Query(ctx, queries["claim"], args{"holder": r.holder, "lease": r.cfg.Lease.Seconds(), "kinds": kinds, "limit": free})
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hungry = len(list) == free
	for _, c := range list {
		h := &held{row: c, plan: r.plans[c.Kind], claimed: asked}
		// Not derived from Run's context: at shutdown a step may finish.
		h.ctx, h.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
		h.timer = time.AfterFunc(time.Until(r.safeUntil(asked)), func() { h.cancel(ErrLost) })
		r.held[h.ID] = h
		r.workers.Go(func() { r.drive(h) })
	}
	return nil
}

// safeUntil is when outbound calls must end under a lease taken or renewed at the given moment.
func (r *Runner) safeUntil(asked time.Time) time.Time { return asked.Add(r.cfg.Lease - r.cfg.Lease/5) }

func (r *Runner) renewLoop(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.check:
		}
		if err := r.renew(ctx); err != nil && ctx.Err() == nil && !r.isDead() {
			r.log.Warn("renewing leases failed", zap.Error(err))
		}
	}
}

// renew prolongs everything held in one statement. What the statement does not return is no longer ours.
func (r *Runner) renew(ctx context.Context) error {
	r.mu.Lock()
	mine := make(map[ID]*held, len(r.held))
	ids, epochs := make([]string, 0, len(r.held)), make([]int64, 0, len(r.held))
	for id, h := range r.held {
		mine[id] = h
		ids, epochs = append(ids, string(id)), append(epochs, h.Epoch)
	}
	dead := r.dead
	r.mu.Unlock()
	if len(ids) == 0 || dead {
		return nil
	}
	asked := time.Now()
	ctx, stop := context.WithTimeout(ctx, r.cfg.Lease/3)
	defer stop()
	rows, err := r.cfg.DB.Query(ctx, queries["renew"], args{"lease": r.cfg.Lease.Seconds(), "ids": ids, "epochs": epochs})
	if err != nil {
		return err
	}
	type renewal struct {
		ID     ID
		Cancel *string
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[renewal])
	if err != nil {
		return err
	}
	for _, n := range list {
		h := mine[n.ID]
		delete(mine, n.ID)
		h.timer.Reset(time.Until(r.safeUntil(asked)))
		if n.Cancel != nil && !h.plan.oneWay {
			h.cancel(errCancelled)
		}
	}
	for _, h := range mine { // given back in the meantime, or taken from us
		h.cancel(ErrLost)
	}
	return nil
}

func (r *Runner) isDead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead
}

// interrupted asks the test whether the process dies here. From then on nothing of this runner reaches the database.
func (r *Runner) interrupted(h *held, at Moment) bool {
	if !r.isDead() && !r.cfg.Interrupt(Point{Flow: h.ID, Kind: h.Kind, Step: h.Step, Backward: h.Backward, At: at}) {
		return false
	}
	r.mu.Lock()
	r.dead = true
	for _, other := range r.held {
		other.cancel(errKilled)
	}
	r.mu.Unlock()
	signal(r.wake)
	return true
}

// Idle reports whether the runner is advancing nothing at the moment.
func (r *Runner) Idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.held) == 0
}
