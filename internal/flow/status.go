package flow

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// State of a flow.
type State string

// States of a flow. Superseded flows were ended by another that took over what they had made.
const (
	StateRunning    State = "running"
	StateUnwinding  State = "unwinding"
	StateParked     State = "parked"
	StateSucceeded  State = "succeeded"
	StateFailed     State = "failed"
	StateSuperseded State = "superseded"
)

// Status is where a flow stands and how it came there.
type Status struct {
	ID        ID
	Kind      string
	Subject   string
	State     State
	Step      string
	Detail    string
	Problem   *Problem
	Request   string
	Steps     []StepStatus
	CreatedAt time.Time
	EndedAt   *time.Time
}

// StepStatus is where one step stands: pending, running, waiting, succeeded, failed, undoing or undone.
type StepStatus struct {
	Name      string
	State     string
	StartedAt *time.Time
	EndedAt   *time.Time
	Detail    string
	Problem   *Problem
}

// Querier is what a pool and a transaction have in common.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

type flowRow struct {
	ID        ID
	Kind      string
	Subject   string
	State     State
	Backward  bool
	Steps     []string
	Step      string
	Detail    string
	Problem   *Problem
	Request   string
	CreatedAt time.Time
	EndedAt   *time.Time
}

// Get returns one flow.
func Get(ctx context.Context, db Querier, id ID) (Status, error) {
	list, err := read(ctx, db, "flows", args{"id": id, "subject": "", "limit": 1})
	if err != nil {
		return Status{}, fmt.Errorf("reading flow %s: %w", id, err)
	}
	if len(list) == 0 {
		return Status{}, fmt.Errorf("reading flow %s: %w", id, ErrNotFound)
	}
	return list[0], nil
}

// List returns the latest flows of a subject, newest first.
func List(ctx context.Context, db Querier, subject string, limit int) ([]Status, error) {
	list, err := read(ctx, db, "flows", args{"id": "", "subject": subject, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("listing the flows of %s: %w", subject, err)
	}
	return list, nil
}

// Live returns the subject's live flow; ok is false if it has none.
func Live(ctx context.Context, db Querier, subject string) (s Status, ok bool, err error) {
	list, err := read(ctx, db, "live", args{"subject": subject})
	if err != nil {
		return Status{}, false, fmt.Errorf("reading the live flow of %s: %w", subject, err)
	}
	if len(list) == 0 {
		return Status{}, false, nil
	}
	return list[0], true, nil
}

func read(ctx context.Context, db Querier, query string, a args) ([]Status, error) {
	rows, err := db.Query(ctx, queries[query], a)
	if err != nil {
		return nil, err
	}
	flows, err := pgx.CollectRows(rows, pgx.RowToStructByName[flowRow])
	if err != nil || len(flows) == 0 {
		return nil, err
	}
	ids := make([]string, len(flows))
	for i, f := range flows {
		ids[i] = string(f.ID)
	}
	rows, err = db.Query(ctx, queries["events"], args{"flows": ids})
	if err != nil {
		return nil, err
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByName[eventRow])
	if err != nil {
		return nil, err
	}
	out := make([]Status, len(flows))
	for i, f := range flows {
		out[i] = f.status(events)
	}
	return out, nil
}

type eventRow struct {
	Flow    ID
	Kind    EventKind
	Step    string
	At      time.Time
	Detail  string
	Problem *Problem
}

// status folds the events into what each step's line shows.
func (f flowRow) status(events []eventRow) Status {
	s := Status{
		ID: f.ID, Kind: f.Kind, Subject: f.Subject, State: f.State, Step: f.Step, Detail: f.Detail, Problem: f.Problem,
		Request: f.Request, CreatedAt: f.CreatedAt, EndedAt: f.EndedAt,
	}
	for _, name := range f.Steps {
		s.Steps = append(s.Steps, StepStatus{Name: name, State: "pending"})
	}
	for _, e := range events {
		i := slices.IndexFunc(s.Steps, func(st StepStatus) bool { return st.Name == e.Step })
		if e.Flow == f.ID && i >= 0 {
			s.Steps[i].apply(e)
		}
	}
	for i := range s.Steps { // a flow that was superseded in the middle of a step does not go on with it
		if st := &s.Steps[i]; f.State == StateSuperseded && st.StartedAt != nil && st.EndedAt == nil {
			st.State, st.EndedAt, st.Problem = "failed", f.EndedAt, f.Problem
		}
	}
	return s
}

func (s *StepStatus) apply(e eventRow) {
	at := e.At
	switch e.Kind {
	case Intent, TakenOver, Resumed:
		s.State, s.EndedAt = "running", nil
		if s.StartedAt == nil {
			s.StartedAt = &at
		}
	case Waiting, UndoWaiting:
		s.Detail = e.Detail
		if e.Kind == Waiting {
			s.State = "waiting"
		}
	case Retried, UndoRetried:
		s.Problem = e.Problem
	case StepDone:
		s.State, s.EndedAt, s.Problem, s.Detail = "succeeded", &at, nil, ""
	case StepFailed, Parked:
		s.State, s.EndedAt, s.Problem = "failed", &at, e.Problem
	case UndoIntent:
		s.State, s.EndedAt = "undoing", nil
		if s.StartedAt == nil {
			s.StartedAt = &at
		}
	case StepUndone:
		s.State, s.EndedAt = "undone", &at
	}
}
