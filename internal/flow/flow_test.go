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
	return flow.Config{
		DB: db, Workers: 4, Lease: 10 * time.Second, Poll: 20 * time.Millisecond, Drain: 10 * time.Second,
		Backoff: func(int) time.Duration { return time.Millisecond }, Pace: short,
	}
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

func toyRows(ctx context.Context, t *testing.T, db *pgxpool.Pool, name string) int {
	t.Helper()
	var n int
	if err := db.QueryRow(ctx, `SELECT count(*) FROM toy WHERE flow = $1 OR $1 = ''`, name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func complete(ctx context.Context, t *testing.T, db *pgxpool.Pool, c *cloud, name string) error {
	want := []string{name + "/port", name + "/server", name + "/volume"}
	if got := c.names(); !slices.Equal(got, want) || toyRows(ctx, t, db, name) != 3 {
		return fmt.Errorf("have %v and %d rows", got, toyRows(ctx, t, db, name))
	}
	for thing, n := range c.made {
		if n != 1 {
			return fmt.Errorf("%s was made %d times", thing, n)
		}
	}
	return nil
}

func clean(ctx context.Context, t *testing.T, db *pgxpool.Pool, c *cloud, name string) error {
	if got := c.names(); len(got) > 0 || toyRows(ctx, t, db, name) != 0 {
		return fmt.Errorf("left over: %v and %d rows", got, toyRows(ctx, t, db, name))
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
			Clean: func(ctx context.Context) error { return clean(ctx, t, db, c, "1") },
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
	db := database(t)
	for _, unwind := range []bool{false, true} {
		seen := map[string]bool{}
		for n := 1; ; n++ { // the n-th moment, until a run has fewer
			t.Run(fmt.Sprintf("unwind %t, moment %d", unwind, n), func(t *testing.T) {
				ctx, c := flowtest.Context(t), newCloud()
				name := fmt.Sprint(unwind, n)
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
				id := mustStart(ctx, t, db, first, "toy", "w/"+name, toy{Name: name})
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
				select { // however a killed runner says it ended, it ended
				case <-ended: //nolint:errcheck // the error is the kill that this test made
				case <-ctx.Done():
					t.Fatal(ctx.Err())
				}
				expire(ctx, t, db)
				second := runner(t, config(db), f)
				flowtest.Run(t, second)
				flowtest.Await(ctx, t, db, id, want)
				check := complete(ctx, t, db, c, name)
				if unwind {
					check = clean(ctx, t, db, c, name)
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
	if got := toyRows(ctx, t, db, ""); got != 120 {
		t.Errorf("%d rows", got)
	}
}
