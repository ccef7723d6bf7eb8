package keybroker

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
)

func TestLostAnswerIsRedelivered(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	first, err := r.broker.Grant(context.Background(), request, "p")
	if err != nil {
		t.Fatal(err)
	}
	r.broker = r.start(r.broker.Logger) // the process that answered is gone
	again, err := r.broker.Grant(context.Background(), request, "p")
	if err != nil {
		t.Fatal(err)
	}
	first.Receipt, again.Receipt = "", "" // under a newer checkpoint, perhaps
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("another answer (-first +again):\n%s", diff)
	}
	if n := r.count(`SELECT count(*) FROM broker_decision`); n != 1 {
		t.Errorf("%d decisions for one release", n)
	}
	thief := r.boot(testWorkspace, 1)
	_, err = r.broker.Grant(context.Background(), thief.request(c, req, ""), "p")
	wantCode(t, err, CodeNonce)
	r.exec(`UPDATE broker_lease SET until = now()`)
	_, err = r.broker.Grant(context.Background(), request, "p")
	wantCode(t, err, CodeNonce)
}

func TestLostRenewalIsRedelivered(t *testing.T) {
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	c, req, err := g.challengeFor(door.Renew)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	first, err := r.broker.Grant(context.Background(), request, "p")
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.broker.Grant(context.Background(), request, "p")
	if err != nil || again.Lease != first.Lease {
		t.Errorf("%+v then %+v, %v", first.Lease, again.Lease, err)
	}
}

// failingLog commits nothing under a checkpoint until it is mended.
type failingLog struct {
	Log
	broken bool
}

func (l *failingLog) Wait(ctx context.Context, of audit.Ref) (audit.Receipt, error) {
	if l.broken {
		return audit.Receipt{}, errors.New("no sequencer")
	}
	return l.Log.Wait(ctx, of)
}

func (l *failingLog) WaitID(ctx context.Context, id audit.ID) (audit.Receipt, []byte, error) {
	if l.broken {
		return audit.Receipt{}, nil, errors.New("no sequencer")
	}
	return l.Log.WaitID(ctx, id)
}

func TestNothingLeavesBeforeTheCheckpoint(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	log := &failingLog{Log: r.log, broken: true}
	r.broker.Log = log
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	for range 2 { // the first try commits, the second is a redelivery: neither may answer
		answer, err := r.broker.Grant(context.Background(), request, "p")
		if !errors.Is(err, ErrBusy) || len(answer.Sealed.Ciphertext) != 0 || answer.Signature != nil {
			t.Fatalf("an answer left without its checkpoint: %v", err)
		}
	}
	log.broken = false
	answer, err := r.broker.Grant(context.Background(), request, "p")
	if err != nil {
		t.Fatal(err)
	}
	g.open(c, req, answer)
}

// meddlingLog does something else while an entry waits for its checkpoint.
type meddlingLog struct {
	Log
	meanwhile func()
}

func (l *meddlingLog) meddle() {
	if l.meanwhile != nil {
		do := l.meanwhile
		l.meanwhile = nil
		do()
	}
}

func (l *meddlingLog) Wait(ctx context.Context, of audit.Ref) (audit.Receipt, error) {
	receipt, err := l.Log.Wait(ctx, of)
	l.meddle()
	return receipt, err
}

func (l *meddlingLog) WaitID(ctx context.Context, id audit.ID) (audit.Receipt, []byte, error) {
	receipt, body, err := l.Log.WaitID(ctx, id)
	l.meddle()
	return receipt, body, err
}

func TestRedeliveryNeedsEveryFact(t *testing.T) {
	for name, row := range stoppedBy {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.prepareAndArm(testWorkspace)
			g := r.boot(testWorkspace, 1)
			c, req, err := g.challengeFor(door.Unlock)
			if err != nil {
				t.Fatal(err)
			}
			request := g.request(c, req, "")
			if _, err := r.broker.Grant(context.Background(), request, "p"); err != nil {
				t.Fatal(err)
			}
			r.exec(row.sql)
			again, err := r.broker.Grant(context.Background(), request, "p")
			refused := refusalOf(t, err, row.code)
			if len(again.Sealed.Ciphertext) != 0 || again.Signature != nil {
				t.Fatal("a key left with a refusal")
			}
			if n := r.count(`SELECT count(*) FROM broker_decision WHERE id = $1 AND outcome = 'refused' AND code = $2`, refused.ID, row.code); n != 1 {
				t.Error("the refusal was not stored")
			}
			if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'key.release' AND outcome = 'refused'`); n != 1 {
				t.Errorf("%d refusals in the log, want 1", n)
			}
			if !strings.Contains(row.sql, "freeze_order") {
				return
			}
			r.exec(`UPDATE freeze_order SET state = 'lifted', lifted_by = 'carol'`)
			if again, err = r.broker.Grant(context.Background(), request, "p"); err != nil {
				t.Fatalf("after lifting: %v", err)
			}
			g.open(c, req, again)
		})
	}
}

func TestRedeliveryIsStoppedWhileItWaits(t *testing.T) {
	for name, row := range map[string]struct{ sql, code string }{
		"lease ended":        {`UPDATE broker_lease SET state = 'ended', ended_why = 'reboot', sealed_enc = NULL, sealed_text = NULL`, CodeLease},
		"guest suspended":    {`UPDATE broker_arm SET state = 'suspended'`, CodeSuspended},
		"armed again":        {`UPDATE broker_arm SET state = 'armed', epoch = epoch + 1, report_id = NULL`, CodeGeneration},
		"another guest held": {`UPDATE broker_arm SET report_id = decode(repeat('ab', 32), 'hex')`, CodeGeneration},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.prepareAndArm(testWorkspace)
			g := r.boot(testWorkspace, 1)
			c, req, err := g.challengeFor(door.Unlock)
			if err != nil {
				t.Fatal(err)
			}
			request := g.request(c, req, "")
			if _, err := r.broker.Grant(context.Background(), request, "p"); err != nil {
				t.Fatal(err)
			}
			r.broker.Log = &meddlingLog{Log: r.log, meanwhile: func() { r.exec(row.sql) }}
			answer, err := r.broker.Grant(context.Background(), request, "p")
			wantCode(t, err, row.code)
			if len(answer.Sealed.Ciphertext) != 0 {
				t.Error("a key left with a refusal")
			}
		})
	}
}

// A broker that dies between burning a nonce and deciding must not cost a healthy guest its disk: a refusal is final there.
func TestInterruptedGrantIsNoRefusal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	c, req, err := g.challengeFor(door.Renew)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	used, nonce, _ := r.broker.ticket(c.Challenge)
	if _, err := r.broker.consume(context.Background(), request, used, nonce); err != nil {
		t.Fatal(err)
	}
	r.exec(`UPDATE broker_challenge SET used_at = now() - interval '100 seconds' WHERE id = $1`, c.Challenge)
	if _, err = r.broker.Grant(context.Background(), request, "p"); !errors.Is(err, ErrBusy) {
		t.Errorf("while the challenge lives: %v", err)
	}
	r.exec(`UPDATE broker_challenge SET expires_at = now() - interval '2 minutes' WHERE id = $1`, c.Challenge)
	_, err = r.broker.Grant(context.Background(), request, "p")
	wantCode(t, err, CodeNonce)

	if c, req, err = g.challengeFor(door.Renew); err != nil {
		t.Fatal(err)
	}
	request = g.request(c, req, "")
	if _, err := r.broker.Grant(context.Background(), request, "p"); err != nil {
		t.Fatal(err)
	}
	r.broker.Collateral = func(context.Context, CollateralQuery) (attest.Collateral, error) {
		return attest.Collateral{}, errors.New("no database")
	}
	_, err = r.broker.Grant(context.Background(), request, "p")
	var refused *Refusal
	if err == nil || errors.As(err, &refused) {
		t.Errorf("a fault of the broker's is held against the guest: %v", err)
	}
}

// burnt is an armed guest with a request that would be granted, had not somebody spent its challenge.
func (r *rig) burnt() (*guest, door.GrantRequest) {
	r.t.Helper()
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		r.t.Fatal(err)
	}
	request := g.request(c, req, "")
	spoilt := request
	spoilt.HPKE = r.boot(testWorkspace, 1).hpke.Public()
	_, err = r.broker.Grant(context.Background(), spoilt, stranger)
	wantCode(r.t, err, attest.CodeReportData)
	return g, request
}

// The database's clock was a day ahead when the sweep ran, and is right again: a challenge that was used, and
// that lives by this clock, is used still, although its row is gone; another, that nobody used, is good.
func TestUsedChallengeAfterTheClockWentBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, request := r.burnt()
	database := r.shiftedClock()
	database("1 day")
	for range 2 {
		if err := r.broker.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_challenge`); n != 0 {
		t.Fatalf("%d rows of challenges that have run out", n)
	}
	database("0")
	_, err := r.broker.Grant(context.Background(), request, siteNAT)
	wantCode(t, err, CodeNonce)
	r.exec(`UPDATE broker_swept SET until = until - interval '1 minute'`) // as if the next challenge came that much later
	if _, _, err := g.grant(door.Unlock); err != nil {
		t.Errorf("a challenge that nobody used: %v", err)
	}
	before := r.count(`SELECT extract(epoch FROM until)::bigint FROM broker_swept`)
	r.exec(`UPDATE broker_challenge SET expires_at = now() - interval '2 days'`)
	if err := r.broker.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := r.count(`SELECT extract(epoch FROM until)::bigint FROM broker_swept`); after != before {
		t.Errorf("what was swept went from %d to %d when less was", before, after)
	}
}

// A challenge that was used comes again, and while the database looks at it, its clock jumps ahead and the sweep runs: that
// sweep takes no row that a statement may be about to look for.
func TestUsedChallengeWhileTheClockJumps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := context.Background()
	_, request := r.burnt()
	database := r.shiftedClock()
	r.exec(`CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$`)
	r.exec(`CREATE TRIGGER held BEFORE INSERT ON broker_challenge FOR EACH ROW EXECUTE FUNCTION held()`)
	hold, err := r.db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hold.Rollback(ctx) }()
	if _, err := hold.Exec(ctx, `SELECT pg_advisory_xact_lock(1)`); err != nil {
		t.Fatal(err)
	}
	again := make(chan error, 1)
	go func() {
		_, err := r.broker.Grant(ctx, request, siteNAT)
		again <- err
	}()
	for r.count(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 0 {
		runtime.Gosched()
	}
	database("1 day")
	if err := r.broker.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	database("0")
	if err := hold.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-again, CodeNonce)
}

// shiftedClock puts a clock before the database's that can be set: an interval by which it is ahead.
func (r *rig) shiftedClock() (set func(ahead string)) {
	r.exec(`CREATE SCHEMA shifted`)
	set = func(ahead string) {
		r.exec(`CREATE OR REPLACE FUNCTION shifted.now() RETURNS timestamptz STABLE LANGUAGE sql
			RETURN pg_catalog.now() + interval '` + ahead + `'`)
	}
	set("0")
	r.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = shifted, public, pg_catalog', current_database()); END $$`)
	r.db.Reset() // the setting is that of new connections
	return set
}

func TestFloorRaisedWhileJudged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	raised := r.platform.policy()
	raised.RequireAliasCheck = true
	r.broker.Policies = documents{narrow: same, raise: func(attest.Policy) (attest.Policy, error) { return raised, nil }}
	r.prepareAndArm(testWorkspace)
	collect, first := r.broker.Collateral, true
	r.broker.Collateral = func(ctx context.Context, q CollateralQuery) (attest.Collateral, error) {
		if first {
			first = false
			r.exec(`INSERT INTO security_floor (id, sha256, body, issued, state, proposed_by, activated_by) VALUES ('f', $1, '{}', now(), 'active', 'a', 'b')`, make([]byte, 32))
		}
		return collect(ctx, q)
	}
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Fatal(err)
	}
	hash := raised.Hash()
	if n := r.count(`SELECT count(*) FROM broker_decision WHERE outcome = 'released' AND policy = $1`, hash[:]); n != 1 {
		t.Error("a key was released under a floor that was no longer in force")
	}
}

// TestRedeliveryNeedsItsOwnEntry: the database says which audit entry belongs to a lease. It is not believed: with its own
// entry deleted before it was signed, and another named, a key would leave of which the log knows nothing.
func TestRedeliveryNeedsItsOwnEntry(t *testing.T) {
	r := newRig(t)
	first := "01jabcdefghjkmnpqrstvw0001"
	r.ready(first)
	r.prepareAndArm(testWorkspace)
	log := &failingLog{Log: r.log, broken: true}
	r.broker.Log = log
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	if _, err := r.broker.Grant(t.Context(), request, "p"); !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
	log.broken = false
	var own int64
	if err := r.db.QueryRow(t.Context(), `SELECT entry FROM broker_lease WHERE workspace = $1`, testWorkspace).Scan(&own); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"key.release", "guest.formatted"} { // of the other workspace
		r.exec(`UPDATE broker_lease SET entry = (SELECT id FROM (SELECT id, action FROM audit_entry UNION ALL SELECT id, action FROM audit_inbox) e
			WHERE action = $2 AND id <> $3 LIMIT 1) WHERE workspace = $1`, testWorkspace, action, own)
		answer, err := r.broker.Grant(t.Context(), request, "p")
		if err == nil || len(answer.Sealed.Ciphertext) != 0 {
			t.Errorf("%s of another lease stands for the release: %v", action, err)
		}
	}
	r.exec(`UPDATE broker_lease SET entry = $2 WHERE workspace = $1`, testWorkspace, own)
	answer, err := r.broker.Grant(t.Context(), request, "p")
	if err != nil {
		t.Fatal(err)
	}
	g.open(c, req, answer)
}

// TestRenewalIsRedeliveredWithItsOwnEntry, and not with that of an earlier renewal of the same lease.
func TestRenewalIsRedeliveredWithItsOwnEntry(t *testing.T) {
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	renew := func() (request door.GrantRequest, entry int64) {
		c, req, err := g.challengeFor(door.Renew)
		if err != nil {
			t.Fatal(err)
		}
		request = g.request(c, req, "")
		if _, err := r.broker.Grant(t.Context(), request, "p"); err != nil {
			t.Fatal(err)
		}
		if err := r.db.QueryRow(t.Context(), `SELECT entry FROM broker_lease WHERE workspace = $1 AND state = 'live'`, testWorkspace).Scan(&entry); err != nil {
			t.Fatal(err)
		}
		return request, entry
	}
	_, earlier := renew()
	request, own := renew()
	r.exec(`UPDATE broker_lease SET entry = $1`, earlier)
	if _, err := r.broker.Grant(t.Context(), request, "p"); err == nil {
		t.Error("the entry of an earlier renewal stands for this one")
	}
	r.exec(`UPDATE broker_lease SET entry = $1`, own)
	if _, err := r.broker.Grant(t.Context(), request, "p"); err != nil {
		t.Error(err)
	}
}
