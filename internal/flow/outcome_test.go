package flow_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

func TestWaitingHoldsNoWorker(t *testing.T) {
	ctx, db := flowtest.Context(t), database(t)
	waits := flow.Flow[toy]{Kind: "waits", Steps: []flow.Step[toy]{{Name: "wait", Deadline: 24 * time.Hour, Do: func(context.Context, *toy) error {
		return flow.Again(time.Hour, "waiting for capacity")
	}}}}
	cfg := config(db)
	cfg.Workers, cfg.Pace = 1, nil
	r := runner(t, cfg, waits)
	if err := flow.Register(r, flow.Flow[toy]{Kind: "quick", Steps: []flow.Step[toy]{{Name: "one"}}}); err != nil {
		t.Fatal(err)
	}
	waiting := mustStart(ctx, t, db, r, "waits", "w/1", toy{})
	quick := mustStart(ctx, t, db, r, "quick", "w/2", toy{})
	flowtest.Run(t, r)
	flowtest.Await(ctx, t, db, quick, flow.StateSucceeded)
	flowtest.Until(ctx, t, "the wait to show", func() (bool, error) {
		s, err := flow.Get(ctx, db, waiting)
		return s.Detail == "waiting for capacity" && s.Steps[0].State == "waiting", err
	})
	if _, err := start(ctx, db, r, "quick", "w/1", toy{}); !errors.Is(err, flow.ErrBusy) {
		t.Errorf("a second live flow on one subject: %v", err)
	}
}

func TestDeadlineUnwindsOrParks(t *testing.T) {
	ctx, db := flowtest.Context(t), database(t)
	undone := 0
	steps := func() []flow.Step[toy] {
		return []flow.Step[toy]{
			{Name: "make", Undo: func(context.Context, *toy) error { undone++; return nil }},
			{Name: "wait", Deadline: 50 * time.Millisecond, Do: func(context.Context, *toy) error {
				return flow.AgainBecause(time.Millisecond, &flow.Problem{Code: "capacity", Detail: "no host", Fix: "ask the operator"})
			}},
		}
	}
	r := runner(t, config(db), flow.Flow[toy]{Kind: "there and back", Steps: steps()})
	if err := flow.Register(r, flow.Flow[toy]{Kind: "one way", Steps: steps(), OneWay: true}); err != nil {
		t.Fatal(err)
	}
	back := mustStart(ctx, t, db, r, "there and back", "w/1", toy{})
	parked := mustStart(ctx, t, db, r, "one way", "w/2", toy{})
	flowtest.Run(t, r)
	if s := flowtest.Await(ctx, t, db, back, flow.StateFailed); s.Problem.Code != "capacity" || s.Problem.Fix == "" || undone != 1 {
		t.Errorf("failed with %+v, %d undone", s.Problem, undone)
	}
	for range 2 { // resuming parks it again, after another deadline
		if s := flowtest.Await(ctx, t, db, parked, flow.StateParked); s.Problem.Code != "capacity" || s.Steps[1].State != "failed" {
			t.Errorf("parked with %+v", s)
		}
		if err := postgres.InTx(ctx, db, func(tx pgx.Tx) error {
			now, err := flow.IsParked(ctx, tx, "w/2", 0)
			long, err2 := flow.IsParked(ctx, tx, "w/2", time.Hour)
			ended, err3 := flow.IsParked(ctx, tx, "w/1", 0)
			if !now || long || ended {
				t.Errorf("parked now: %t, for an hour: %t; a flow that ended: %t", now, long, ended)
			}
			return errors.Join(err, err2, err3, r.Resume(ctx, tx, parked))
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailingUndoParksAndResumes(t *testing.T) {
	ctx, db := flowtest.Context(t), database(t)
	var mu sync.Mutex
	stuck := true
	f := flow.Flow[toy]{Kind: "stuck", Steps: []flow.Step[toy]{
		{Name: "make", Undo: func(context.Context, *toy) error {
			mu.Lock()
			defer mu.Unlock()
			if stuck {
				return errors.New("volume is in use")
			}
			return nil
		}},
		{Name: "fail", Do: func(context.Context, *toy) error { return flow.Fatal(errors.New("no")) }},
	}}
	cfg := config(db)
	cfg.UndoFor = 50 * time.Millisecond
	r := runner(t, cfg, f)
	id := mustStart(ctx, t, db, r, "stuck", "w/1", toy{})
	flowtest.Run(t, r)
	if s := flowtest.Await(ctx, t, db, id, flow.StateParked); s.Problem.Code != "undo" || s.Problem.Fix == "" {
		t.Errorf("parked with %+v", s.Problem)
	}
	mu.Lock()
	stuck = false
	mu.Unlock()
	if err := postgres.InTx(ctx, db, func(tx pgx.Tx) error { return r.Resume(ctx, tx, id) }); err != nil {
		t.Fatal(err)
	}
	flowtest.Await(ctx, t, db, id, flow.StateFailed)
}

func TestCancelInterruptsAndUnwinds(t *testing.T) {
	ctx, db, c := flowtest.Context(t), database(t), newCloud()
	f := toyFlow(c)
	entered := make(chan struct{}, 1)
	f.Steps[2].Do = func(ctx context.Context, s *toy) error {
		c.ensure(s.Name + "/server") // the call went out, its answer never comes
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	r := runner(t, config(db), f)
	id := mustStart(ctx, t, db, r, "toy", "w/1", toy{Name: "1"})
	flowtest.Run(t, r)
	<-entered
	if err := postgres.InTx(ctx, db, func(tx pgx.Tx) error { return r.Cancel(ctx, tx, id, "no longer wanted") }); err != nil {
		t.Fatal(err)
	}
	r.Wake()
	if s := flowtest.Await(ctx, t, db, id, flow.StateFailed); s.Problem.Code != "cancelled" {
		t.Errorf("failed with %+v", s.Problem)
	}
	if err := clean(ctx, t, db, c, "1"); err != nil {
		t.Error(err)
	}
}

func TestSupersedeFencesTheWorkerAndSaysWhenItIsQuiet(t *testing.T) {
	ctx, db, c := flowtest.Context(t), database(t), newCloud()
	f := toyFlow(c)
	entered := make(chan struct{}, 1)
	f.Steps[1].Do = func(ctx context.Context, _ *toy) error {
		entered <- struct{}{}
		<-ctx.Done()
		return flow.InTx(context.WithoutCancel(ctx), func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO toy VALUES ('late', 'write')`)
			return err
		})
	}
	r := runner(t, config(db), f)
	if err := flow.Register(r, flow.Flow[toy]{Kind: "delete", Steps: []flow.Step[toy]{{Name: "settle", Do: func(ctx context.Context, _ *toy) error {
		d, err := r.Quiet(ctx, "w/1")
		if err == nil && d > 0 {
			return flow.Again(d, "another worker is stopping")
		}
		return err
	}}}}); err != nil {
		t.Fatal(err)
	}
	create := mustStart(ctx, t, db, r, "toy", "w/1", toy{Name: "1"})
	flowtest.Run(t, r)
	<-entered
	if d, err := r.Quiet(ctx, "w/1"); err != nil || d != 0 {
		t.Fatalf("quiet in %s before anything was superseded (%v)", d, err)
	}
	var remove flow.ID
	if err := postgres.InTx(ctx, db, func(tx pgx.Tx) (err error) {
		if err = r.Supersede(ctx, tx, "w/1", "delete", "the workspace is deleted"); err == nil {
			remove, err = flow.Start(ctx, tx, r, "delete", "w/1", "req", toy{})
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if d, err := r.Quiet(ctx, "w/1"); err != nil || d <= 0 {
		t.Errorf("quiet in %s while the worker is in a step (%v)", d, err)
	}
	r.Wake()
	flowtest.Await(ctx, t, db, remove, flow.StateSucceeded)
	if s := flowtest.Await(ctx, t, db, create, flow.StateSuperseded); s.Problem.Code != "superseded" {
		t.Errorf("superseded with %+v", s.Problem)
	}
	if got := toyRows(ctx, t, db, ""); got != 1 { // "port" had been committed; nothing after that
		t.Errorf("%d rows", got)
	}
}

func TestDrainFinishesTheStepAndReleasesTheFlow(t *testing.T) {
	ctx, db, c := flowtest.Context(t), database(t), newCloud()
	f := toyFlow(c)
	entered, finish := make(chan struct{}), make(chan struct{})
	port := f.Steps[0].Do
	f.Steps[0].Do = func(ctx context.Context, s *toy) error {
		close(entered)
		<-finish
		return port(ctx, s)
	}
	r := runner(t, config(db), f)
	id := mustStart(ctx, t, db, r, "toy", "w/1", toy{Name: "1"})
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(runCtx) }()
	<-entered
	stop()
	close(finish)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var free bool
	if err := db.QueryRow(ctx, `SELECT lease_until IS NULL AND step = 'volume' FROM flow WHERE id = $1`, id).Scan(&free); err != nil || !free {
		t.Errorf("flow was not released after its step (%v)", err)
	}
}

func TestPanicIsTheStepsFailure(t *testing.T) {
	ctx, db := flowtest.Context(t), database(t)
	r := runner(t, config(db), flow.Flow[toy]{Kind: "panics", Steps: []flow.Step[toy]{{Name: "boom", Do: func(context.Context, *toy) error { panic("secret") }}}})
	id := mustStart(ctx, t, db, r, "panics", "w/1", toy{})
	flowtest.Run(t, r)
	if s := flowtest.Await(ctx, t, db, id, flow.StateFailed); s.Problem.Code != "internal" || s.Problem.Detail != "internal error in step boom" {
		t.Errorf("failed with %+v", s.Problem)
	}
}

// TestPanicInATransaction: whatever of a flow panics, nothing of that transaction stays, the daemon lives, nobody reads what
// was panicked with, and the flow comes to an end that a person can see.
func TestPanicInATransaction(t *testing.T) {
	fails := flow.Step[toy]{Name: "fail", Do: func(context.Context, *toy) error { return flow.Fatal(errors.New("no")) }}
	boom := func(ctx context.Context, tx pgx.Tx, _ *toy) error {
		if _, err := tx.Exec(ctx, `INSERT INTO toy VALUES ('half', 'done')`); err != nil {
			return err
		}
		panic("secret")
	}
	// recording panics when it is first told of an event.
	recording := func(kind flow.EventKind, times int) func(context.Context, pgx.Tx, *toy, flow.Event) error {
		return func(ctx context.Context, tx pgx.Tx, s *toy, e flow.Event) error {
			if e.Kind == kind && times > 0 {
				times--
				return boom(ctx, tx, s)
			}
			return nil
		}
	}
	undone := flow.Step[toy]{Name: "make", Undo: func(context.Context, *toy) error { return nil }}
	for name, c := range map[string]struct {
		flow flow.Flow[toy]
		want flow.State
	}{
		"commit":            {flow.Flow[toy]{Steps: []flow.Step[toy]{{Name: "make", Commit: boom}}}, flow.StateFailed},
		"commit, one way":   {flow.Flow[toy]{OneWay: true, Steps: []flow.Step[toy]{{Name: "make", Commit: boom}}}, flow.StateParked},
		"undo":              {flow.Flow[toy]{Steps: []flow.Step[toy]{{Name: "make", Undo: func(context.Context, *toy) error { panic("secret") }}, fails}}, flow.StateParked},
		"undo commit":       {flow.Flow[toy]{Steps: []flow.Step[toy]{{Name: "make", UndoCommit: boom}, fails}}, flow.StateParked},
		"record of success": {flow.Flow[toy]{Record: recording(flow.StepDone, 1), Steps: []flow.Step[toy]{undone}}, flow.StateFailed},
		"record of failure": {flow.Flow[toy]{Record: recording(flow.StepFailed, 3), Steps: []flow.Step[toy]{undone, fails}}, flow.StateFailed},
		"record of undoing": {flow.Flow[toy]{Record: recording(flow.StepUndone, 1), Steps: []flow.Step[toy]{undone, fails}}, flow.StateParked},
		"record of parking": {flow.Flow[toy]{Record: recording(flow.Parked, 3), OneWay: true, Steps: []flow.Step[toy]{fails}}, flow.StateParked},
		"record of the end": {flow.Flow[toy]{Record: recording(flow.Failed, 1), Steps: []flow.Step[toy]{undone, fails}}, flow.StateParked},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, db := flowtest.Context(t), database(t)
			logged, seen := observer.New(zap.DebugLevel)
			cfg := config(db)
			cfg.Logger = zap.New(logged)
			c.flow.Kind = "panics"
			r := runner(t, cfg, c.flow)
			id := mustStart(ctx, t, db, r, "panics", "w/1", toy{})
			stop := flowtest.Run(t, r)
			s := flowtest.Await(ctx, t, db, id, c.want)
			stop()
			if s.Problem.Fix == "" {
				t.Errorf("ended with %+v", s.Problem)
			}
			if n := toyRows(ctx, t, db, ""); n != 0 {
				t.Errorf("%d rows of a transaction that panicked", n)
			}
			if seen.FilterMessage("step panicked").Len() == 0 {
				t.Error("the panic is not in the log")
			}
			if strings.Contains(fmt.Sprint(s, seen.All()), "secret") {
				t.Error("what was panicked with is told")
			}
		})
	}
}

// TestEveryProblemTellsTheNextStep: whatever a flow comes to, its problem says what to do.
func TestEveryProblemTellsTheNextStep(t *testing.T) {
	ctx, db := flowtest.Context(t), database(t)
	cfg := config(db)
	cfg.UndoFor = 50 * time.Millisecond
	r := runner(t, cfg, flow.Flow[toy]{Kind: "other", Steps: []flow.Step[toy]{{Name: "one"}}})
	const failed, parked = "begin again", "look, then delete"
	waits := func(context.Context, *toy) error { return flow.Again(time.Millisecond, "server is BUILD") }
	broken := func(context.Context, *toy) error { return errors.New("no database") }
	forever := flow.Step[toy]{Name: "one", Do: waits, Deadline: time.Hour}
	type outcome struct {
		oneWay bool
		step   flow.Step[toy]
		state  flow.State
		fix    string
	}
	outcomes := map[string]outcome{
		"waited too long":          {false, flow.Step[toy]{Name: "one", Do: waits, Deadline: 50 * time.Millisecond}, flow.StateFailed, failed},
		"waited too long, one way": {true, flow.Step[toy]{Name: "one", Do: waits, Deadline: 50 * time.Millisecond}, flow.StateParked, parked},
		"failed too long":          {false, flow.Step[toy]{Name: "one", Do: broken, Deadline: 50 * time.Millisecond}, flow.StateFailed, failed},
		"cannot be undone":         {false, flow.Step[toy]{Name: "one", Do: waits, Undo: broken, Deadline: 50 * time.Millisecond}, flow.StateParked, parked},
		"cancelled":                {false, forever, flow.StateFailed, failed},
		"superseded":               {false, forever, flow.StateSuperseded, "follow the operation that took its place: delete"},
	}
	ids := map[string]flow.ID{}
	for name, c := range outcomes {
		if err := flow.Register(r, flow.Flow[toy]{Kind: name, OneWay: c.oneWay, Failed: failed, Parked: parked, Steps: []flow.Step[toy]{c.step}}); err != nil {
			t.Fatal(err)
		}
		ids[name] = mustStart(ctx, t, db, r, name, name, toy{})
	}
	if err := postgres.InTx(ctx, db, func(tx pgx.Tx) error {
		if err := r.Cancel(ctx, tx, ids["cancelled"], "no longer wanted"); err != nil {
			return err
		}
		return r.Supersede(ctx, tx, "superseded", "delete", "the workspace is deleted")
	}); err != nil {
		t.Fatal(err)
	}
	flowtest.Run(t, r)
	for name, c := range outcomes {
		if s := flowtest.Await(ctx, t, db, ids[name], c.state); s.Problem.Fix != c.fix {
			t.Errorf("%s: ended with %+v", name, s.Problem)
		}
	}
	var silent int
	if err := db.QueryRow(ctx, `SELECT count(*) FROM flow_event WHERE problem IS NOT NULL AND coalesce(problem->>'fix', '') = ''`).Scan(&silent); err != nil || silent > 0 {
		t.Errorf("%d problems on record tell no next step (%v)", silent, err)
	}
}

// TestUnknownStepWaitsForItsVersion: a version that does not know a step leaves the flow to one that does.
func TestUnknownStepWaitsForItsVersion(t *testing.T) {
	ctx, db := flowtest.Context(t), database(t)
	older := runner(t, config(db), flow.Flow[toy]{Kind: "toy", Steps: []flow.Step[toy]{{Name: "old"}}})
	newer := runner(t, config(db), flow.Flow[toy]{Kind: "toy", Steps: []flow.Step[toy]{{Name: "new"}}})
	id := mustStart(ctx, t, db, newer, "toy", "w/1", toy{})
	stop := flowtest.Run(t, older)
	flowtest.Until(ctx, t, "the older version to say so", func() (bool, error) {
		s, err := flow.Get(ctx, db, id)
		return s.State == flow.StateRunning && strings.Contains(s.Detail, `no step "new": an operator starts the version`), err
	})
	stop()
	flowtest.Run(t, newer)
	flowtest.Await(ctx, t, db, id, flow.StateSucceeded)
}
