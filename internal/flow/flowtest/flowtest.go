// Package flowtest proves of any flow what its engine relies on: it unwinds from each of its steps, and every Do and every
// Undo can run twice. The properties are those of Oxide's omicron sagas; like there, a run in which another step failed
// than the one that was made to fail proves nothing and is an error.
package flowtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/flow"
)

// World is a fresh place in which a flow runs once.
type World struct {
	DB     *pgxpool.Pool
	Runner *flow.Runner // with the flow registered, not yet running
	// Start commits the start of one flow.
	Start func(ctx context.Context) (flow.ID, error)
	// Done checks the world after success: everything is there, once.
	Done func(ctx context.Context) error
	// Clean checks the world after unwinding: nothing is left.
	Clean func(ctx context.Context) error
}

// New makes a world whose flow has been passed through wrap.
type New[S any] func(t *testing.T, wrap func(flow.Flow[S]) flow.Flow[S]) World

// Patience bounds every wait of a test.
const Patience = 2 * time.Minute

var errInjected = &flow.Problem{Code: "injected", Detail: "injected failure"}

// Properties runs all three properties over the steps named, which must be all steps of the flow.
func Properties[S any](t *testing.T, steps []string, world New[S]) {
	t.Helper()
	for _, step := range steps {
		t.Run("fail before "+step, func(t *testing.T) { failAt(t, steps, step, false, false, world) })
		t.Run("fail after "+step, func(t *testing.T) { failAt(t, steps, step, true, false, world) })
	}
	t.Run("every do twice", func(t *testing.T) { doTwice(t, steps, world) })
	t.Run("every undo twice", func(t *testing.T) { failAt(t, steps, steps[len(steps)-1], true, true, world) })
}

// failAt makes one step give up, before it did anything or after it did everything, and asserts that this step was the
// one, that no undo had trouble, and that the world is clean.
func failAt[S any](t *testing.T, steps []string, at string, after, undoTwice bool, world New[S]) {
	ctx := Context(t)
	w := world(t, func(f flow.Flow[S]) flow.Flow[S] {
		checkSteps(t, f, steps)
		f.Steps = slices.Clone(f.Steps)
		for i := range f.Steps {
			s := &f.Steps[i]
			if s.Name == at {
				s.Do = failing(s.Do, after)
			}
			if undoTwice && s.Undo != nil {
				s.Undo = twice(s.Undo)
			}
		}
		return f
	})
	status := runOne(ctx, t, w, flow.StateFailed)
	for _, s := range status.Steps {
		if injected := s.Problem != nil && s.Problem.Code == errInjected.Code; injected != (s.Name == at) {
			t.Fatalf("step %s failed with %v, but %s was made to fail; the flow ended at %s with %v", s.Name, s.Problem, at, status.Step, status.Problem)
		}
	}
	var troubles int
	err := w.DB.QueryRow(ctx, `SELECT count(*) FROM flow_event WHERE flow = $1 AND kind IN ('undo_retried', 'parked', 'retried')`, status.ID).Scan(&troubles)
	if err != nil || troubles > 0 {
		t.Fatalf("%d attempts failed besides the injected one (%v)", troubles, err)
	}
	if err := w.Clean(ctx); err != nil {
		t.Fatalf("after failing at %s: %v", at, err)
	}
}

func doTwice[S any](t *testing.T, steps []string, world New[S]) {
	ctx := Context(t)
	w := world(t, func(f flow.Flow[S]) flow.Flow[S] {
		checkSteps(t, f, steps)
		f.Steps = slices.Clone(f.Steps)
		for i := range f.Steps {
			if f.Steps[i].Do != nil {
				f.Steps[i].Do = twice(f.Steps[i].Do)
			}
		}
		return f
	})
	runOne(ctx, t, w, flow.StateSucceeded)
	if err := w.Done(ctx); err != nil {
		t.Fatal(err)
	}
}

func checkSteps[S any](t *testing.T, f flow.Flow[S], steps []string) {
	t.Helper()
	var names []string
	for _, s := range f.Steps {
		names = append(names, s.Name)
	}
	if !slices.Equal(names, steps) {
		t.Fatalf("the flow has steps %v, the test expects %v", names, steps)
	}
}

func failing[S any](do func(context.Context, *S) error, after bool) func(context.Context, *S) error {
	return func(ctx context.Context, s *S) error {
		if after && do != nil {
			if err := do(ctx, s); err != nil {
				return err
			}
		}
		return flow.Fatal(errInjected)
	}
}

// twice runs fn again once it has succeeded, from the values that it first saw: as after a crash before its record.
func twice[S any](fn func(context.Context, *S) error) func(context.Context, *S) error {
	return func(ctx context.Context, s *S) error {
		before, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if err := fn(ctx, s); err != nil {
			return err
		}
		var again S
		if err := json.Unmarshal(before, &again); err != nil {
			return err
		}
		if err := fn(ctx, &again); err != nil {
			return fmt.Errorf("second run: %w", err)
		}
		*s = again
		return nil
	}
}

func runOne(ctx context.Context, t *testing.T, w World, want flow.State) flow.Status {
	t.Helper()
	id, err := w.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	Run(t, w.Runner)
	return Await(ctx, t, w.DB, id, want)
}

// Context is a context that ends with the test, and with the test's patience.
func Context(t *testing.T) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(stop)
	return ctx
}

// Run runs a runner until the returned function is called, or the test ends.
func Run(t *testing.T, r *flow.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx) // a runner that a test killed says so, and that is what the test wanted
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// Await polls until the flow is in the wanted state. Any other final state ends the test.
func Await(ctx context.Context, t *testing.T, db *pgxpool.Pool, id flow.ID, want flow.State) flow.Status {
	t.Helper()
	var last flow.Status
	Until(ctx, t, fmt.Sprintf("flow %s to be %s", id, want), func() (bool, error) {
		s, err := flow.Get(ctx, db, id)
		if err != nil {
			return false, err
		}
		last = s
		if s.State != want && s.EndedAt != nil {
			return false, fmt.Errorf("flow is %s at %s: %v", s.State, s.Step, s.Problem)
		}
		if s.State == flow.StateParked && want != flow.StateParked {
			return false, fmt.Errorf("flow is parked at %s: %v", s.Step, s.Problem)
		}
		return s.State == want, nil
	})
	return last
}

// Until polls a condition until it holds or the context ends.
func Until(ctx context.Context, t *testing.T, what string, holds func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := holds()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, ctx.Err())
		case <-tick.C:
		}
	}
}
