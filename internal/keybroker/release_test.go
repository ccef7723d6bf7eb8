package keybroker

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/permit"
)

func TestFirstBootThenReboot(t *testing.T) {
	r := newRig(t)
	g, _, first := r.ready(testWorkspace)
	if first.Mode != door.Initialise || first.HeaderHash != "" {
		t.Fatalf("the first grant says %s with header %q", first.Mode, first.HeaderHash)
	}
	s, err := r.broker.State(context.Background(), testWorkspace)
	if err != nil || s.Stage != "ready" || !s.Released || !s.LeaseLive || !s.HeaderRecorded {
		t.Fatalf("state %+v, %v", s, err)
	}
	r.reboot(testWorkspace)
	if _, _, err := g.grant(door.Renew); err == nil {
		t.Fatal("the old guest renewed a lease that has ended")
	}
	_, second, err := r.boot(testWorkspace, 1).grant(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	if second.Mode != door.Open || second.HeaderHash != testHeader {
		t.Errorf("the second grant says %s with header %q", second.Mode, second.HeaderHash)
	}
	if !bytes.Equal(first.LUKSKey, second.LUKSKey) || !bytes.Equal(first.HeaderMACKey, second.HeaderMACKey) || bytes.Equal(first.LUKSKey[:32], first.HeaderMACKey) {
		t.Error("the keys are not those of the volume")
	}
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'key.release' AND outcome = 'success'`); n != 2 {
		t.Errorf("%d releases in the log, want 2", n)
	}
}

// stoppedBy is each fact that people decide, taken away.
var stoppedBy = map[string]struct{ sql, code string }{
	"permit ended":      {`UPDATE permit SET state = 'ended', ended_by = 'carol'`, CodePermit},
	"permit of another": {`UPDATE permit SET people = ARRAY['https://issuer|bob']`, CodePermit},
	"permit expired":    {`UPDATE permit SET until = now() - interval '1 second'`, CodePermit},
	"project closed":    {`UPDATE project SET state = 'closed'`, CodeProject},
	"person removed":    {`UPDATE project SET members = ARRAY['https://issuer|bob']`, CodeProject},
	"project lapsed":    {`UPDATE project SET valid_until = now() - interval '1 second'`, CodeProject},
	"image withdrawn":   {`UPDATE image SET state = 'withdrawn', withdrawn_by = 'carol'`, CodeImage},
	"person frozen":     {freezeSQL("person", testOwner), CodeFreeze},
	"project frozen":    {freezeSQL("project", testProject), CodeFreeze},
	"dataset frozen":    {freezeSQL("dataset", testDataset), CodeFreeze},
	"image frozen":      {freezeSQL("image", testImage), CodeFreeze},
	"site frozen":       {freezeSQL("site", testSite), CodeFreeze},
	"chip frozen":       {freezeSQL("chip", attest.ChipKey(make([]byte, 64))), CodeFreeze},
}

func TestRefusedFacts(t *testing.T) {
	for name, row := range stoppedBy {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.prepareAndArm(testWorkspace)
			r.exec(row.sql)
			_, _, err := r.boot(testWorkspace, 1).grant(door.Unlock)
			refused := refusalOf(t, err, row.code)
			if n := r.count(`SELECT count(*) FROM broker_decision WHERE id = $1 AND outcome = 'refused' AND code = $2`, refused.ID, row.code); n != 1 {
				t.Error("the refusal was not stored")
			}
			if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'key.release' AND outcome = 'refused'`); n != 1 {
				t.Errorf("%d refusals in the log, want 1", n)
			}
			if n := r.count(`SELECT count(*) FROM broker_lease`); n != 0 {
				t.Error("a refused guest got a lease")
			}
		})
	}
}

func freezeSQL(kind, value string) string {
	return `INSERT INTO freeze_order (id, kind, value, reason, state, placed_by) VALUES ('f', '` + kind + `', '` + value + `', 'stop', 'live', 'carol')`
}

func TestFreezeStopsRenewal(t *testing.T) {
	r := newRig(t)
	g, before, _ := r.ready(testWorkspace)
	after, _, err := g.grant(door.Renew)
	if err != nil || after.Lease.ID != before.Lease.ID || len(after.Sealed.Ciphertext) != 0 {
		t.Fatalf("renewal: %+v, %v", after.Lease, err)
	}
	r.exec(freezeSQL("project", testProject))
	_, _, err = g.grant(door.Renew)
	wantCode(t, err, CodeFreeze)
	r.exec(`UPDATE freeze_order SET state = 'lifted', lifted_by = 'carol'`)
	if _, _, err = g.grant(door.Renew); err != nil {
		t.Errorf("after lifting: %v", err)
	}
	r.exec(`UPDATE broker_lease SET until = now() - interval '1 second'`)
	_, _, err = g.grant(door.Renew)
	wantCode(t, err, CodeLease)
}

// What holds of a project holds of its members: nobody works in it who was taken out of it, whatever a permit says.
func TestRemovedMemberLosesTheLease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	permits := permit.New(r.db, r.log.Recorder)
	p, err := permits.Project(context.Background(), testProject)
	if err != nil {
		t.Fatal(err)
	}
	members := func(list ...string) {
		t.Helper()
		p.Members = list
		if err := r.tx(func(tx pgx.Tx) error {
			p, _, err = permits.UpdateProject(context.Background(), tx, olga, p, p.Version)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	members("https://issuer|bob")
	_, _, err = g.grant(door.Renew)
	wantCode(t, err, CodeProject)
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'lease.renew' AND outcome = 'refused'`); n != 1 {
		t.Errorf("%d refusals in the log, want 1", n)
	}
	members("https://issuer|bob", testOwner)
	if _, _, err := g.grant(door.Renew); err != nil {
		t.Errorf("a member again: %v", err)
	}
}

func TestRenewNeedsSameGuest(t *testing.T) {
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	other := *g
	other.sign = r.boot(testWorkspace, 1).sign
	_, _, err := other.grant(door.Renew)
	wantCode(t, err, CodeLease) // another signing key
	other = *r.boot(testWorkspace, 1)
	other.sign = g.sign
	_, _, err = other.grant(door.Renew)
	wantCode(t, err, CodeGeneration) // another REPORT_ID
	if s, _ := r.broker.State(context.Background(), testWorkspace); s.Suspended {
		t.Error("a failed renewal suspended the generation")
	}
}

func TestReplayedNonce(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	answer, err := r.broker.Grant(context.Background(), request, "p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.event(answer.Lease.ID, 1, door.Formatted, testHeader); err != nil {
		t.Fatal(err)
	}
	_, err = r.broker.Grant(context.Background(), request, "p")
	wantCode(t, err, CodeNonce) // acknowledged
	stranger := r.boot(testWorkspace, 1)
	_, err = r.broker.Grant(context.Background(), stranger.request(c, req, ""), "p")
	wantCode(t, err, CodeNonce)
	_, err = r.broker.Grant(context.Background(), stranger.request(door.Challenge{Challenge: "unknown", Nonce: c.Nonce}, req, ""), "p")
	wantCode(t, err, CodeNonce)
}

// TestStrangersChallengeIsRefusedUnseen: an id that this broker never gave is refused without a look into the database.
func TestStrangersChallengeIsRefusedUnseen(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	r.exec(`ALTER TABLE broker_challenge RENAME TO hidden`)
	cut := strings.LastIndex(c.Challenge, ".")
	text, code := c.Challenge[:cut], c.Challenge[cut:]
	for name, challenge := range map[string]string{
		"no code": text, "another's code": strings.Replace(text, "unlock", "renew", 1) + code, "another's workspace": text + "x" + code,
		"empty code": text + ".", "a longer code": c.Challenge + "a", "nothing": ".", "a word": "unknown",
	} {
		spoilt := c
		spoilt.Challenge = challenge
		_, err := r.broker.Grant(context.Background(), g.request(spoilt, req, ""), "p")
		var refused *Refusal
		if !errors.As(err, &refused) || refused.Code != CodeNonce {
			t.Errorf("%s: %v", name, err)
		}
	}
	var refused *Refusal
	if _, err := r.broker.Grant(context.Background(), g.request(c, req, ""), "p"); err == nil || errors.As(err, &refused) {
		t.Errorf("ours: %v, and the database was not asked", err)
	}
}

func TestNonceIsBurntByAFailure(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	bad := g.request(c, req, "")
	bad.HPKE = r.boot(testWorkspace, 1).hpke.Public() // a proxy puts in its own key
	_, err = r.broker.Grant(context.Background(), bad, "p")
	wantCode(t, err, attest.CodeReportData)
	_, err = r.broker.Grant(context.Background(), g.request(c, req, ""), "p")
	wantCode(t, err, CodeNonce)
	if n := r.count(`SELECT count(*) FROM broker_blob b JOIN broker_decision d ON d.report = b.sha256 WHERE d.code = 'report_data'`); n != 1 {
		t.Error("the refused evidence was not kept for replay")
	}
	if _, _, err := g.grant(door.Unlock); err != nil {
		t.Errorf("a fresh challenge: %v", err)
	}
}

func TestExpiredNonce(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	old, nonce, ok := r.broker.ticket(c.Challenge)
	if !ok || !bytes.Equal(nonce, c.Nonce) {
		t.Fatal("the broker does not read its own ticket")
	}
	old.expires = old.expires.Add(-door.ChallengeLife - time.Second)
	c.Challenge, c.Nonce = r.broker.issue(old)
	_, err = r.broker.Grant(context.Background(), g.request(c, req, ""), "p")
	wantCode(t, err, CodeNonce)
}

func TestSecondBootSuspends(t *testing.T) {
	r := newRig(t)
	g, answer, _ := r.ready(testWorkspace)
	clone := r.boot(testWorkspace, 1)
	_, _, err := clone.grant(door.Unlock)
	wantCode(t, err, CodeGeneration)
	s, _ := r.broker.State(context.Background(), testWorkspace)
	if !s.Suspended || s.LastRefusal == nil || s.LastRefusal.Code != CodeGeneration {
		t.Fatalf("state %+v", s)
	}
	if r.logged.FilterMessage("generation suspended after a second boot").Len() != 1 {
		t.Error("no alarm in the log")
	}
	if n := r.count(`SELECT (SELECT count(*) FROM audit_entry WHERE action = 'guest.suspend') + (SELECT count(*) FROM audit_inbox WHERE action = 'guest.suspend')`); n != 1 {
		t.Error("no alarm in the audit log")
	}
	for _, who := range []*guest{g, clone} {
		for _, p := range []door.Purpose{door.Unlock, door.Renew} {
			_, _, err := who.grant(p)
			wantCode(t, err, CodeSuspended)
		}
	}
	ctx := context.Background()
	who := audit.Actor{Kind: audit.Person, Subject: testOwner}
	allow := func() error {
		return r.tx(func(tx pgx.Tx) error { _, err := r.broker.AllowReboot(ctx, tx, who, testWorkspace); return err })
	}
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.Rearm(ctx, tx, testWorkspace, 1, "reboot") }); !errors.Is(err, ErrState) {
		t.Errorf("a suspended generation was armed without a person: %v", err)
	}
	if err := allow(); !errors.Is(err, ErrState) {
		t.Errorf("allowed while the lease lives: %v", err)
	}
	r.exec(`UPDATE broker_lease SET until = now() WHERE id = $1`, answer.Lease.ID)
	if err := allow(); err != nil {
		t.Fatal(err)
	}
	if err := allow(); !errors.Is(err, ErrState) {
		t.Errorf("allowed twice: %v", err)
	}
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Errorf("the allowed boot: %v", err)
	}
	_, _, err = r.boot(testWorkspace, 1).grant(door.Unlock)
	wantCode(t, err, CodeGeneration)
}

func TestSuspensionNeedsGenuineEvidence(t *testing.T) {
	r := newRig(t)
	r.ready(testWorkspace)
	liar := r.boot(testWorkspace, 1)
	liar.machine = &plainMachine{measurement: [32]byte{1}}
	_, _, err := liar.grant(door.Unlock)
	wantCode(t, err, attest.CodeMeasurement)
	if s, _ := r.broker.State(context.Background(), testWorkspace); s.Suspended {
		t.Error("anybody can suspend a generation")
	}
}

func TestPowerCutWhileFormatting(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	first := r.boot(testWorkspace, 1)
	answer, _, err := first.grant(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	second := r.boot(testWorkspace, 1)
	_, _, err = second.grant(door.Unlock)
	wantCode(t, err, CodeLease) // the first may still be formatting
	r.exec(`UPDATE broker_lease SET until = now()`)
	_, sealed, err := second.grant(door.Unlock)
	if err != nil || sealed.Mode != door.Initialise {
		t.Fatalf("after the lease: %s, %v", sealed.Mode, err)
	}
	_, err = first.event(answer.Lease.ID, 1, door.Formatted, testHeader)
	wantCode(t, err, CodeLease) // too late: it may not name the header now
}

func TestGenerations(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	old := r.boot(testWorkspace, 1)
	c, req, err := old.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	r.arm(testWorkspace, 2)
	r.arm(testWorkspace, 2) // again is nothing
	_, err = r.broker.Grant(context.Background(), old.request(c, req, ""), "p")
	wantCode(t, err, CodeGeneration)
	_, _, err = old.challengeFor(door.Unlock)
	wantCode(t, err, CodeGeneration)
	_, _, err = r.boot(testWorkspace, 3).challengeFor(door.Unlock)
	wantCode(t, err, CodeWorkspace)
	_, _, err = r.boot("unknown", 1).challengeFor(door.Unlock)
	wantCode(t, err, CodeWorkspace)
	if _, _, err := r.boot(testWorkspace, 2).grant(door.Unlock); err != nil {
		t.Error(err)
	}
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.Arm(context.Background(), tx, r.armOf(testWorkspace, 1)) }); !errors.Is(err, ErrState) {
		t.Errorf("an earlier generation was armed again: %v", err)
	}
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.Disarm(context.Background(), tx, testWorkspace) }); err != nil {
		t.Fatal(err)
	}
	_, _, err = r.boot(testWorkspace, 2).challengeFor(door.Unlock)
	wantCode(t, err, CodeGeneration)
}

func TestChallengeOfEarlierArming(t *testing.T) {
	r := newRig(t)
	r.ready(testWorkspace)
	late := r.boot(testWorkspace, 1)
	c, req, err := late.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	r.reboot(testWorkspace)
	_, err = r.broker.Grant(context.Background(), late.request(c, req, ""), "p")
	wantCode(t, err, CodeGeneration)
}

func TestOneOfManyGrantsWins(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	const guests = 8
	requests := make([]door.GrantRequest, guests)
	for i := range requests {
		g := r.boot(testWorkspace, 1)
		c, req, err := g.challengeFor(door.Unlock)
		if err != nil {
			t.Fatal(err)
		}
		requests[i] = g.request(c, req, "")
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for _, request := range requests {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := r.broker.Grant(context.Background(), request, "p")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
				return
			}
			var refused *Refusal
			if !errors.As(err, &refused) {
				t.Errorf("neither granted nor refused: %v", err)
			}
		}()
	}
	wg.Wait()
	if won != 1 || r.count(`SELECT count(*) FROM broker_lease WHERE state = 'live'`) != 1 {
		t.Errorf("%d guests won, want 1", won)
	}
}

// A permit that ends, or a member who is removed, in a transaction that commits first wins, also against a release that
// is already reading.
func TestWhatCommitsFirstWins(t *testing.T) {
	for _, name := range []string{"permit ended", "person removed"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			commitsFirst(t, stoppedBy[name].sql, stoppedBy[name].code)
		})
	}
}

func commitsFirst(t *testing.T, sql, code string) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	tx, err := r.db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := r.broker.Grant(ctx, g.request(c, req, ""), "p")
		result <- err
	}()
	waitForLock(t, r)
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-result, code)
}

// waitForLock returns once some transaction waits for another.
func waitForLock(t testing.TB, r *rig) {
	t.Helper()
	deadline, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		var n int
		if err := r.db.QueryRow(deadline, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&n); err != nil {
			t.Fatalf("nobody waits: %v", err)
		}
		if n > 0 {
			return
		}
	}
}

func TestHeaderMustMatchTheRecord(t *testing.T) {
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	c, req, err := g.challengeFor(door.Renew)
	if err != nil {
		t.Fatal(err)
	}
	other := "cd" + testHeader[2:]
	_, err = r.broker.Grant(context.Background(), g.request(c, req, other), "p")
	wantCode(t, err, CodeBinding)
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	answer, _, err := g.grant(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	lease := answer.Lease.ID
	_, err = g.event(lease, 1, door.Unlocked, "")
	wantCode(t, err, CodeBinding) // nothing is formatted
	first, err := g.event(lease, 1, door.Formatted, testHeader)
	if err != nil {
		t.Fatal(err)
	}
	again, err := g.event(lease, 1, door.Formatted, testHeader)
	if err != nil || !bytes.Equal(first.Signature, again.Signature) {
		t.Errorf("redelivery: %v", err)
	}
	_, err = g.event(lease, 1, door.Ready, "")
	wantCode(t, err, CodeBinding) // the number is taken
	_, err = g.event(lease, 2, door.Formatted, "cd"+testHeader[2:])
	wantCode(t, err, CodeBinding) // another header
	_, err = g.event("unknown", 2, door.Ready, "")
	wantCode(t, err, CodeLease)
	thief := *g
	thief.sign = r.boot(testWorkspace, 1).sign
	_, err = thief.event(lease, 2, door.Ready, "")
	wantCode(t, err, CodeBinding)
	if _, err := g.event(lease, 7, door.Stopping, ""); err != nil {
		t.Fatal(err)
	}
	_, err = g.event(lease, 8, door.Ready, "")
	wantCode(t, err, CodeLease)
	if s, _ := r.broker.State(context.Background(), testWorkspace); s.LeaseLive || s.Stage != "stopping" {
		t.Errorf("state %+v", s)
	}
}
