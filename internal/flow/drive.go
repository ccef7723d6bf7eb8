package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/postgres"
)

// maxCalls bounds how many outbound calls one step's row and events carry.
const maxCalls = 40

// drive advances one flow until it waits, ends, or is no longer ours.
func (r *Runner) drive(h *held) {
	defer func() {
		h.timer.Stop()
		h.cancel(nil)
		r.mu.Lock()
		if r.held[h.ID] == h { // not when it was lost and claimed again meanwhile
			delete(r.held, h.ID)
		}
		hungry := r.hungry
		r.mu.Unlock()
		if hungry {
			signal(r.wake)
		}
	}()
	log := r.log.With(zap.String("flow", string(h.ID)), zap.String("kind", h.Kind), zap.String("subject", h.Subject))
	for {
		more, err := r.advance(h)
		switch {
		case errors.Is(err, errKilled):
			return
		case errors.Is(err, ErrLost):
			log.Info("flow taken over", zap.String("step", h.Step))
			r.yield(h)
			return
		case err != nil:
			log.Warn("flow interrupted", zap.String("step", h.Step), zap.Error(err))
			if p := (*Problem)(nil); errors.As(err, &p) { // nothing could be recorded of it; that much can be shown
				h.Detail = clip(p.Detail + ": " + p.or(fixInternal).Fix)
			}
			after := r.cfg.Backoff(h.Attempts)
			h.Attempts++
			r.release(h, after)
			return
		case !more:
			return
		case r.isDraining():
			r.release(h, 0)
			return
		}
	}
}

// advance makes one attempt at the current step and records how it ended. It reports whether the flow can go on at once.
func (r *Runner) advance(h *held) (bool, error) {
	i := h.plan.index(h.Step)
	if i < 0 { // not parked: it goes on by itself once a version that knows the step takes it
		return false, &Problem{
			Code: "unknown_step", Detail: fmt.Sprintf("this version of siestad knows no step %q", h.Step),
			Fix: "an operator starts the version that began the operation",
		}
	}
	step := &h.plan.steps[i]
	if r.interrupted(h, BeforeIntent) {
		return false, errKilled
	}
	// The intent stands before the attempt: whoever finds it knows that the effect may exist.
	if h.Age == nil || h.Abandoned {
		if err := r.intend(h); err != nil {
			return false, err
		}
	}
	switch {
	case h.Backward:
		if h.age() > r.cfg.UndoFor {
			return false, r.park(h, &Problem{Code: "undo", Detail: fmt.Sprintf("undoing %s did not succeed within %s: %s", h.Step, r.cfg.UndoFor, h.Detail)})
		}
	case h.Cancel != nil && !h.plan.oneWay:
		return r.turn(h, i, &Problem{Code: "cancelled", Detail: *h.Cancel}, nil)
	case h.age() > step.deadline:
		return r.turn(h, i, overdue(h, step), nil)
	}
	if r.interrupted(h, AfterIntent) {
		return false, errKilled
	}
	data, calls, err := r.attempt(h, step)
	if r.interrupted(h, AfterDo) {
		return false, errKilled
	}
	calls = bound(append(h.Calls, calls...))
	switch cause := context.Cause(h.ctx); {
	case errors.Is(cause, ErrLost), errors.Is(cause, errKilled):
		return false, cause
	case errors.Is(cause, errCancelled) && err != nil && !h.Backward:
		return r.turn(h, i, &Problem{Code: "cancelled", Detail: "the operation was cancelled"}, calls)
	case errors.Is(cause, errDraining) && err != nil:
		r.release(h, 0)
		return false, nil
	}
	return r.outcome(h, i, data, calls, err)
}

// outcome records what an attempt returned.
func (r *Runner) outcome(h *held, i int, data json.RawMessage, calls []Call, err error) (bool, error) {
	var (
		wait   *again
		giveUp *fatal
	)
	switch {
	case err == nil:
		done := r.succeed
		if h.Backward {
			done = r.undone
		}
		more, err := done(h, i, data, calls)
		switch {
		case err == nil, errors.Is(err, ErrLost), errors.Is(err, errKilled):
			return more, err
		case errors.As(err, &giveUp):
			return r.giveUp(h, i, err, calls)
		case errors.As(err, &wait): // the transaction found that it is too early
			return false, r.wait(h, i, data, calls, wait)
		}
		return false, r.retry(h, i, calls, err)
	case errors.As(err, &wait):
		return false, r.wait(h, i, data, calls, wait)
	case errors.As(err, &giveUp):
		return r.giveUp(h, i, err, calls)
	}
	return false, r.retry(h, i, calls, err)
}

func (r *Runner) giveUp(h *held, i int, err error, calls []Call) (bool, error) {
	if h.Backward {
		return false, r.park(h, problemOf(err))
	}
	return r.turn(h, i, problemOf(err), calls)
}

func overdue(h *held, step *planStep) *Problem {
	p := &Problem{Code: "deadline", Detail: fmt.Sprintf("%s did not finish within %s", step.name, step.deadline)}
	if h.Problem != nil { // what the last attempt said is worth more than that time is up
		p.Code = h.Problem.Code
		p.Detail += ": " + h.Problem.Detail
		if p.Code != codeInternal { // whose advice was to wait
			p.Fix = h.Problem.Fix
		}
	} else if h.Detail != "" {
		p.Detail += ": " + h.Detail
	}
	return p
}

func bound(calls []Call) []Call {
	if len(calls) > maxCalls {
		return calls[len(calls)-maxCalls:]
	}
	return calls
}

func (h *held) age() time.Duration {
	if h.Age == nil {
		return 0
	}
	return time.Duration(*h.Age*float64(time.Second)) + time.Since(h.claimed)
}

// attempt runs Do or Undo once.
func (r *Runner) attempt(h *held, step *planStep) (data json.RawMessage, calls []Call, err error) {
	ctx, stop := context.WithTimeout(h.ctx, step.attempt)
	defer stop()
	ctx = context.WithValue(ctx, heldKey{}, &grip{r: r, h: h})
	ctx, traced := r.cfg.Trace(ctx)
	fn := step.do
	if h.Backward {
		fn = step.undo
	}
	data = h.Data
	err = r.contain(h, func() (err error) {
		data, err = fn(ctx, h.Data)
		return err
	})
	return data, traced(), err
}

// contain makes a panic in a step's or a flow's own function that step's failure, not the daemon's. In a transaction the
// error rolls back what was written. What was panicked with may hold anything: only the runtime's own words are logged.
func (r *Runner) contain(h *held, fn func() error) (err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		said := fmt.Sprintf("%T", v)
		if fault, ok := v.(runtime.Error); ok {
			said = fault.Error()
		}
		r.log.Error("step panicked", zap.String("flow", string(h.ID)), zap.String("kind", h.Kind), zap.String("step", h.Step),
			zap.String("panic", said), zap.ByteString("stack", debug.Stack()))
		err = Fatal(&Problem{Code: codeInternal, Detail: "internal error in step " + h.Step})
	}()
	return fn()
}

type heldKey struct{}

type grip struct {
	r *Runner
	h *held
}

// InTx runs fn in a transaction that commits only while the step's worker holds its flow. For use inside Do and Undo, with
// the context that they were given; the network is called before or after it, never in fn.
func InTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	g, ok := ctx.Value(heldKey{}).(*grip)
	if !ok {
		return errors.New("flow.InTx outside a step")
	}
	return postgres.InTx(ctx, g.r.cfg.DB, func(tx pgx.Tx) error {
		if err := g.h.guard(ctx, tx); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// guard locks the flow's row, provided that the caller still holds it and that it stands where the caller believes.
func (h *held) guard(ctx context.Context, tx pgx.Tx) error {
	err := tx.QueryRow(ctx, queries["guard"], args{"id": h.ID, "epoch": h.Epoch, "step": h.Step, "backward": h.Backward}).Scan(&h.Cancel)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrLost
	}
	return err
}

// write runs fn in a guarded transaction. It does not end with the attempt's context: at shutdown an outcome is still
// recorded; the guard, not the context, keeps late workers out.
func (r *Runner) write(h *held, fn func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(h.ctx), r.cfg.Lease)
	defer stop()
	if r.isDead() {
		return errKilled
	}
	err := postgres.InTx(ctx, r.cfg.DB, func(tx pgx.Tx) error {
		if err := h.guard(ctx, tx); err != nil {
			return err
		}
		if err := fn(ctx, tx); err != nil {
			return err
		}
		if r.interrupted(h, BeforeCommit) {
			return errKilled
		}
		return nil
	})
	if err == nil && r.interrupted(h, AfterCommit) {
		return errKilled
	}
	return err
}

func (r *Runner) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// release gives the flow back early. If this fails the lease runs out, with the same result later.
func (r *Runner) release(h *held, after time.Duration) {
	r.giveBack(h, "release", args{"id": h.ID, "epoch": h.Epoch, "after": after.Seconds(), "detail": h.Detail, "attempts": h.Attempts})
}

// yield tells whoever superseded the flow that this worker has stopped.
func (r *Runner) yield(h *held) {
	r.giveBack(h, "yield", args{"id": h.ID, "epoch": h.Epoch, "holder": r.holder})
}

func (r *Runner) giveBack(h *held, query string, a args) {
	if r.isDead() {
		return
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(h.ctx), r.cfg.Lease/3)
	defer stop()
	if _, err := r.cfg.DB.Exec(ctx, queries[query], a); err != nil {
		r.log.Debug("giving a flow back failed", zap.String("flow", string(h.ID)), zap.Error(err))
	}
}

// mutating says whether a call can have changed something.
func mutating(c Call) bool { return c.Method != http.MethodGet && c.Method != http.MethodHead }
