package flow_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// toy is what the test's flow carries.
type toy struct{ Name, Made string }

// cloud is a place outside the database: it keeps things by name and counts what was really made.
type cloud struct {
	mu   sync.Mutex
	have map[string]bool
	made map[string]int
	busy map[string]int
}

func newCloud() *cloud {
	return &cloud{have: map[string]bool{}, made: map[string]int{}, busy: map[string]int{}}
}

func (c *cloud) ensure(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.have[name] {
		c.have[name] = true
		c.made[name]++
	}
}

func (c *cloud) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.have, name)
}

func (c *cloud) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.have))
}

var toySteps = []string{"port", "volume", "server", "wait"}

// toyFlow makes three things, waits once, and keeps a row per committed step.
func toyFlow(c *cloud) flow.Flow[toy] {
	f := flow.Flow[toy]{Kind: "toy"}
	for _, name := range toySteps[:3] {
		f.Steps = append(f.Steps, flow.Step[toy]{
			Name: name,
			Do: func(_ context.Context, s *toy) error {
				c.ensure(s.Name + "/" + name)
				s.Made = name
				return nil
			},
			Commit: func(ctx context.Context, tx pgx.Tx, s *toy) error {
				_, err := tx.Exec(ctx, `INSERT INTO toy (flow, step) VALUES ($1, $2)`, s.Name, name)
				return err
			},
			Undo: func(_ context.Context, s *toy) error {
				c.remove(s.Name + "/" + name)
				return nil
			},
			UndoCommit: func(ctx context.Context, tx pgx.Tx, s *toy) error {
				_, err := tx.Exec(ctx, `DELETE FROM toy WHERE flow = $1 AND step = $2`, s.Name, name)
				return err
			},
		})
	}
	var looked sync.Map
	f.Steps = append(f.Steps, flow.Step[toy]{Name: "wait", Do: func(_ context.Context, s *toy) error {
		if _, before := looked.LoadOrStore(s.Name, true); !before {
			return flow.Again(time.Hour, "server is BUILD") // the test's pace shortens it
		}
		return nil
	}})
	return f
}

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	db := pgtest.New(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE toy (flow text, step text, PRIMARY KEY (flow, step))`); err != nil {
		t.Fatal(err)
	}
	return db
}

func config(db *pgxpool.Pool) flow.Config {
	short := func(time.Duration) time.Duration { return time.Millisecond }
	return flow.Config{DB: db, Workers: 4, Lease: 10 * time.Second, Poll: 20 * time.Millisecond, Drain: 10 * time.Second,
		Backoff: func(int) time.Duration { return time.Millisecond }, Pace: short}
}

func runner[S any](t *testing.T, cfg flow.Config, f flow.Flow[S]) *flow.Runner {
	t.Helper()
	r, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := flow.Register(r, f); err != nil {
		t.Fatal(err)
	}
	return r
}

func start[S any](ctx context.Context, db *pgxpool.Pool, r *flow.Runner, kind, subject string, s S) (id flow.ID, err error) {
	err = postgres.InTx(ctx, db, func(tx pgx.Tx) error {
		id, err = flow.Start(ctx, tx, r, kind, subject, "req", s)
		return err
	})
	return id, err
}

func mustStart[S any](ctx context.Context, t *testing.T, db *pgxpool.Pool, r *flow.Runner, kind, subject string, s S) flow.ID {
	t.Helper()
	id, err := start(ctx, db, r, kind, subject, s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// expire ends all leases, as if their time had passed.
func expire(ctx context.Context, t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	if _, err := db.Exec(ctx, `UPDATE flow SET lease_until = clock_timestamp() - interval '1 s' WHERE lease_until IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
}

func toyRows(ctx context.Context, t *testing.T, db *pgxpool.Pool) int {
	t.Helper()
	var n int
	if err := db.QueryRow(ctx, `SELECT count(*) FROM toy`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func complete(ctx context.Context, t *testing.T, db *pgxpool.Pool, c *cloud, name string) error {
	want := []string{name + "/port", name + "/server", name + "/volume"}
	if got := c.names(); !slices.Equal(got, want) || toyRows(ctx, t, db) != 3 {
		return fmt.Errorf("have %v and %d rows", got, toyRows(ctx, t, db))
	}
	for thing, n := range c.made {
		if n != 1 {
			return fmt.Errorf("%s was made %d times", thing, n)
		}
	}
	return nil
}

func clean(ctx context.Context, t *testing.T, db *pgxpool.Pool, c *cloud) error {
	if got := c.names(); len(got) > 0 || toyRows(ctx, t, db) != 0 {
		return fmt.Errorf("left over: %v and %d rows", got, toyRows(ctx, t, db))
	}
	return nil
}

func TestProperties(t *testing.T) {
	flowtest.Properties(t, toySteps, func(t *testing.T, wrap func(flow.Flow[toy]) flow.Flow[toy]) flowtest.World {
		db, c := database(t), newCloud()
		r := runner(t, config(db), wrap(toyFlow(c)))
		return flowtest.World{
			DB: db, Runner: r,
			Start: func(ctx context.Context) (flow.ID, error) { return start(ctx, db, r, "toy", "w/1", toy{Name: "1"}) },
			Done:  func(ctx context.Context) error { return complete(ctx, t, db, c, "1") },
			Clean: func(ctx context.Context) error { return clean(ctx, t, db, c) },
		}
	})
}

func TestSuccessShowsEveryStep(t *testing.T) {
	ctx, db, c := flowtest.Context(t), database(t), newCloud()
	f := toyFlow(c)
	var recorded []string
	f.Record = func(_ context.Context, _ pgx.Tx, s *toy, e flow.Event) error {
		recorded = append(recorded, e.Step+" "+string(e.Kind)+" "+s.Made)
		return nil
	}
	cfg := config(db)
	cfg.Trace = func(ctx context.Context) (context.Context, func() []flow.Call) {
		return ctx, func() []flow.Call {
			return []flow.Call{{Service: "compute", Method: "POST", Path: "/servers", Status: 202, Request: "req-1"}}
		}
	}
	r := runner(t, cfg, f)
	id := mustStart(ctx, t, db, r, "toy", "w/1", toy{Name: "1"})
	flowtest.Run(t, r)
	status := flowtest.Await(ctx, t, db, id, flow.StateSucceeded)
	for _, s := range status.Steps {
		if s.State != "succeeded" || s.StartedAt == nil || s.EndedAt == nil || s.EndedAt.Before(*s.StartedAt) {
			t.Errorf("step %+v", s)
		}
	}
	want := []string{"port succeeded port", "volume succeeded volume", "server succeeded server", "wait succeeded server", "wait flow_succeeded server"}
	if !slices.Equal(recorded, want) {
		t.Errorf("recorded %q", recorded)
	}
	var calls int
	if err := db.QueryRow(ctx, `SELECT count(*) FROM flow_event WHERE flow = $1 AND kind = 'succeeded' AND calls->0->>'request' = 'req-1'`, id).Scan(&calls); err != nil || calls != 4 {
		t.Errorf("%d steps carry their calls (%v)", calls, err)
	}
	if _, err := db.Exec(ctx, `DELETE FROM flow_event`); err == nil {
		t.Error("events can be deleted")
	}
	if _, err := db.Exec(ctx, `UPDATE flow_event SET step = 'x'`); err == nil {
		t.Error("events can be changed")
	}
}

// TestKilledAnywhere kills the process at every moment of every step, on the way forward and back, and lets a successor
// finish the work.
func TestKilledAnywhere(t *testing.T) {
	for _, unwind := range []bool{false, true} {
		seen := map[string]bool{}
		for n := 1; ; n++ { // the n-th moment, until a run has fewer
			t.Run(fmt.Sprintf("unwind %t, moment %d", unwind, n), func(t *testing.T) {
				ctx, db, c := flowtest.Context(t), database(t), newCloud()
				f := toyFlow(c)
				want := flow.StateSucceeded
				if unwind {
					want = flow.StateFailed
					f.Steps[3].Do = func(context.Context, *toy) error { return flow.Fatal(errors.New("no")) }
				}
				passed, killed := 0, false
				cfg := config(db)
				cfg.Interrupt = func(p flow.Point) bool {
					passed++
					if passed == n {
						killed = true
						seen[fmt.Sprint(p.Step, p.At, p.Backward)] = true
					}
					return passed == n
				}
				first := runner(t, cfg, f)
				id := mustStart(ctx, t, db, first, "toy", "w/1", toy{Name: "1"})
				runCtx, stop := context.WithCancel(ctx)
				ended := make(chan error, 1)
				go func() { ended <- first.Run(runCtx) }()
				flowtest.Until(ctx, t, "the first runner to die or finish", func() (bool, error) {
					if s, err := flow.Get(ctx, db, id); err != nil || s.EndedAt != nil {
						return true, err
					}
					select {
					case err := <-ended:
						ended <- err
						return true, nil
					default:
						return false, nil
					}
				})
				stop()
				<-ended
				expire(ctx, t, db)
				second := runner(t, config(db), f)
				flowtest.Run(t, second)
				flowtest.Await(ctx, t, db, id, want)
				check := complete(ctx, t, db, c, "1")
				if unwind {
					check = clean(ctx, t, db, c)
				}
				if check != nil {
					t.Error(check)
				}
				if !killed {
					n = -1
				}
			})
			if n < 0 || t.Failed() {
				break
			}
		}
		if len(seen) < 16 {
			t.Errorf("killed at only %d different moments: %v", len(seen), seen)
		}
	}
}

func TestLateWorkerWritesNothing(t *testing.T) {
	ctx, db, c := flowtest.Context(t), database(t), newCloud()
	arrived, resume := make(chan struct{}), make(chan struct{})
	cfg := config(db)
	cfg.Interrupt = func(p flow.Point) bool {
		if p.Step == "volume" && p.At == flow.AfterDo {
			close(arrived)
			<-resume
		}
		return false
	}
	cfg.Poll = time.Hour // it looks once, at its start
	late := runner(t, cfg, toyFlow(c))
	id := mustStart(ctx, t, db, late, "toy", "w/1", toy{Name: "1"})
	flowtest.Run(t, late)
	<-arrived
	expire(ctx, t, db)
	successor := runner(t, config(db), toyFlow(c))
	flowtest.Run(t, successor)
	flowtest.Await(ctx, t, db, id, flow.StateSucceeded)
	var before, after int
	count := `SELECT count(*) FROM flow_event`
	if err := db.QueryRow(ctx, count).Scan(&before); err != nil {
		t.Fatal(err)
	}
	close(resume)
	stopped := runner(t, config(db), toyFlow(c)) // a third one would claim whatever the late one released
	flowtest.Run(t, stopped)
	flowtest.Until(ctx, t, "the late worker to end", func() (bool, error) { return late.Idle(), nil })
	if err := db.QueryRow(ctx, count).Scan(&after); err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("the late worker wrote %d events", after-before)
	}
	if err := complete(ctx, t, db, c, "1"); err != nil {
		t.Error(err)
	}
}

func TestTwoRunnersShareTheWork(t *testing.T) {
	ctx, db, c := flowtest.Context(t), database(t), newCloud()
	f := toyFlow(c)
	for i := range f.Steps {
		do := f.Steps[i].Do
		f.Steps[i].Do = func(ctx context.Context, s *toy) error {
			c.mu.Lock()
			c.busy[s.Name]++
			n := c.busy[s.Name]
			c.mu.Unlock()
			defer func() {
				c.mu.Lock()
				c.busy[s.Name]--
				c.mu.Unlock()
			}()
			if n > 1 {
				return flow.Fatal(errors.New("two workers on one flow"))
			}
			return do(ctx, s)
		}
	}
	a, b := runner(t, config(db), f), runner(t, config(db), f)
	var ids []flow.ID
	for i := range 40 {
		ids = append(ids, mustStart(ctx, t, db, a, "toy", fmt.Sprint("w/", i), toy{Name: fmt.Sprint(i)}))
	}
	flowtest.Run(t, a)
	flowtest.Run(t, b)
	for _, id := range ids {
		flowtest.Await(ctx, t, db, id, flow.StateSucceeded)
	}
	if got := toyRows(ctx, t, db); got != 120 {
		t.Errorf("%d rows", got)
	}
}

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
		if err := postgres.InTx(ctx, db, func(tx pgx.Tx) error { return r.Resume(ctx, tx, parked) }); err != nil {
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
	if err := clean(ctx, t, db, c); err != nil {
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
	if got := toyRows(ctx, t, db); got != 1 { // "port" had been committed; nothing after that
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
