package workspace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
)

var (
	createSteps = []string{"resolve", "images", "key", "security-group", "port", "data-volume", "root-volume", "bind", "server", "active", "attested", "unlocked", "ready"}
	deleteSteps = []string{"settle", "shred", "server", "data-volume", "root-volume", "port", "security-group", "images", "sweep", "sweep-again"}
)

// TestCreateProperties fails a creation at each step, before and after its effect; it runs every step and every undo twice.
// A guest that is to be unwound never formats, so that nothing of it may stay.
func TestCreateProperties(t *testing.T) {
	r := newRig(t)
	flowtest.Properties(t, createSteps, func(t *testing.T, wrap func(flow.Flow[run]) flow.Flow[run]) flowtest.World {
		svc, runner := r.service(func(_ *flow.Config, c *Config) {
			c.wrap = func(f flow.Flow[run]) flow.Flow[run] {
				if f.Kind != kindCreate {
					return f
				}
				for i := range f.Steps { // stages are the guest's to report, and here it may come no further than its evidence
					if name := f.Steps[i].Name; t.Name() != "TestCreateProperties/every_do_twice" && (name == "unlocked" || name == "ready") {
						f.Steps[i].Do = nil
					}
				}
				return wrap(f)
			}
		})
		r.behave = nil
		if t.Name() != "TestCreateProperties/every_do_twice" {
			r.behave = func(door.Stage) error { return errors.New("this guest never formats") }
		}
		var id string
		return flowtest.World{
			DB: r.db, Runner: runner,
			Start: func(ctx context.Context) (flow.ID, error) {
				w, op := r.create(ctx, svc)
				id = w.ID
				return flow.ID(op.ID), nil
			},
			Done: func(ctx context.Context) error {
				if got := r.state(ctx, id); got != Ready {
					return fmt.Errorf("workspace is %s", got)
				}
				if err := r.one(); err != nil {
					return err
				}
				r.await(ctx, r.begin(ctx, svc, svc.Delete, id), flow.StateSucceeded)
				return r.nothing()
			},
			Clean: func(ctx context.Context) error {
				if got := r.state(ctx, id); got != Failed {
					return fmt.Errorf("workspace is %s", got)
				}
				return r.nothing()
			},
		}
	})
}

// place is where a process dies.
type place struct {
	kind, step string
	moment     flow.Moment
}

func places(kind string, steps []string) (all []place) {
	for _, step := range steps {
		for _, moment := range []flow.Moment{flow.AfterIntent, flow.AfterDo, flow.BeforeCommit, flow.AfterCommit} {
			all = append(all, place{kind, step, moment})
		}
	}
	return all
}

// TestKilledWhileCreatingAndDeleting kills the process at every moment of a creation and of the deletion after it, one
// of each per workspace, and lets a successor finish: one of each resource, then none, in the cloud and in the log.
func TestKilledWhileCreatingAndDeleting(t *testing.T) {
	r := newRig(t)
	deletions := places(kindDelete, deleteSteps)
	for i, creation := range places(kindCreate, createSteps) {
		deletion := deletions[i%len(deletions)]
		t.Run(fmt.Sprintf("%s %s, %s %s", creation.step, creation.moment, deletion.step, deletion.moment), func(t *testing.T) {
			killAt(t, r, creation, deletion)
		})
	}
}

func killAt(t *testing.T, r *rig, creation, deletion place) {
	ctx := flowtest.Context(t)
	made := map[string]int{}
	for _, k := range []string{"server", "volume", "port", "security group", "secret"} {
		made[k] = r.cloud.Created(k)
	}
	var w Workspace
	r.killed(ctx, t, creation, func(svc *Service) (op Operation) {
		w, op = r.create(ctx, svc)
		return op
	})
	if err := r.one(); err != nil {
		t.Errorf("after the creation: %v", err)
	}
	for k, before := range made {
		want := map[string]int{"volume": 2}[k]
		if want == 0 {
			want = 1
		}
		if n := r.cloud.Created(k) - before; n != want {
			t.Errorf("%d of %s were made", n, k)
		}
	}
	r.killed(ctx, t, deletion, func(svc *Service) Operation { return r.begin(ctx, svc, svc.Delete, w.ID) })
	if got := r.state(ctx, w.ID); got != Deleted {
		t.Errorf("workspace is %s", got)
	}
	if err := r.nothing(); err != nil {
		t.Errorf("after the deletion: %v", err)
	}
	var doubles int
	if err := r.db.QueryRow(ctx, `SELECT count(*) FROM (SELECT 1 FROM flow_event e JOIN flow f ON f.id = e.flow WHERE f.subject = $1 AND e.kind = 'succeeded'
		GROUP BY e.flow, e.step HAVING count(*) > 1) d`, subject(w.ID)).Scan(&doubles); err != nil || doubles != 0 {
		t.Errorf("%d steps succeeded twice (%v)", doubles, err)
	}
}

// killed starts an operation, lets its process die at a place, and a successor finish.
func (r *rig) killed(ctx context.Context, t *testing.T, at place, start func(*Service) Operation) {
	t.Helper()
	var struck atomic.Bool
	svc, first := r.service(func(c *flow.Config, _ *Config) {
		c.Interrupt = func(p flow.Point) bool {
			return p.Kind == at.kind && p.Step == at.step && p.At == at.moment && struck.CompareAndSwap(false, true)
		}
	})
	stop := flowtest.Run(t, first)
	op := start(svc)
	flowtest.Until(ctx, t, "the process to die", func() (bool, error) { return struck.Load(), nil })
	stop()
	if _, err := r.db.Exec(ctx, `UPDATE flow SET lease_until = clock_timestamp() - interval '1 s' WHERE lease_until IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	_, second := r.service(nil)
	stop = flowtest.Run(t, second)
	defer stop()
	flowtest.Await(ctx, t, r.db, flow.ID(op.ID), flow.StateSucceeded)
}

// TestDeleteWhileCreating deletes a workspace while each step of its creation is under way.
func TestDeleteWhileCreating(t *testing.T) {
	r := newRig(t)
	for _, step := range createSteps {
		t.Run(step, func(t *testing.T) {
			ctx := flowtest.Context(t)
			reached, released := make(chan struct{}), make(chan struct{})
			var once atomic.Bool
			svc, runner := r.service(func(_ *flow.Config, c *Config) {
				c.wrap = func(f flow.Flow[run]) flow.Flow[run] {
					f.Steps = slices.Clone(f.Steps)
					for i := range f.Steps {
						do := f.Steps[i].Do
						if f.Kind != kindCreate || f.Steps[i].Name != step {
							continue
						}
						f.Steps[i].Do = func(ctx context.Context, rn *run) error {
							if once.CompareAndSwap(false, true) {
								close(reached)
								<-released
							}
							return do(ctx, rn) // with a context that has ended, if the worker was told in time
						}
					}
					return f
				}
			})
			flowtest.Run(t, runner)
			w, create := r.create(ctx, svc)
			<-reached
			op := r.begin(ctx, svc, svc.Delete, w.ID)
			if again := r.begin(ctx, svc, svc.Delete, w.ID); again.ID != op.ID {
				t.Errorf("a second deletion started: %s beside %s", again.ID, op.ID)
			}
			close(released)
			r.await(ctx, op, flow.StateSucceeded)
			r.await(ctx, create, flow.StateSuperseded)
			if err := r.nothing(); err != nil {
				t.Error(err)
			}
			got, err := svc.Operation(ctx, create.ID)
			if err != nil || got.State != OperationFailed || got.Problem.Code != "superseded" {
				t.Errorf("the creation shows as %+v (%v)", got, err)
			}
			for _, s := range got.Steps {
				if s.State == "running" || s.State == "waiting" {
					t.Errorf("step %s of the ended creation shows as %s", s.Name, s.State)
				}
			}
		})
	}
}

// TestLostAnswers drops the answer of each creating call after it took effect.
func TestLostAnswers(t *testing.T) {
	r := newRig(t).running()
	for name, fault := range map[string]cloudsim.Fault{
		"server": {Service: "compute", Method: http.MethodPost, Path: regexp.MustCompile(`/servers$`)},
		"volume": {Service: "volume", Method: http.MethodPost, Path: regexp.MustCompile(`/volumes$`)},
		"port":   {Service: "network", Method: http.MethodPost, Path: regexp.MustCompile(`/ports$`)},
		"group":  {Service: "network", Method: http.MethodPost, Path: regexp.MustCompile(`/security-groups$`)},
		"secret": {Service: "key-manager", Method: http.MethodPost, Path: regexp.MustCompile(`/secrets$`)},
		"image":  {Service: "image", Method: http.MethodPost, Path: regexp.MustCompile(`/images$`)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := flowtest.Context(t)
			fault.DropAnswer, fault.Times = true, 1
			remove := r.cloud.Inject(fault)
			defer remove()
			w, op := r.create(ctx, r.svc)
			r.await(ctx, op, flow.StateSucceeded)
			if err := r.one(); err != nil {
				t.Error(err)
			}
			r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, w.ID), flow.StateSucceeded)
			if err := r.nothing(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTwoDaemonsAtOnce(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	a, first := r.service(nil)
	_, second := r.service(nil)
	flowtest.Run(t, first)
	flowtest.Run(t, second)
	var ids []string
	for range 4 {
		w, _ := r.create(ctx, a)
		ids = append(ids, w.ID)
	}
	for _, id := range ids {
		flowtest.Until(ctx, t, "workspaces to be ready", func() (bool, error) { return r.state(ctx, id) == Ready, nil })
	}
	if n := r.cloud.Created("server"); n != 4 {
		t.Errorf("%d servers for 4 workspaces", n)
	}
	for _, id := range ids {
		r.begin(ctx, a, a.Delete, id)
	}
	for _, id := range ids {
		flowtest.Until(ctx, t, "workspaces to be deleted", func() (bool, error) { return r.state(ctx, id) == Deleted, nil })
	}
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// TestLateWorkerArmsNothing lets a worker come back in "bind" after its workspace was taken over and deleted.
func TestLateWorkerArmsNothing(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	reached, released := make(chan struct{}), make(chan struct{})
	late, runner := r.service(func(c *flow.Config, _ *Config) {
		c.Poll = time.Hour
		c.Interrupt = func(p flow.Point) bool {
			if p.Step == "bind" && p.At == flow.AfterDo {
				close(reached)
				<-released
			}
			return false
		}
	})
	w, _ := r.create(ctx, late)
	flowtest.Run(t, runner)
	<-reached
	if _, err := r.db.Exec(ctx, `UPDATE flow SET lease_until = clock_timestamp() - interval '1 s'`); err != nil {
		t.Fatal(err)
	}
	svc, successor := r.service(nil)
	flowtest.Run(t, successor)
	flowtest.Until(ctx, t, "the successor to finish", func() (bool, error) { return r.state(ctx, w.ID) == Ready, nil })
	r.await(ctx, r.begin(ctx, svc, svc.Delete, w.ID), flow.StateSucceeded)
	close(released)
	flowtest.Until(ctx, t, "the late worker to end", func() (bool, error) { return runner.Idle(), nil })
	var arms int
	if err := r.db.QueryRow(ctx, `SELECT count(*) FROM broker_arm WHERE state <> 'disarmed'`).Scan(&arms); err != nil || arms != 0 {
		t.Errorf("%d guests are armed after the deletion (%v)", arms, err)
	}
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}
