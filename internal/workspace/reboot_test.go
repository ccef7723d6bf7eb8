package workspace

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
)

var rebootSteps = []string{"end-lease", "stop", "stopped", "start", "active", "attested", "unlocked", "ready"}

// failure is where a reboot gives up: at a step, before or after its effect.
type failure struct {
	step  string
	after bool
	err   error // "injected" if there is none
}

// breaking starts a process whose reboots give up where at says.
func (r *rig) breaking(at *atomic.Pointer[failure]) *rig {
	r.svc, r.runner = r.service(func(_ *flow.Config, c *Config) {
		c.wrap = func(f flow.Flow[run]) flow.Flow[run] {
			if f.Kind != kindReboot {
				return f
			}
			f.Steps = slices.Clone(f.Steps)
			for i, s := range f.Steps {
				f.Steps[i].Do = func(ctx context.Context, rn *run) error {
					if fail := at.Load(); fail != nil && fail.step == s.Name {
						if fail.after && s.Do != nil {
							if err := s.Do(ctx, rn); err != nil {
								return err
							}
						}
						if fail.err != nil {
							return flow.Fatal(fail.err)
						}
						return flow.Fatal(errors.New("injected"))
					}
					if s.Do == nil {
						return nil
					}
					return s.Do(ctx, rn)
				}
			}
			return f
		}
	})
	flowtest.Run(r.t, r.runner)
	return r
}

func (r *rig) armed(ctx context.Context) (n int) {
	r.t.Helper()
	if err := r.db.QueryRow(ctx, `SELECT count(*) FROM broker_arm WHERE state = 'armed'`).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// TestFailedRebootArmsNothing fails a reboot at each step, before and after its effect: nobody can get a key by a boot that
// nobody asks for any more, and the next reboot works.
func TestFailedRebootArmsNothing(t *testing.T) {
	ctx := flowtest.Context(t)
	var at atomic.Pointer[failure]
	r := newRig(t).breaking(&at)
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	for i, step := range rebootSteps {
		for _, after := range []bool{false, true} {
			at.Store(&failure{step: step, after: after})
			op := r.begin(ctx, r.svc, r.svc.Reboot, w.ID)
			if s := r.await(ctx, op, flow.StateFailed); s.Problem.Fix != rebootFailed {
				t.Errorf("%s: failed with %+v", step, s.Problem)
			}
			if n := r.armed(ctx); n != 0 || r.state(ctx, w.ID) != Failed {
				t.Errorf("%s (after its effect: %t): %d guests armed, workspace is %s", step, after, n, r.state(ctx, w.ID))
			}
			at.Store(nil)
			again := r.svc.Reboot
			if i > 3 || i == 3 && after { // its guest may have asked too late, and then takes a person's word
				again = r.svc.AllowReboot
			}
			r.await(ctx, r.begin(ctx, r.svc, again, w.ID), flow.StateSucceeded)
			if got := r.state(ctx, w.ID); got != Ready {
				t.Errorf("%s: %s after another reboot", step, got)
			}
		}
	}
}

// TestLateBootOfAFailedReboot: somebody starts the server of a reboot that had failed. It is refused and seen, and takes a
// person's word, also when the reboot that a person had allowed fails as well.
func TestLateBootOfAFailedReboot(t *testing.T) {
	ctx := flowtest.Context(t)
	var at atomic.Pointer[failure]
	r := newRig(t).breaking(&at)
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	at.Store(&failure{step: "start"})
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateFailed)
	w, err := r.svc.Get(ctx, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.svc.watch(ctx, 0); err != nil || r.state(ctx, w.ID) != Failed {
		t.Errorf("nothing has happened, and it is %s (%v)", r.state(ctx, w.ID), err)
	}
	suspended := func(why string) {
		t.Helper()
		flowtest.Until(ctx, t, "the watcher to see the suspension", func() (bool, error) {
			return r.state(ctx, w.ID) == Suspended, r.svc.watch(ctx, 0)
		})
		if got, err := r.svc.Get(ctx, w.ID); err != nil || !strings.Contains(got.Reason.Detail, why) {
			t.Errorf("suspended with %+v (%v)", got.Reason, err)
		}
		if e, err := r.svc.Explain(ctx, w.ID); err != nil || !strings.Contains(e.Next, why) {
			t.Errorf("explained by %q (%v)", e.Next, err)
		}
		if _, _, err := r.svc.reached(ctx, r.svc.sites["sim"], &run{Workspace: w.ID}, 1); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("a flow that waits for its guest: %v", err)
		}
		if err := pgx.BeginFunc(ctx, r.db, func(tx pgx.Tx) error { _, _, _, err := r.svc.Reboot(ctx, tx, operator, w.ID, ""); return err }); !errors.Is(err, ErrState) {
			t.Errorf("a plain reboot of a suspended workspace: %v", err)
		}
	}
	if err := r.client.StartServer(ctx, w.ServerID); err != nil {
		t.Fatal(err)
	}
	suspended("nobody had asked for")
	r.await(ctx, r.begin(ctx, r.svc, r.svc.AllowReboot, w.ID), flow.StateFailed)
	if n := r.armed(ctx); n != 0 {
		t.Errorf("%d guests armed after an allowed reboot that failed", n)
	}
	suspended("its reboot failed")
	at.Store(nil)
	r.await(ctx, r.begin(ctx, r.svc, r.svc.AllowReboot, w.ID), flow.StateSucceeded)
	if got := r.state(ctx, w.ID); got != Ready {
		t.Errorf("%s after the allowed reboot", got)
	}
}

// TestAllowedRebootChangesHands: an older siestad arms a suspended generation in the name of the person who allowed it, and says
// so nowhere but in the flow; a newer one sees the reboot fail. It takes another word of a person to boot.
func TestAllowedRebootChangesHands(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	svc, runner := r.service(nil)
	stop := flowtest.Run(t, runner)
	w, op := r.create(ctx, svc)
	r.await(ctx, op, flow.StateSucceeded)
	stop()
	if _, err := r.db.Exec(ctx, `UPDATE broker_arm SET state = 'suspended'`); err != nil {
		t.Fatal(err)
	}
	struck := make(chan struct{})
	svc, runner = r.service(func(c *flow.Config, _ *Config) {
		c.Interrupt = func(p flow.Point) bool {
			if p.Step != "start" || p.At != flow.BeforeIntent {
				return false
			}
			close(struck)
			return true
		}
	})
	flowtest.Run(t, runner)
	op = r.begin(ctx, svc, svc.AllowReboot, w.ID)
	<-struck
	if n := r.armed(ctx); n != 1 {
		t.Fatalf("%d guests armed by the allowed reboot", n)
	}
	if _, err := r.db.Exec(ctx, `UPDATE flow SET data = data - 'lifted', lease_until = clock_timestamp() - interval '1 s' WHERE lease_until IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	var at atomic.Pointer[failure]
	at.Store(&failure{step: "start"})
	r.breaking(&at)
	r.await(ctx, op, flow.StateFailed)
	if s, err := r.broker.State(ctx, w.ID); err != nil || !s.Suspended {
		t.Errorf("%+v (%v) after an allowed reboot that failed", s, err)
	}
}

// TestFlavorWithoutEncryptionIsNotOvercome: a guest that says it is ready is no answer to a flavor that Nova changed.
func TestFlavorWithoutEncryptionIsNotOvercome(t *testing.T) {
	ctx := flowtest.Context(t)
	var at atomic.Pointer[failure]
	r := newRig(t).breaking(&at)
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	w, err := r.svc.Get(ctx, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	site := *r.svc.sites["sim"]
	site.TEE = SEVSNP
	var p *flow.Problem
	if err := r.svc.awaitActive(ctx, &site, &run{ServerID: w.ServerID}); !errors.As(err, &p) || p.Code != codeFlavor {
		t.Fatalf("a server with an unencrypted flavor: %v", err)
	}
	at.Store(&failure{step: "ready", err: p})
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateFailed)
	flowtest.Until(ctx, t, "the guest to be ready", func() (bool, error) {
		s, err := r.broker.State(ctx, w.ID)
		return s.Stage == "ready" && s.LeaseLive, err
	})
	if err := r.svc.watch(ctx, 0); err != nil || r.state(ctx, w.ID) != Failed {
		t.Errorf("shown as %s (%v)", r.state(ctx, w.ID), err)
	}
}

// TestOldLookShowsNothing: while Nova answered, a person rebooted the workspace that was looked at. It stands in the same state
// again, and what was seen is not shown.
func TestOldLookShowsNothing(t *testing.T) {
	ctx := flowtest.Context(t)
	var at atomic.Pointer[failure]
	r := newRig(t).breaking(&at)
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	look := func() watched {
		t.Helper()
		w, err := r.svc.Get(ctx, w.ID)
		if err != nil {
			t.Fatal(err)
		}
		return watched{ID: w.ID, Project: w.Project, Site: w.Site, State: w.State, Generation: w.Generation, Version: w.Version, ServerID: w.ServerID, Reason: w.Reason}
	}
	before := look()
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateSucceeded)
	if err := r.svc.observe(ctx, before, Stopped, problem(codeServer, "reboot it", "it went down")); err != nil || r.state(ctx, w.ID) != Ready {
		t.Errorf("%s after an old look at a server that was being rebooted (%v)", r.state(ctx, w.ID), err)
	}
	at.Store(&failure{step: "stop"})
	for range 2 {
		before = look()
		r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateFailed)
	}
	if err := r.svc.observe(ctx, before, Ready, nil); err != nil || r.state(ctx, w.ID) != Failed {
		t.Errorf("%s after an old look at a guest that was there (%v)", r.state(ctx, w.ID), err)
	}
	if err := r.svc.observe(ctx, look(), Ready, nil); err != nil || r.state(ctx, w.ID) != Ready {
		t.Errorf("%s after a look (%v)", r.state(ctx, w.ID), err)
	}
}

// TestGuestThatComesUpAfterItsRebootFailed is shown as ready once it says so, and as stopped when it goes away.
func TestGuestThatComesUpAfterItsRebootFailed(t *testing.T) {
	ctx := flowtest.Context(t)
	var at atomic.Pointer[failure]
	r := newRig(t).breaking(&at)
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	slow := make(chan struct{})
	r.mu.Lock()
	r.behave = func(stage door.Stage) error {
		if stage == door.Ready {
			<-slow
		}
		return nil
	}
	r.mu.Unlock()
	at.Store(&failure{step: "ready"})
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateFailed)
	if err := r.svc.watch(ctx, 0); err != nil || r.state(ctx, w.ID) != Failed {
		t.Errorf("%s while the guest is on its way (%v)", r.state(ctx, w.ID), err)
	}
	close(slow)
	flowtest.Until(ctx, t, "the watcher to see the guest", func() (bool, error) {
		return r.state(ctx, w.ID) == Ready, r.svc.watch(ctx, 0)
	})
	if got, err := r.svc.Get(ctx, w.ID); err != nil || got.Reason != nil {
		t.Errorf("ready with %+v (%v)", got.Reason, err)
	}
	var entries int
	if err := r.db.QueryRow(ctx, `SELECT count(*) FROM (SELECT action, object, body FROM audit_entry UNION ALL SELECT action, object, body FROM audit_inbox) e
		WHERE action = 'workspace.ready' AND object = $1 AND convert_from(body, 'UTF8') LIKE '%"overcame":"internal: injected"%'`, subject(w.ID)).Scan(&entries); err != nil || entries != 1 {
		t.Errorf("%d entries of a workspace that became ready after it had failed (%v)", entries, err)
	}
	r.mu.Lock()
	guest := r.machines[len(r.machines)-1]
	r.mu.Unlock()
	guest.Kill()
	flowtest.Until(ctx, t, "the watcher to see it go", func() (bool, error) {
		return r.state(ctx, w.ID) == Stopped, r.svc.watch(ctx, 0)
	})

	// Its word alone is not enough: it may have gone away since, with its lease still running.
	if _, err := r.db.Exec(ctx, `UPDATE broker_lease SET until = now()`); err != nil {
		t.Fatal(err)
	}
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateFailed)
	flowtest.Until(ctx, t, "the guest to be ready", func() (bool, error) {
		s, err := r.broker.State(ctx, w.ID)
		return s.Stage == "ready" && s.LeaseLive, err
	})
	r.mu.Lock()
	guest = r.machines[len(r.machines)-1]
	r.mu.Unlock()
	guest.Kill()
	w, err := r.svc.Get(ctx, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	flowtest.Until(ctx, t, "its server to be off", func() (bool, error) {
		srv, err := r.client.Server(ctx, w.ServerID)
		return srv.Status == "SHUTOFF", err
	})
	if err := r.svc.watch(ctx, 0); err != nil || r.state(ctx, w.ID) != Failed {
		t.Errorf("%s although it is gone (%v)", r.state(ctx, w.ID), err)
	}
}
