package keybroker

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
)

func (r *rig) endAndRearm(workspace string) error {
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.EndLease(context.Background(), tx, workspace, "reboot") }); err != nil {
		return err
	}
	return r.tx(func(tx pgx.Tx) error { return r.broker.Rearm(context.Background(), tx, workspace, 1, "reboot") })
}

// reboot is one after which the old guest's lease has run out.
func (r *rig) reboot(workspace string) {
	r.t.Helper()
	r.exec(`UPDATE broker_lease SET until = now() WHERE workspace = $1`, workspace)
	if err := r.endAndRearm(workspace); err != nil {
		r.t.Fatal(err)
	}
}

// A cloud may show a server as stopped that runs. Until its guest says that it stopped, or its lease has run out, no
// other guest gets the key.
func TestEndedLeaseStillHolds(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	who := audit.Actor{Kind: audit.Person, Subject: testOwner}
	r := newRig(t)
	g, answer, _ := r.ready(testWorkspace)
	if err := r.endAndRearm(testWorkspace); !errors.Is(err, ErrState) {
		t.Fatalf("armed again while a guest may use the key: %v", err)
	}
	if until, err := r.broker.HeldUntil(ctx, testWorkspace); err != nil || door.FormatTime(until) != answer.Lease.Until {
		t.Errorf("held until %s, %v; the guest was told %s", until, err, answer.Lease.Until)
	}
	if err := r.tx(func(tx pgx.Tx) error { _, err := r.broker.AllowReboot(ctx, tx, who, testWorkspace); return err }); !errors.Is(err, ErrState) {
		t.Errorf("a reboot was allowed while a guest may use the key: %v", err)
	}
	_, _, err := g.grant(door.Renew)
	wantCode(t, err, CodeLease)

	// Were it armed all the same, the release itself refuses.
	r.exec(`UPDATE broker_arm SET state = 'armed', epoch = epoch + 1, report_id = NULL`)
	if err := r.endAndRearm(testWorkspace); !errors.Is(err, ErrState) {
		t.Errorf("armed anew while a guest may use the key: %v", err)
	}
	_, _, err = r.boot(testWorkspace, 1).grant(door.Unlock)
	wantCode(t, err, CodeLease)
	r.exec(`UPDATE broker_arm SET state = 'released', report_id = decode(repeat('ab', 32), 'hex')`)

	if _, err := g.event(answer.Lease.ID, 9, door.Ready, ""); err == nil {
		t.Error("a guest went on under a lease that was ended")
	}
	if _, err := g.event(answer.Lease.ID, 10, door.Stopping, ""); err != nil {
		t.Fatalf("a guest that stops as it was told: %v", err)
	}
	if n := r.count(`SELECT (SELECT count(*) FROM audit_entry WHERE action = 'guest.stopping' AND outcome = 'success') + (SELECT count(*) FROM audit_inbox WHERE action = 'guest.stopping' AND outcome = 'success')`); n != 1 {
		t.Errorf("%d entries for the stop", n)
	}
	if _, err := g.event(answer.Lease.ID, 11, door.Stopping, ""); err == nil {
		t.Error("a guest stopped twice")
	}
	if until, err := r.broker.HeldUntil(ctx, testWorkspace); err != nil || !until.IsZero() {
		t.Errorf("held until %s after it stopped (%v)", until, err)
	}
	if err := r.endAndRearm(testWorkspace); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Error(err)
	}
}

// TestRearmOfAnArmedGeneration: nobody took the arming of an earlier reboot back, and its guest has asked for a challenge. The
// next reboot arms anew, for the guest that boots then.
func TestRearmOfAnArmedGeneration(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ready(testWorkspace)
	r.reboot(testWorkspace)
	late := r.boot(testWorkspace, 1)
	c, req, err := late.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	r.reboot(testWorkspace)
	_, err = r.broker.Grant(context.Background(), late.request(c, req, ""), "p")
	wantCode(t, err, CodeGeneration)
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Errorf("the guest of the next reboot: %v", err)
	}
}

// What was armed for a reboot that failed is taken back: the challenge that its guest asked for is worth nothing, a boot that
// comes late is one that nobody asked for, and a person's next reboot gets the key.
func TestUnarm(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newRig(t)
	unarm := func(allowed bool) State {
		t.Helper()
		if err := r.tx(func(tx pgx.Tx) error { return r.broker.Unarm(ctx, tx, testWorkspace, 1, allowed, "its reboot failed") }); err != nil {
			t.Fatal(err)
		}
		s, err := r.broker.State(ctx, testWorkspace)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	rearm := func() error {
		return r.tx(func(tx pgx.Tx) error { return r.broker.Rearm(ctx, tx, testWorkspace, 1, "reboot") })
	}
	holder, _, _ := r.ready(testWorkspace)
	if s := unarm(false); !s.Released || !s.LeaseLive {
		t.Errorf("what had been released: %+v", s)
	}
	if _, _, err := holder.grant(door.Renew); err != nil {
		t.Errorf("the holder of a released key renews: %v", err)
	}

	r.reboot(testWorkspace)
	late := r.boot(testWorkspace, 1)
	c, req, err := late.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s := unarm(false); !s.Released || s.Armed || s.LeaseLive {
			t.Fatalf("what had been armed: %+v", s)
		}
	}
	_, err = r.broker.Grant(ctx, late.request(c, req, ""), "p")
	wantCode(t, err, CodeGeneration)
	if s, err := r.broker.State(ctx, testWorkspace); err != nil || s.Suspended {
		t.Errorf("a guest that had asked in time suspends: %+v, %v", s, err)
	}
	if _, _, err := holder.grant(door.Renew); err == nil {
		t.Error("the guest that was rebooted renews")
	}
	if err := rearm(); err != nil {
		t.Fatal(err)
	}
	if s := unarm(false); s.Armed {
		t.Fatalf("armed: %+v", s)
	}
	_, _, err = r.boot(testWorkspace, 1).grant(door.Unlock)
	wantCode(t, err, CodeGeneration)

	// That boot suspended the generation, and a person lifts this for one boot.
	allow := func() error {
		return r.tx(func(tx pgx.Tx) error {
			_, err := r.broker.AllowReboot(ctx, tx, audit.Actor{Kind: audit.Person, Subject: testOwner}, testWorkspace)
			return err
		})
	}
	if err := allow(); err != nil {
		t.Fatal(err)
	}
	if s := unarm(true); !s.Suspended {
		t.Errorf("after an allowed reboot that failed: %+v", s)
	}
	if err := rearm(); !errors.Is(err, ErrState) {
		t.Errorf("armed again without a person: %v", err)
	}
	if err := allow(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Errorf("the boot that was allowed again: %v", err)
	}
	if n := r.count(`SELECT (SELECT count(*) FROM audit_entry WHERE action = 'guest.unarm') + (SELECT count(*) FROM audit_inbox WHERE action = 'guest.unarm')`); n != 3 {
		t.Errorf("%d entries of an arming taken back", n)
	}
}

// TestUnarmOfAGenerationThatNeverHadAKey: nobody can be told from the guest that the key was released to, so a person decides.
func TestUnarmOfAGenerationThatNeverHadAKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	for range 2 {
		if err := r.tx(func(tx pgx.Tx) error {
			return r.broker.Unarm(context.Background(), tx, testWorkspace, 1, false, "no more")
		}); err != nil {
			t.Fatal(err)
		}
		_, _, err := r.boot(testWorkspace, 1).grant(door.Unlock)
		wantCode(t, err, CodeSuspended)
	}
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.Disarm(context.Background(), tx, testWorkspace) }); err != nil {
		t.Fatal(err)
	}
	if err := r.tx(func(tx pgx.Tx) error {
		return r.broker.Unarm(context.Background(), tx, testWorkspace, 1, false, "no more")
	}); err != nil {
		t.Errorf("what is disarmed: %v", err)
	}
}
