package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// intend commits the intent to attempt the current step. A crash after this repeats the step.
func (r *Runner) intend(h *held) error {
	kind := Intent
	switch {
	case h.Backward:
		kind = UndoIntent
	case h.Abandoned:
		kind = TakenOver
	}
	var age float64
	asked := time.Now()
	err := r.write(h, func(ctx context.Context, tx pgx.Tx) error {
		err := tx.QueryRow(ctx, queries["intent"], args{"id": h.ID, "epoch": h.Epoch}).Scan(&h.Cancel, &age)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrLost
		}
		if err != nil {
			return fmt.Errorf("recording the intent of flow %s: %w", h.ID, err)
		}
		return addEvent(ctx, tx, h.ID, h.Epoch, kind, h.Step, "", nil, nil)
	})
	if err != nil {
		return err
	}
	h.Age, h.claimed, h.Abandoned = &age, asked, false
	return nil
}

// succeed records a done step, with the step's own Commit, and the intent for the next one.
func (r *Runner) succeed(h *held, i int, data json.RawMessage, calls []Call) (bool, error) {
	step := &h.plan.steps[i]
	last := i == len(h.plan.steps)-1
	var out json.RawMessage
	err := r.write(h, func(ctx context.Context, tx pgx.Tx) (err error) {
		err = r.contain(h, func() (err error) {
			out, err = step.commit(ctx, tx, data)
			return err
		})
		if err != nil {
			return err
		}
		if err := r.event(ctx, tx, h, out, StepDone, step.name, nil, calls); err != nil {
			return err
		}
		if last {
			return r.end(ctx, tx, h, "succeeded", out, nil, Succeeded)
		}
		return r.move(ctx, tx, h, i+1, false, out, nil)
	})
	if err == nil && !last {
		h.at(i+1, false, out, nil)
	}
	return !last, err
}

// turn records that a step gave up and turns the flow round: its own Undo comes first, for it may have done something.
func (r *Runner) turn(h *held, i int, p *Problem, calls []Call) (bool, error) {
	to := i
	if !h.plan.steps[i].reversible {
		to = h.plan.before(i)
	}
	if h.plan.oneWay {
		return false, r.park(h, p)
	}
	p = p.or(h.plan.failed)
	err := r.write(h, func(ctx context.Context, tx pgx.Tx) error {
		if err := r.event(ctx, tx, h, h.Data, StepFailed, h.Step, p, calls); err != nil {
			return err
		}
		if to < 0 {
			return r.end(ctx, tx, h, "failed", h.Data, p, Failed)
		}
		return r.move(ctx, tx, h, to, true, h.Data, p)
	})
	if err == nil && to >= 0 {
		h.at(to, true, h.Data, p)
	}
	return to >= 0, err
}

// undone records an undone step and the intent for the one before it.
func (r *Runner) undone(h *held, i int, data json.RawMessage, calls []Call) (bool, error) {
	step := &h.plan.steps[i]
	to := h.plan.before(i)
	var out json.RawMessage
	err := r.write(h, func(ctx context.Context, tx pgx.Tx) (err error) {
		err = r.contain(h, func() (err error) {
			out, err = step.unCommit(ctx, tx, data)
			return err
		})
		if err != nil {
			return err
		}
		if err := r.event(ctx, tx, h, out, StepUndone, step.name, nil, calls); err != nil {
			return err
		}
		if to < 0 {
			return r.end(ctx, tx, h, "failed", out, h.Problem, Failed)
		}
		return r.move(ctx, tx, h, to, true, out, h.Problem)
	})
	if err == nil && to >= 0 {
		h.at(to, true, out, h.Problem)
	}
	return to >= 0, err
}

// wait gives the worker back until the time has come.
func (r *Runner) wait(h *held, i int, data json.RawMessage, calls []Call, w *again) error {
	kind := Waiting
	if h.Backward {
		kind = UndoWaiting
	}
	why, after := clip(w.why), r.cfg.Pace(w.after)
	changing := slices.DeleteFunc(slices.Clone(calls), func(c Call) bool { return !mutating(c) })
	return r.pause(h, i, after, func(ctx context.Context, tx pgx.Tx, set args) error {
		problem := h.Problem
		if !h.Backward {
			problem = w.problem // not an earlier attempt's: this one did not fail
		}
		set["data"], set["detail"], set["calls"], set["problem"] = data, why, listOrEmpty(changing), orNull(problem)
		if why == h.Detail && len(changing) == len(h.Calls) {
			return nil // one more look at the same thing is not worth an event
		}
		return addEvent(ctx, tx, h.ID, h.Epoch, kind, h.Step, why, nil, calls)
	})
}

// retry records a failed attempt and lets the step rest before the next.
func (r *Runner) retry(h *held, i int, calls []Call, cause error) error {
	p := problemOf(cause).or(fixInternal)
	kind, problem := Retried, p
	if h.Backward {
		kind, problem = UndoRetried, h.Problem // why the flow is unwound stays in sight
	}
	if p.Code == codeInternal {
		r.log.Warn("step failed", zap.String("flow", string(h.ID)), zap.String("kind", h.Kind), zap.String("step", h.Step), zap.Error(cause))
	}
	after := r.cfg.Pace(r.cfg.Backoff(h.Attempts))
	h.Attempts++
	return r.pause(h, i, after, func(ctx context.Context, tx pgx.Tx, set args) error {
		set["data"], set["detail"], set["calls"], set["problem"] = h.Data, p.Detail, listOrEmpty(calls), orNull(problem)
		return addEvent(ctx, tx, h.ID, h.Epoch, kind, h.Step, "", p, calls)
	})
}

// pause releases the flow until it is due again.
func (r *Runner) pause(h *held, i int, after time.Duration, fill func(context.Context, pgx.Tx, args) error) error {
	deadline := h.plan.steps[i].deadline
	if h.Backward {
		deadline = r.cfg.UndoFor
	}
	set := args{"id": h.ID, "epoch": h.Epoch, "after": after.Seconds(), "deadline": (deadline + time.Second).Seconds(), "attempts": h.Attempts}
	err := r.write(h, func(ctx context.Context, tx pgx.Tx) error {
		if err := fill(ctx, tx, set); err != nil {
			return err
		}
		return exactlyOne(ctx, tx, "wait", set)
	})
	if err == nil && after < r.cfg.Poll {
		time.AfterFunc(after, func() { signal(r.wake) })
	}
	return err
}

// park stops the flow until somebody resumes it or another flow takes its place.
func (r *Runner) park(h *held, p *Problem) error {
	p = p.or(h.plan.parked)
	return r.write(h, func(ctx context.Context, tx pgx.Tx) error {
		return r.end(ctx, tx, h, "parked", h.Data, p, Parked)
	})
}

func (r *Runner) move(ctx context.Context, tx pgx.Tx, h *held, to int, backward bool, data json.RawMessage, p *Problem) error {
	state, kind := "running", Intent
	if backward {
		state, kind = "unwinding", UndoIntent
	}
	name := h.plan.steps[to].name
	err := exactlyOne(ctx, tx, "move", args{
		"id": h.ID, "epoch": h.Epoch, "state": state, "backward": backward, "step": name,
		"data": data, "problem": orNull(p),
	})
	if err != nil {
		return err
	}
	return addEvent(ctx, tx, h.ID, h.Epoch, kind, name, "", nil, nil)
}

// at follows a committed move.
func (h *held) at(to int, backward bool, data json.RawMessage, p *Problem) {
	zero := 0.0
	h.Step, h.Backward, h.Data, h.Problem = h.plan.steps[to].name, backward, data, p
	h.Detail, h.Calls, h.Attempts, h.Age, h.claimed = "", nil, 0, &zero, time.Now()
}

func (r *Runner) end(ctx context.Context, tx pgx.Tx, h *held, state string, data json.RawMessage, p *Problem, kind EventKind) error {
	if err := r.event(ctx, tx, h, data, kind, h.Step, p, nil); err != nil {
		return err
	}
	return exactlyOne(ctx, tx, "end", args{
		"id": h.ID, "epoch": h.Epoch, "state": state, "backward": h.Backward || state == "failed", "step": h.Step,
		"data": data, "problem": orNull(p),
	})
}

// event writes the flow's own event and lets the flow write its audit entry beside it.
func (r *Runner) event(ctx context.Context, tx pgx.Tx, h *held, data json.RawMessage, kind EventKind, step string, p *Problem, calls []Call) error {
	if err := addEvent(ctx, tx, h.ID, h.Epoch, kind, step, "", p, calls); err != nil {
		return err
	}
	if h.plan.record == nil {
		return nil
	}
	err := r.contain(h, func() error {
		return h.plan.record(ctx, tx, data, Event{Flow: h.ID, Subject: h.Subject, Step: step, Kind: kind, Problem: p, Calls: calls})
	})
	if err != nil {
		return fmt.Errorf("recording %s of %s: %w", kind, step, err)
	}
	return nil
}

func listOrEmpty(calls []Call) []Call {
	if calls == nil {
		return []Call{}
	}
	return calls
}
