package workspace

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
)

// failure is where a reboot gives up: at a step, before or after its effect.
type failure struct {
	step  string
	after bool
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
	if err := r.db.QueryRow(ctx, `SELECT count(*) FROM (SELECT action, object FROM audit_entry UNION ALL SELECT action, object FROM audit_inbox) e
		WHERE action = 'workspace.ready' AND object = $1`, subject(w.ID)).Scan(&entries); err != nil || entries != 2 {
		t.Errorf("%d entries of a workspace that became ready twice (%v)", entries, err)
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
