package keybroker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// failure makes one statement of many fail before it reaches the database.
type failure struct{ left, hit atomic.Int64 }

func (f *failure) next(ctx context.Context) context.Context {
	if f.left.Add(-1) != 0 {
		return ctx
	}
	f.hit.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func (f *failure) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return f.next(ctx)
}
func (f *failure) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (f *failure) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return f.next(ctx)
}
func (f *failure) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (f *failure) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// failing gives the rig a broker whose statements can be made to fail, on the same database.
func (r *rig) failing() *failure {
	r.t.Helper()
	f := &failure{}
	c := r.db.Config()
	c.ConnConfig.Tracer = f
	db, err := pgxpool.NewWithConfig(context.Background(), c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(db.Close)
	tokens := r.broker.Tokens
	r.db = db
	r.broker = r.start(r.broker.Logger)
	r.broker.Tokens = tokens
	return f
}

// TestNoStatementMayFail lets every statement of every operation fail once. The operation says so, whichever it was, and
// goes through when it is asked for again.
func TestNoStatementMayFail(t *testing.T) {
	r := newSessionRig(t)
	f := r.failing()
	ctx := context.Background()
	serial, seq := 0, 3 // the events of a guest that is ready
	fresh := func() string {
		serial++
		return fmt.Sprintf("01jabcdefghjkmnpqrstvw%04d", serial)
	}
	inTx := func(fn func(tx pgx.Tx) error) func() error { return func() error { return r.tx(fn) } }
	g, lease, _ := r.ready(testWorkspace)
	live := r.secret(newSecret("one"))
	s := r.stock(g.machine)
	if _, err := s.attest(); err != nil {
		t.Fatal(err)
	}
	archive := NewArchive(r.db, attest.AMDRoots())
	var accepted string
	if err := r.db.QueryRow(ctx, `SELECT id FROM broker_decision WHERE outcome = 'released' LIMIT 1`).Scan(&accepted); err != nil {
		t.Fatal(err)
	}
	who := audit.Actor{Kind: audit.Person, Subject: testOwner}
	var workspace string
	var request door.GrantRequest
	var secret Secret
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	prepared := func() {
		workspace = fresh()
		_, err := r.broker.Prepare(ctx, volumeOf(workspace))
		must(err)
	}
	released := func() { // armed and released, and nobody holds the key any more
		prepared()
		r.arm(workspace, 1)
		r.exec(`UPDATE broker_arm SET state = 'released', report_id = decode(repeat('ab', 32), 'hex') WHERE workspace = $1`, workspace)
	}
	challenged := func(p door.Purpose) func() {
		return func() {
			guest := g
			if p == door.Unlock {
				prepared()
				r.arm(workspace, 1)
				guest = r.boot(workspace, 1)
			}
			c, req, err := guest.challengeFor(p)
			must(err)
			request = guest.request(c, req, "")
		}
	}
	foreign := func() {
		challenged(door.Renew)()
		request.Evidence.Certificates = []byte("other")
	}
	refusedWith := func(code string) func() error {
		return func() error {
			_, err := r.broker.Grant(ctx, request, "p")
			var refused *Refusal
			if errors.As(err, &refused) && refused.Code == code {
				return nil
			}
			return err
		}
	}
	alone := func() { // the only armed generation with its launch digest
		r.exec(`UPDATE broker_arm SET state = 'disarmed' WHERE workspace <> $1`, testWorkspace)
	}
	few := func() { // keys and secrets to be moved: one of each
		r.exec(`UPDATE broker_key SET state = 'destroyed', kek = NULL WHERE workspace <> $1`, testWorkspace)
		r.exec(`UPDATE broker_secret SET state = 'ended', kek = NULL, ended_by = 'x', ended_at = now() WHERE id <> $1`, live.ID)
	}
	staged := func() {
		var err error
		secret, err = r.stage(newSecret(fresh()))
		must(err)
	}
	for _, op := range []struct {
		name   string
		before func()
		do     func() error
	}{
		{"prepare", func() { workspace = fresh() }, func() error { _, err := r.broker.Prepare(ctx, volumeOf(workspace)); return err }},
		{"arm", prepared, func() error {
			return r.tx(func(tx pgx.Tx) error { return r.broker.Arm(ctx, tx, r.armOf(workspace, 1)) })
		}},
		{"challenge", nil, func() error { _, _, err := g.challengeFor(door.Renew); return err }},
		{"challenge of an unlock", func() { prepared(); r.arm(workspace, 1) }, func() error { _, _, err := r.boot(workspace, 1).challengeFor(door.Unlock); return err }},
		{"unlock", challenged(door.Unlock), func() error { _, err := r.broker.Grant(ctx, request, "p"); return err }},
		{"renew", challenged(door.Renew), func() error { _, err := r.broker.Grant(ctx, request, "p"); return err }},
		{"redeliver", func() {
			challenged(door.Renew)()
			_, err := r.broker.Grant(ctx, request, "p")
			must(err)
		}, func() error { _, err := r.broker.Grant(ctx, request, "p"); return err }},
		{"refusal of evidence", foreign, refusedWith(attest.CodeFormat)},
		{"refusal of evidence, only counted", func() {
			foreign()
			for range recordBurst {
				r.broker.limits.record(testWorkspace, unproved)
			}
		}, refusedWith(attest.CodeFormat)},
		{"refusal of what nothing judges", func() {
			challenged(door.Renew)()
			request.Evidence.EventLog = []byte("log")
		}, refusedWith(attest.CodeEventLog)},
		{"refusal of a grant, only counted", func() {
			challenged(door.Renew)()
			for range leaseBurst {
				r.broker.limits.lease(testWorkspace, r.broker.InitialiseLease)
			}
			for range recordBurst {
				r.broker.limits.record(testWorkspace, proved)
			}
		}, refusedWith(CodeRate)},
		{"a second boot", func() {
			released()
			r.exec(`UPDATE broker_volume SET header_hash = $2 WHERE workspace = $1`, workspace, testHeader)
			second := r.boot(workspace, 1)
			c, req, err := second.challengeFor(door.Unlock)
			must(err)
			request = second.request(c, req, "")
		}, refusedWith(CodeGeneration)},
		{"native attestation", challenged(door.Attest), func() error { _, err := r.broker.Attest(ctx, request, "p"); return err }},
		{"event", nil, func() error {
			seq++
			_, err := g.event(lease.Lease.ID, seq, door.Ready, "")
			return err
		}},
		{"state", nil, func() error { _, err := r.broker.State(ctx, testWorkspace); return err }},
		{"explain", nil, func() error { _, err := r.broker.Explain(ctx, testWorkspace); return err }},
		{"held until", nil, func() error { _, err := r.broker.HeldUntil(ctx, testWorkspace); return err }},
		{"take back an arming", func() {
			released()
			must(r.tx(func(tx pgx.Tx) error { return r.broker.Rearm(ctx, tx, workspace, 1, "x") }))
		}, inTx(func(tx pgx.Tx) error { return r.broker.Unarm(ctx, tx, workspace, 1, false, "x") })},
		{"rearm", released, inTx(func(tx pgx.Tx) error { return r.broker.Rearm(ctx, tx, workspace, 1, "x") })},
		{"allow a reboot", released, inTx(func(tx pgx.Tx) error { _, err := r.broker.AllowReboot(ctx, tx, who, workspace); return err })},
		{"disarm", released, inTx(func(tx pgx.Tx) error { return r.broker.Disarm(ctx, tx, workspace) })},
		{"end a lease", released, inTx(func(tx pgx.Tx) error { return r.broker.EndLease(ctx, tx, workspace, "") })},
		{"quarantine", func() { prepared(); r.arm(workspace, 1) }, inTx(func(tx pgx.Tx) error {
			hits, err := Quarantine(ctx, tx, nil, permit.FreezeKind("key"), workspace+"/1", func(context.Context, pgx.Tx) (string, error) { return "why", nil })
			if err == nil && (len(hits) != 1 || hits[0].Workspace != workspace) {
				t.Errorf("quarantine found %v", hits)
			}
			return err
		})},
		{"stage a secret", nil, func() error { _, err := r.stage(newSecret(fresh())); return err }},
		{"confirm a secret", staged, func() error { _, err := r.confirm(secret.ID); return err }},
		{"end a secret", func() {
			staged()
			_, err := r.confirm(secret.ID)
			must(err)
		}, inTx(func(tx pgx.Tx) error { _, _, err := r.broker.EndSecret(ctx, tx, who, secret.ID); return err })},
		{"show a secret", nil, func() error { _, err := r.broker.Secret(ctx, live.ID); return err }},
		{"list secrets", nil, func() error { _, err := r.broker.Secrets(ctx, "", "", 10); return err }},
		{"open a session", nil, s.open},
		{"attest a session", func() { alone(); must(s.open()) }, func() error { _, err := r.broker.AttestSession(ctx, s.session.Cookie, s.body(), "p"); return err }},
		{"a session's secret", func() {
			alone()
			_, err := s.attest()
			must(err)
		}, func() error { _, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/one"); return err }},
		{"an absent secret", nil, func() error {
			_, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/none")
			if errors.Is(err, ErrNoSecret) {
				return nil
			}
			return err
		}},
		{"sweep", func() {
			staged()
			r.exec(`UPDATE broker_secret SET created_at = now() - interval '11 minutes' WHERE id = $1`, secret.ID)
			r.broker.aggregate.add(CodeRate)
		}, func() error { return r.broker.sweep(ctx) }},
		{"rotate the root", few, func() error { _, err := r.broker.RotateRoot(ctx); return err }},
		{"move keys", func() {
			few()
			_, err := r.ring.Rotate(ctx)
			must(err)
		}, func() error { return r.broker.MoveKeys(ctx) }},
		{"destroy a root", func() {
			few()
			_, err := r.broker.RotateRoot(ctx)
			must(err)
		}, func() error {
			epochs, err := r.ring.Epochs(ctx)
			must(err)
			return r.broker.DestroyRoot(ctx, epochs[0])
		}},
		{"decision", nil, func() error { _, err := archive.Decision(ctx, accepted); return err }},
		{"decisions", nil, func() error { _, err := archive.Decisions(ctx, DecisionFilter{Limit: 3}); return err }},
		{"load a decision", nil, func() error { _, err := archive.Load(ctx, accepted); return err }},
		{"bundle of a decision", nil, func() error { _, err := archive.Bundle(ctx, accepted); return err }},
		{"decisions of a period", nil, func() error {
			_, _, err := archive.In(ctx, Period{Until: time.Now().Add(time.Hour), Limit: 1})
			return err
		}},
		{"standing guests", nil, func() error { _, err := archive.Standing(ctx); return err }},
		{"shred", prepared, func() error { return r.broker.Shred(ctx, workspace) }},
		{"shred what was never prepared", func() { workspace = fresh() }, func() error { return r.broker.Shred(ctx, workspace) }},
	} {
		n := int64(1)
		for ; ; n++ {
			// Nothing in memory: no statement is spared because its answer is known.
			r.broker.policies, r.broker.stored = newBounded[[32]byte, attest.Policy](10), newBounded[[32]byte, bool](10)
			r.broker.limits = newLimits(r.clock.now)
			if op.before != nil {
				op.before()
			}
			f.hit.Store(0)
			f.left.Store(n)
			err := op.do()
			f.left.Store(0)
			if f.hit.Load() == 0 {
				if err != nil {
					t.Errorf("%s, with every statement: %v", op.name, err)
				}
				break
			}
			var refused *Refusal
			if err == nil || errors.As(err, &refused) {
				t.Errorf("%s, statement %d failed: %v", op.name, n, err)
			}
			if n > 40 {
				t.Fatalf("%s: no end of statements", op.name)
			}
		}
		if n == 1 {
			t.Errorf("%s: no statement was met", op.name)
		}
	}
	if got, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/one"); err != nil || !bytes.Equal(got, secretPayload) {
		t.Errorf("at the end: %q, %v", got, err)
	}
}
