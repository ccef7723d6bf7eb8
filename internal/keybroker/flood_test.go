package keybroker

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/ear"
	"github.com/eosc-siesta/siestad/internal/kbs"
)

const (
	stranger = "198.51.100.66"
	siteNAT  = "192.0.2.1" // where the rig's guests come from
)

func (r *rig) challengeFrom(peer string, p door.Purpose) (door.Challenge, error) {
	return r.broker.Challenge(context.Background(), door.ChallengeRequest{Workspace: testWorkspace, Generation: 1, Purpose: p}, peer)
}

// Who knows a workspace's id asks for challenges without end, from elsewhere and from behind the guest's own address: its
// first unlock and its renewals go on, with the challenge that it took before all of it.
func TestChallengesCannotBeExhausted(t *testing.T) {
	for _, peer := range []string{stranger, siteNAT} {
		for _, purpose := range []door.Purpose{door.Unlock, door.Renew} {
			t.Run(peer+" "+string(purpose), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				var g *guest
				if purpose == door.Renew {
					g, _, _ = r.ready(testWorkspace)
				} else {
					r.prepareAndArm(testWorkspace)
					g = r.boot(testWorkspace, 1)
				}
				c, req, err := g.challengeFor(purpose)
				if err != nil {
					t.Fatal(err)
				}
				for range 4 * challengeBurst {
					if _, err := r.challengeFrom(peer, door.Unlock); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := r.broker.Grant(context.Background(), g.request(c, req, ""), siteNAT); err != nil {
					t.Errorf("the guest with a challenge of before: %v", err)
				}
				if _, _, err := g.grant(door.Renew); err != nil {
					t.Errorf("a renewal after the flood: %v", err)
				}
			})
		}
	}
}

// Asking leaves nothing behind, and what was used stays until it has run out, so that it cannot be used again.
func TestAskingLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	for range 4 * challengeBurst {
		if _, err := r.challengeFrom(stranger, door.Renew); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_challenge`); n != 0 {
		t.Errorf("%d rows for challenges that nobody used", n)
	}
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	spoilt := request
	spoilt.HPKE = r.boot(testWorkspace, 1).hpke.Public()
	if _, err := r.broker.Grant(context.Background(), spoilt, stranger); err == nil {
		t.Fatal("granted to a spoilt report")
	}
	for range 2 {
		if err := r.broker.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		_, err = r.broker.Grant(context.Background(), request, siteNAT)
		wantCode(t, err, CodeNonce)
	}
	if _, _, err := g.grant(door.Unlock); err != nil {
		t.Fatal(err)
	}
	r.exec(`UPDATE broker_challenge SET expires_at = now() - interval '61 seconds'`)
	for range 2 {
		if err := r.broker.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_challenge`); n != 1 {
		t.Errorf("%d challenges are left when all have run out, want the one that was granted", n)
	}
}

// Whoever hangs up is counted and charged like who waits, and costs no connection.
func TestHangingUpIsCharged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gone, hangUp := context.WithCancel(context.Background())
	hangUp()
	before := r.db.Stat().NewConnsCount()
	for i := range peerBurst {
		_, err := r.broker.Challenge(gone, door.ChallengeRequest{Workspace: "nobody" + strconv.Itoa(i), Generation: 1, Purpose: door.Unlock}, stranger)
		wantCode(t, err, CodeWorkspace)
	}
	if r.broker.limits.credit(stranger) != 0 {
		t.Error("the stranger has credit left")
	}
	if n := r.db.Stat().NewConnsCount() - before; n > 1 {
		t.Errorf("%d new connections", n)
	}
	const other = "203.0.113.9"
	for range peerBurst {
		_, err := r.broker.Event(gone, "nobodys", door.Event{Seq: 1, Stage: door.Ready}, other)
		wantCode(t, err, CodeLease)
	}
	if r.broker.limits.credit(other) != 0 {
		t.Error("who sends events for nobody's lease has credit left")
	}
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	request.HPKE = r.boot(testWorkspace, 1).hpke.Public()
	if _, err := r.broker.Grant(gone, request, siteNAT); err == nil {
		t.Fatal("granted to a spoilt report")
	}
	if n := r.count(`SELECT count(*) FROM broker_decision`); n != 1 {
		t.Errorf("%d decisions about who hung up, want 1", n)
	}
}

// A thousand guests behind one address boot at once, while a stranger there has spent its credit: all of them are served.
func TestRebootStormBehindOneAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spend(siteNAT)
	r.prepareAndArm(testWorkspace)
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Errorf("a guest in bad company: %v", err)
	}
	const guests = 1000
	var wait sync.WaitGroup
	gate := make(chan struct{}, 64) // as many as are on the wire at a time
	for i := range guests {
		peer := "203.0.113.1"
		if i%4 == 0 {
			peer = siteNAT
		}
		gate <- struct{}{}
		wait.Go(func() {
			defer func() { <-gate }()
			if _, err := r.challengeFrom(peer, door.Attest); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// spend makes an address owe.
func (r *rig) spend(peer string) {
	r.t.Helper()
	for range 2 * peerBurst {
		if _, err := r.broker.Challenge(context.Background(), door.ChallengeRequest{Workspace: "nobody", Generation: 1, Purpose: door.Unlock}, peer); err == nil {
			r.t.Fatal("a challenge for nobody")
		}
	}
}

// stalledLog takes no entry of its own.
type stalledLog struct{ Log }

func (stalledLog) Refuse(context.Context, audit.Entry) (audit.Receipt, error) {
	return audit.Receipt{}, errors.New("no sequencer")
}

// A log that stalls keeps nothing that strangers left from being cleared away, and loses no count.
func TestSweepDoesNotWaitForTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	used, nonce, _ := r.broker.ticket(c.Challenge)
	if _, err := r.broker.consume(context.Background(), g.request(c, req, ""), used, nonce); err != nil {
		t.Fatal(err)
	}
	r.exec(`UPDATE broker_challenge SET expires_at = now() - interval '61 seconds'`)
	r.broker.Unreadable(stranger)
	r.broker.Log = stalledLog{r.log}
	for range 2 {
		if err := r.broker.sweep(context.Background()); err == nil {
			t.Error("the fault is not told")
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_challenge`); n != 0 {
		t.Errorf("%d challenges are left", n)
	}
	if n := r.broker.aggregate.counts[attest.CodeFormat]; n != 1 {
		t.Errorf("%d refusals are counted still, want 1", n)
	}
}

// Who floods one workspace with bad evidence does not have the refusals of others go unrecorded.
func TestOneWorkspaceTakesItsOwnRecordsOnly(t *testing.T) {
	l := newLimits((&clock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}).now)
	for range 2 * keepBurst {
		l.record("flooded", unproved)
	}
	if !l.record("other", unproved) {
		t.Error("the flood of one workspace has used up what is kept of all")
	}
}

// An address without credit waits for its turn, and those with credit do not wait for it.
func TestLineOfThoseWithoutCredit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	r.spend(stranger)
	for range linePlaces {
		r.broker.line.places <- struct{}{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var turns sync.WaitGroup
	for range lineLength {
		turns.Go(func() { _, _ = r.broker.Grant(ctx, door.GrantRequest{}, stranger) })
	}
	for len(r.broker.line.waiting) < lineLength {
		runtime.Gosched()
	}
	_, err := r.challengeFrom(stranger, door.Unlock)
	wantCode(t, err, CodeRate) // the line is as long as it may be
	if _, err := r.challengeFrom(siteNAT, door.Unlock); err != nil {
		t.Errorf("with credit: %v", err)
	}
	cancel()
	turns.Wait()
	if n := len(r.broker.line.waiting); n != 0 {
		t.Errorf("%d wait on whose callers are gone", n)
	}
	<-r.broker.line.places
	if _, err := r.challengeFrom(stranger, door.Unlock); err != nil {
		t.Errorf("when a place is free: %v", err)
	}
	if n := len(r.broker.line.places); n != linePlaces-1 {
		t.Errorf("%d places are taken", n)
	}
}

// Nobody can tell from the ids that he was given what others were given: whoever could would burn their challenges.
func TestIDsCannotBeGuessed(t *testing.T) {
	const moment, random = 10, 6 // characters of the time, and of the 80 bits behind it enough never to be the same twice
	last := newID()
	for range 1000 {
		id := newID()
		if len(id) != 26 || id[moment:moment+random] == last[moment:moment+random] {
			t.Fatalf("%s follows %s", id, last)
		}
		last = id
	}
}

// A flood of anonymous refusals is one entry and no rows.
func TestFloodIsAggregated(t *testing.T) {
	r := newRig(t)
	for range 3 * peerBurst {
		if _, err := r.broker.Challenge(context.Background(), door.ChallengeRequest{Workspace: "nobody", Generation: 1, Purpose: door.Unlock}, "192.0.2.66"); err == nil {
			t.Fatal("a challenge for nobody")
		}
	}
	if err := r.broker.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`SELECT (SELECT count(*) FROM audit_entry) + (SELECT count(*) FROM audit_inbox)`); n != 1 {
		t.Errorf("%d entries for a flood, want 1", n)
	}
	if n := r.count(`SELECT count(*) FROM broker_decision`) + r.count(`SELECT count(*) FROM broker_challenge`); n != 0 {
		t.Errorf("%d rows for a flood, want 0", n)
	}
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	if _, _, err := g.grant(door.Unlock); err != nil {
		t.Errorf("a guest at another address: %v", err)
	}
	r.clock.add(time.Hour)
	_, err := r.broker.Challenge(context.Background(), door.ChallengeRequest{Workspace: "nobody", Generation: 1, Purpose: door.Unlock}, "192.0.2.66")
	wantCode(t, err, CodeWorkspace)
}

// What was refused since the last pass is not lost when the broker stops.
func TestTheLastRefusalsAreWritten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.broker.Unreadable("198.51.100.7")
	stopped, stop := context.WithCancel(context.Background())
	stop()
	if err := r.broker.Run(stopped); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'guest.refuse_many'`); n != 1 {
		t.Errorf("%d entries under a checkpoint when the broker has stopped", n)
	}
}

func TestNoEvidenceFloodFromAKnownWorkspace(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	for i := range 3 * recordBurst {
		g := r.boot(testWorkspace, 1)
		g.machine = &plainMachine{measurement: [32]byte{1}}
		c, req, err := g.challengeFor(door.Unlock)
		if err != nil {
			r.clock.add(2 * time.Second) // let the challenges flow, keep the records dry
			continue
		}
		request := g.request(c, req, "")
		request.Evidence.Certificates = []byte{byte(i)}
		if _, err := r.broker.Grant(context.Background(), request, "192.0.2.1"); err == nil {
			t.Fatal("released")
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_decision`); n > recordBurst+3 {
		t.Errorf("%d decisions stored, want at most %d", n, recordBurst+3)
	}
}

// What a guest that is genuine, and refused for a fact, can put into the log and the database is bounded; the one refusal
// that changes something is always written.
func TestRefusedGrantsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	strange := r.boot(testWorkspace, 1)
	strange.machine = &plainMachine{measurement: [32]byte{1}}
	for range 2 * recordBurst {
		_, _, err := strange.grant(door.Unlock)
		wantCode(t, err, attest.CodeMeasurement)
	}
	if n := r.count(`SELECT count(*) FROM broker_decision WHERE outcome = 'refused'`); n != recordBurst {
		t.Errorf("%d decisions about evidence of nobody, want %d", n, recordBurst)
	}
	r.exec(freezeSQL("project", testProject))
	for range 2 * recordBurst {
		_, _, err := g.grant(door.Renew)
		wantCode(t, err, CodeFreeze)
	}
	if n := r.count(`SELECT count(*) FROM broker_decision WHERE code = 'freeze'`); n != recordBurst {
		t.Errorf("%d decisions about a guest that is frozen, want %d whatever strangers have used up", n, recordBurst)
	}
	r.exec(`UPDATE freeze_order SET state = 'lifted', lifted_by = 'carol'`)
	_, _, err := r.boot(testWorkspace, 1).grant(door.Unlock)
	wantCode(t, err, CodeGeneration)
	if n := r.count(`SELECT (SELECT count(*) FROM audit_entry WHERE action = 'guest.suspend') + (SELECT count(*) FROM audit_inbox WHERE action = 'guest.suspend')`); n != 1 {
		t.Errorf("%d entries about a second boot, want 1", n)
	}
	if n := r.broker.aggregate.counts[CodeFreeze]; n != recordBurst {
		t.Errorf("%d refusals are only counted, want %d", n, recordBurst)
	}
}

// A guest renews as often as leases need, and not more often than that.
func TestRenewalsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	given := 1
	for range 2 * leaseBurst {
		if _, _, err := g.grant(door.Renew); err == nil {
			given++
		} else {
			wantCode(t, err, CodeRate)
		}
	}
	if given != leaseBurst {
		t.Errorf("%d grants at once, want %d", given, leaseBurst)
	}
	if n := r.count(`SELECT count(*) FROM broker_decision`); n != leaseBurst+recordBurst {
		t.Errorf("%d decisions, want %d", n, leaseBurst+recordBurst)
	}
	for range 100 { // half of the shortest lease: as an honest guest goes on
		r.clock.add(r.broker.InitialiseLease / 2)
		if _, _, err := g.grant(door.Renew); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAttestationsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	r.broker.Tokens = newTokens(t)
	g := r.boot(testWorkspace, 1)
	given := 0
	for range 2 * attestBurst {
		c, req, err := g.challengeFor(door.Attest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = r.broker.Attest(context.Background(), g.request(c, req, ""), siteNAT); err == nil {
			given++
		} else {
			wantCode(t, err, CodeRate)
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_decision`); given != attestBurst || n != attestBurst {
		t.Errorf("%d tokens and %d decisions, want %d", given, n, attestBurst)
	}
	if _, _, err := g.grant(door.Unlock); err != nil {
		t.Errorf("the key of a guest that asked for many tokens: %v", err)
	}
}

// One lease makes a bounded number of entries, and the numbers that a guest of ours uses are far below.
func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, answer, _ := r.ready(testWorkspace)
	lease := answer.Lease.ID
	for seq := 4; seq <= maxEvents; seq++ {
		if _, err := g.event(lease, seq, door.Ready, ""); err != nil {
			t.Fatal(err)
		}
	}
	for seq := maxEvents + 1; seq < maxEvents+2*recordBurst; seq++ {
		_, err := g.event(lease, seq, door.Ready, "")
		wantCode(t, err, CodeRate)
	}
	const events = `SELECT (SELECT count(*) FROM audit_entry WHERE action = $1) + (SELECT count(*) FROM audit_inbox WHERE action = $1)`
	if n := r.count(events, "guest.ready"); n > maxEvents+recordBurst {
		t.Errorf("%d entries by one guest", n)
	}
}

// What nothing judges is refused under a code, burns its nonce, and leaves no byte behind.
func TestEvidenceThatNothingJudgesIsNotKept(t *testing.T) {
	t.Parallel()
	for code, change := range map[string]func(e *door.Evidence){
		attest.CodeEventLog: func(e *door.Evidence) { e.EventLog = make([]byte, 32<<10) },
		attest.CodeFormat:   func(e *door.Evidence) { e.TEE = "other" },
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.prepareAndArm(testWorkspace)
			r.broker.Tokens = newTokens(t)
			g := r.boot(testWorkspace, 1)
			blobs := r.count(`SELECT count(*) FROM broker_blob`)
			for _, purpose := range []door.Purpose{door.Unlock, door.Attest} {
				c, req, err := g.challengeFor(purpose)
				if err != nil {
					t.Fatal(err)
				}
				request := g.request(c, req, "")
				good := request.Evidence
				change(&request.Evidence)
				ask := func() error {
					if purpose == door.Attest {
						_, err := r.broker.Attest(context.Background(), request, siteNAT)
						return err
					}
					_, err := r.broker.Grant(context.Background(), request, siteNAT)
					return err
				}
				wantCode(t, ask(), code)
				request.Evidence = good
				wantCode(t, ask(), CodeNonce)
			}
			if n := r.count(`SELECT count(*) FROM broker_blob`); n != blobs {
				t.Errorf("%d blobs were kept", n-blobs)
			}
			if n := r.count(`SELECT count(*) FROM broker_decision`); n != 0 || r.broker.aggregate.counts[code] != 2 {
				t.Errorf("%d decisions, %v counted", n, r.broker.aggregate.counts)
			}
		})
	}
}

// What a client of /kbs/v0 sends and nobody can read is in the count that comes into the log.
func TestUnreadableEvidenceIsAggregated(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newRig(t)
	r.broker.Tokens = newTokens(t)
	for range 3 {
		s, err := r.broker.OpenSession(ctx, kbs.Request{TEE: kbs.TEESNP}, stranger)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.broker.AttestSession(ctx, s.Cookie, []byte("{"), stranger); !errors.As(err, new(*kbs.Error)) {
			t.Fatalf("a body that is cut off: %v", err)
		}
	}
	r.broker.Unreadable(stranger)
	if err := r.broker.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'guest.refuse_many' AND convert_from(body, 'UTF8') LIKE '%"format":4%'`); n != 1 {
		t.Error("the count is not in the log")
	}
}

func newTokens(t testing.TB) *ear.Signer {
	t.Helper()
	key, err := ear.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ear.NewSigner(ear.Config{Issuer: "https://siesta.test", Audience: "siesta", Build: "test", Current: key, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Clearing away may fail, for a lock or a database that is slow: the guest whose request brought it on goes on.
func TestClearingAwayFailsNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`ALTER TABLE broker_kbs_session RENAME TO away`)
	for range clearEvery {
		r.broker.made(context.Background())
	}
	if n := r.logged.FilterMessage("clearing idle sessions away").Len(); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
}
