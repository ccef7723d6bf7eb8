package workspace

import (
	"context"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/migrations"
)

// migrateStale runs the migration again on what stands in the database now.
func (r *rig) migrateStale(ctx context.Context) {
	r.t.Helper()
	body, err := migrations.FS.ReadFile("0014_stale_arm.sql")
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := r.db.Acquire(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().Exec(ctx, string(body)).ReadAll(); err != nil {
		r.t.Fatal(err)
	}
}

// TestStaleArms: what earlier code left armed is taken back by the migration, and what an operation under way has armed is not.
func TestStaleArms(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	var runner *flow.Runner
	r.svc, runner = r.service(nil)
	stop := flowtest.Run(t, runner)
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	stop()
	w, err := r.svc.Get(ctx, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := r.db.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	const live = "01arz3ndektsv4rrffq69g5fav"
	for name, c := range map[string]struct {
		kind, flow, step string
		state            State
		arm              string // after the migration
		then             State
		leases           int // live ones
	}{
		"a reboot that failed":              {state: Failed, arm: "suspended", then: Failed, leases: 1},
		"a creation that stands still":      {kind: kindCreate, flow: "parked", step: "server", state: Creating, arm: "disarmed", then: Failed},
		"a creation that waits for a host":  {kind: kindCreate, flow: "running", step: "server", state: Creating, arm: "armed", then: Creating, leases: 1},
		"a creation that is unwound":        {kind: kindCreate, flow: "unwinding", step: "active", state: Creating, arm: "armed", then: Creating, leases: 1},
		"a reboot whose guest is to boot":   {kind: kindReboot, flow: "running", step: "start", state: Rebooting, arm: "armed", then: Rebooting, leases: 1},
		"a reboot that has armed nothing":   {kind: kindReboot, flow: "running", step: "stopped", state: Rebooting, arm: "suspended", then: Rebooting, leases: 1},
		"another workspace's live creation": {kind: "other", flow: "running", step: "server", state: Failed, arm: "suspended", then: Failed, leases: 1},
	} {
		exec(`UPDATE broker_arm SET state = 'armed', report_id = NULL`)
		exec(`UPDATE broker_lease SET state = 'live', ended_why = ''`)
		exec(`UPDATE workspace SET state = $1, reason = '{"code": "old", "detail": "older", "fix": "none"}'`, c.state)
		if c.kind != "" {
			subject := subject(w.ID)
			if c.kind == "other" {
				subject += "0"
			}
			exec(`INSERT INTO flow (id, kind, subject, state, backward, steps, step, data, problem)
				VALUES ($1, $2, $3, $4, $4 <> 'running', ARRAY[$5], $5, '{}', '{"code": "cloud", "detail": "stuck"}')`, live, c.kind, subject, c.flow, c.step)
		}
		epoch := r.epoch(ctx)
		r.migrateStale(ctx)
		exec(`DELETE FROM flow WHERE id = $1`, live)
		var arm string
		var leases int
		if err := r.db.QueryRow(ctx, `SELECT state, (SELECT count(*) FROM broker_lease WHERE state = 'live') FROM broker_arm`).Scan(&arm, &leases); err != nil {
			t.Fatal(err)
		}
		got, err := r.svc.Get(ctx, w.ID)
		if err != nil || arm != c.arm || got.State != c.then || leases != c.leases {
			t.Errorf("%s: %s, %d live leases, workspace %s (%v)", name, arm, leases, got.State, err)
		}
		if moved := r.epoch(ctx) > epoch; moved != (arm == "suspended") {
			t.Errorf("%s: %s, and its epoch moved: %t", name, arm, moved)
		}
		if c.flow == "parked" && (got.Reason.Detail != "stuck" || got.Reason.Fix != createParked) {
			t.Errorf("%s: %+v", name, got.Reason)
		}
	}

	// A boot that comes late after all gets no key.
	exec(`UPDATE broker_arm SET state = 'armed'`)
	exec(`UPDATE workspace SET state = 'failed'`)
	r.migrateStale(ctx)
	if err := r.client.StopServer(ctx, w.ServerID); err != nil {
		t.Fatal(err)
	}
	flowtest.Until(ctx, t, "the server to be off", func() (bool, error) {
		srv, err := r.client.Server(ctx, w.ServerID)
		return srv.Status == "SHUTOFF" && srv.TaskState == "", err
	})
	exec(`UPDATE broker_lease SET until = now()`)
	if err := r.client.StartServer(ctx, w.ServerID); err != nil {
		t.Fatal(err)
	}
	flowtest.Until(ctx, t, "the guest to power off", func() (bool, error) {
		srv, err := r.client.Server(ctx, w.ServerID)
		return r.guests.Load() == 2 && srv.Status == "SHUTOFF", err
	})
	var releases int
	if err := r.db.QueryRow(ctx, `SELECT count(*) FROM broker_decision WHERE outcome = 'released'`).Scan(&releases); err != nil || releases != 1 {
		t.Errorf("%d releases (%v)", releases, err)
	}
	if err := r.svc.watch(ctx, time.Hour); err != nil || r.state(ctx, w.ID) != Suspended {
		t.Errorf("shown as %s (%v)", r.state(ctx, w.ID), err)
	}
	r.running()
	r.await(ctx, r.begin(ctx, r.svc, r.svc.AllowReboot, w.ID), flow.StateSucceeded)
}

func (r *rig) epoch(ctx context.Context) (n int) {
	r.t.Helper()
	if err := r.db.QueryRow(ctx, `SELECT epoch FROM broker_arm`).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}
