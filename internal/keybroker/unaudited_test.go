package keybroker

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
)

// brokenLog fails in one of the ways in which a log can.
type brokenLog struct {
	Log
	append, queue, wait, refuse error
}

func (l *brokenLog) Append(ctx context.Context, tx pgx.Tx, e audit.Entry) (audit.ID, error) {
	if l.append != nil {
		return 0, l.append
	}
	return l.Log.Append(ctx, tx, e)
}

func (l *brokenLog) Queue(batch *pgx.Batch, e audit.Entry) (audit.Ref, error) {
	if l.queue != nil {
		return audit.Ref{}, l.queue
	}
	return l.Log.Queue(batch, e)
}

func (l *brokenLog) Wait(ctx context.Context, of audit.Ref) (audit.Receipt, error) {
	if l.wait != nil {
		return audit.Receipt{}, l.wait
	}
	return l.Log.Wait(ctx, of)
}

func (l *brokenLog) WaitID(ctx context.Context, id audit.ID) (audit.Receipt, []byte, error) {
	if l.wait != nil {
		return audit.Receipt{}, nil, l.wait
	}
	return l.Log.WaitID(ctx, id)
}

func (l *brokenLog) Refuse(ctx context.Context, e audit.Entry) (audit.Receipt, error) {
	if l.refuse != nil {
		return audit.Receipt{}, l.refuse
	}
	return l.Log.Refuse(ctx, e)
}

// TestNothingHappensUnaudited: where the entry cannot be written nothing changes, and where its checkpoint does not come
// nothing leaves.
func TestNothingHappensUnaudited(t *testing.T) {
	r := newSessionRig(t)
	ctx := context.Background()
	log := &brokenLog{Log: r.broker.Log}
	r.broker.Log = log
	g, lease, _ := r.ready(testWorkspace)
	r.secret(newSecret("one"))
	s := r.stock(g.machine)
	if _, err := s.attest(); err != nil {
		t.Fatal(err)
	}
	other := "01jabcdefghjkmnpqrstvwxyz2"
	if _, err := r.broker.Prepare(ctx, volumeOf(other)); err != nil {
		t.Fatal(err)
	}
	staged, err := r.stage(newSecret("two"))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the log is full")
	request := func(p door.Purpose, change func(*door.GrantRequest)) door.GrantRequest {
		t.Helper()
		c, req, err := g.challengeFor(p)
		if err != nil {
			t.Fatal(err)
		}
		out := g.request(c, req, "")
		if change != nil {
			change(&out)
		}
		return out
	}
	foreign := func(e *door.GrantRequest) { e.Evidence.Certificates = []byte("other") }
	seq := 50
	tx := func(fn func(tx pgx.Tx) error) func() error { return func() error { return r.tx(fn) } }
	var asked door.GrantRequest
	for name, c := range map[string]struct {
		breaks func()
		before func()
		do     func() error
		leaves string // a table whose rows must not change; empty for what only does not leave
	}{
		"renewal, no entry":           {func() { log.queue = broken }, func() { asked = request(door.Renew, nil) }, func() error { _, err := r.broker.Grant(ctx, asked, "p"); return err }, "broker_decision"},
		"renewal, no checkpoint":      {func() { log.wait = broken }, func() { asked = request(door.Renew, nil) }, func() error { _, err := r.broker.Grant(ctx, asked, "p"); return err }, ""},
		"refusal, no entry":           {func() { log.queue = broken }, func() { asked = request(door.Renew, foreign) }, func() error { _, err := r.broker.Grant(ctx, asked, "p"); return err }, "broker_decision"},
		"refusal, no checkpoint":      {func() { log.wait = broken }, func() { asked = request(door.Renew, foreign) }, func() error { _, err := r.broker.Grant(ctx, asked, "p"); return err }, ""},
		"attestation, no entry":       {func() { log.queue = broken }, func() { asked = request(door.Attest, nil) }, func() error { _, err := r.broker.Attest(ctx, asked, "p"); return err }, "broker_decision"},
		"attestation, no checkpoint":  {func() { log.wait = broken }, func() { asked = request(door.Attest, nil) }, func() error { _, err := r.broker.Attest(ctx, asked, "p"); return err }, ""},
		"secret, no entry":            {func() { log.queue = broken }, nil, func() error { _, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/one"); return err }, "broker_decision"},
		"secret, no checkpoint":       {func() { log.wait = broken }, nil, func() error { _, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/one"); return err }, ""},
		"absent secret, no entry":     {func() { log.refuse = broken }, nil, func() error { _, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/none"); return err }, "broker_decision"},
		"event, no entry":             {func() { log.append = broken }, func() { seq++ }, func() error { _, err := g.event(lease.Lease.ID, seq, door.Ready, ""); return err }, "broker_lease"},
		"arm, no entry":               {func() { log.append = broken }, nil, tx(func(tx pgx.Tx) error { return r.broker.Arm(ctx, tx, r.armOf(other, 1)) }), "broker_arm"},
		"prepare, no entry":           {func() { log.append = broken }, nil, func() error { _, err := r.broker.Prepare(ctx, volumeOf("01jabcdefghjkmnpqrstvwxyz3")); return err }, "broker_arm"},
		"confirm, no entry":           {func() { log.append = broken }, nil, func() error { _, err := r.confirm(staged.ID); return err }, "broker_secret"},
		"shred, no entry":             {func() { log.append = broken }, nil, func() error { return r.broker.Shred(ctx, other) }, "broker_key"},
		"aggregated refusals":         {func() { log.refuse = broken }, func() { r.broker.aggregate.add(CodeRate) }, func() error { return r.broker.sweep(ctx) }, "broker_secret"},
		"key blob of a volume, first": {func() { log.refuse = broken }, nil, func() error { return r.broker.foreignBlob(ctx, source{workspace: other}, "why") }, "broker_decision"},
		"key blob of a secret, first": {func() { log.refuse = broken }, nil, func() error { return r.broker.foreignBlob(ctx, source{workspace: other, object: "secret/x"}, "why") }, "broker_decision"},
	} {
		if c.before != nil {
			c.before()
		}
		rows := func() string {
			if c.leaves == "" {
				return ""
			}
			var out string
			if err := r.db.QueryRow(ctx, `SELECT coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') FROM `+c.leaves+` t`).Scan(&out); err != nil {
				t.Fatal(err)
			}
			return out
		}
		before := rows()
		c.breaks()
		err := c.do()
		log.append, log.queue, log.wait, log.refuse = nil, nil, nil, nil
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
		if rows() != before {
			t.Errorf("%s: %s has changed", name, c.leaves)
		}
	}
	if r.broker.aggregate.counts[CodeRate] != 1 {
		t.Errorf("the count of refusals that could not be written is lost: %v", r.broker.aggregate.counts)
	}
	// What was committed without its checkpoint is given again once the checkpoint is there.
	if _, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/one"); err != nil {
		t.Error(err)
	}
	// A foreign blob beyond the rate is counted.
	for range recordBurst {
		r.broker.limits.record(other, ours)
	}
	wantCode(t, r.broker.foreignBlob(ctx, source{workspace: other}, "why"), CodeKeyBlob)
	wantCode(t, r.broker.foreignBlob(ctx, source{workspace: other, object: "secret/x"}, "why"), CodeKeyBlob)
	if r.broker.aggregate.counts[CodeKeyBlob] != 2 {
		t.Errorf("not counted: %v", r.broker.aggregate.counts)
	}
}

// TestWhoPays: each refusal costs the peer that caused it, and a token that is none is not made good by a cookie.
func TestWhoPays(t *testing.T) {
	r := newSessionRig(t)
	ctx := context.Background()
	g, s, token := r.holding()
	who := Bearer{Cookie: s.session.Cookie}
	r.exec(freezeSQL("project", testProject))
	spent := func(do func()) float64 {
		before := r.broker.limits.credit("192.0.2.1")
		do()
		return before - r.broker.limits.credit("192.0.2.1")
	}
	spendTokens := func() {
		l := r.broker.limits
		for boot := range l.attests {
			for l.take(l.attests, boot, attestBurst, attestEvery) {
			}
		}
	}
	for name, do := range map[string]func(){
		"a secret that a fact forbids": func() { _, err := s.secret(who, "default/token/one"); wantCode(t, err, CodeFreeze) },
		"a session that is none": func() {
			if _, err := s.secret(Bearer{}, "default/token/one"); !errors.Is(err, ErrNoSession) {
				t.Error(err)
			}
		},
		"half a body": func() {
			if err := s.open(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.broker.AttestSession(ctx, s.session.Cookie, []byte("{"), "192.0.2.1"); err == nil {
				t.Error("half a body was attested")
			}
		},
		"a session used twice": func() {
			_, err := r.broker.AttestSession(ctx, s.session.Cookie, nil, "192.0.2.1")
			wantCode(t, err, CodeNonce)
		},
		"a renewal that a fact forbids": func() {
			c, req, err := g.challengeFor(door.Renew)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.broker.Grant(ctx, g.request(c, req, ""), "192.0.2.1")
			wantCode(t, err, CodeFreeze)
		},
		"evidence that is refused": func() {
			c, req, err := g.challengeFor(door.Attest)
			if err != nil {
				t.Fatal(err)
			}
			request := g.request(c, req, "")
			request.Evidence.Certificates = nil
			_, err = r.broker.Attest(ctx, request, "192.0.2.1")
			wantCode(t, err, attest.CodeFormat)
		},
		"evidence that is refused while the log stalls": func() {
			c, req, err := g.challengeFor(door.Renew)
			if err != nil {
				t.Fatal(err)
			}
			request := g.request(c, req, "")
			request.Evidence.Certificates = nil
			log := r.broker.Log
			r.broker.Log = &brokenLog{Log: log, wait: errors.New("no checkpoint")}
			if _, err = r.broker.Grant(ctx, request, "192.0.2.1"); !errors.Is(err, ErrBusy) {
				t.Error(err)
			}
			r.broker.Log = log
		},
		"a token too many, of /kbs/v0": func() {
			spendTokens()
			_, err := s.attest()
			wantCode(t, err, CodeRate)
		},
		"a token too many": func() {
			spendTokens()
			c, req, err := g.challengeFor(door.Attest)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.broker.Attest(ctx, g.request(c, req, ""), "192.0.2.1")
			wantCode(t, err, CodeRate)
		},
	} {
		if got := spent(do); got != 1 {
			t.Errorf("%s costs the peer %v", name, got)
		}
	}
	r.exec(`DELETE FROM freeze_order`)
	if got := spent(func() {
		if _, err := s.secret(who, "default/token/one"); err != nil {
			t.Error(err)
		}
	}); got != 0 {
		t.Errorf("a secret that is given costs the peer %v", got)
	}
	if _, err := s.secret(Bearer{Cookie: who.Cookie, Token: token + "x"}, "default/token/one"); !errors.Is(err, ErrNoSession) {
		t.Errorf("a bad token beside a good cookie: %v", err)
	}
	// Only the header's record is acknowledged with a signature.
	for i, stage := range []door.Stage{door.Ready, door.Formatted} {
		e := door.Event{Seq: 20 + i, Stage: stage}
		if stage == door.Formatted {
			e.HeaderHash = testHeader
		}
		var lease string
		if err := r.db.QueryRow(ctx, `SELECT id FROM broker_lease`).Scan(&lease); err != nil {
			t.Fatal(err)
		}
		door.SignEvent(g.sign, lease, &e)
		if a, err := r.broker.Event(ctx, lease, e, "p"); err != nil || a.Seq != e.Seq || (len(a.Signature) > 0) != (stage == door.Formatted) {
			t.Errorf("%s: %+v, %v", stage, a, err)
		}
	}
}

// refusingPolicies cannot meet anything.
type refusingPolicies struct{ Policies }

var errNoPolicy = errors.New("no policy could meet them all")

func (refusingPolicies) Narrow(context.Context, pgx.Tx, string, string, attest.Policy) (attest.Policy, error) {
	return attest.Policy{}, errNoPolicy
}

func (refusingPolicies) Raise(context.Context, [32]byte, attest.Policy) (attest.Policy, error) {
	return attest.Policy{}, errNoPolicy
}

// emptyingPolicies narrow to nothing, or to report data.
type emptyingPolicies struct {
	Policies
	to attest.Policy
}

func (p emptyingPolicies) Narrow(context.Context, pgx.Tx, string, string, attest.Policy) (attest.Policy, error) {
	return p.to, nil
}

func TestFloorsAndDocumentsThatRefuse(t *testing.T) {
	ctx := context.Background()
	b := &Broker{raises: newBounded[raisedKey, raised](4)}
	asked := plainPlatform{}.policy()
	a := &attempt{armed: asked.Hash()}
	if got, err := b.raise(ctx, a, asked); err != nil || got.Hash() != asked.Hash() || a.policyHash != a.armed || a.policyBody != nil {
		t.Errorf("no floor: %v", err)
	}
	a.floor = make([]byte, 32)
	if got, err := b.raise(ctx, a, asked); err == nil || len(got.Measurements) != 0 {
		t.Errorf("a floor that this process cannot read: %v", err)
	}
	b.Policies = refusingPolicies{}
	for _, size := range []int{31, 33} {
		a.floor = make([]byte, size)
		if _, err := b.raise(ctx, a, asked); err == nil || errors.Is(err, errNoPolicy) {
			t.Errorf("a floor's digest of %d bytes: %v", size, err)
		}
	}
	a.floor = make([]byte, 32)
	if got, err := b.raise(ctx, a, asked); !errors.Is(err, errNoPolicy) || len(got.Measurements) != 0 {
		t.Errorf("a floor that refuses: %v", err)
	}
	if _, err := b.narrow(ctx, nil, Arm{Policy: asked}); !errors.Is(err, errNoPolicy) {
		t.Errorf("documents that refuse: %v", err)
	}
	withData, noChip := asked, asked
	withData.ReportData[0], noChip.Chips = 1, nil
	for name, to := range map[string]attest.Policy{"nothing": {}, "report data": withData, "no machine": noChip} {
		b.Policies = emptyingPolicies{to: to}
		if got, err := b.narrow(ctx, nil, Arm{Policy: asked}); !errors.Is(err, ErrDocuments) || len(got.Measurements) != 0 {
			t.Errorf("documents that leave %s: %v", name, err)
		}
	}
	b.Policies = nil
	if got, err := b.narrow(ctx, nil, Arm{Policy: asked}); err != nil || got.Hash() != asked.Hash() {
		t.Errorf("no documents: %v", err)
	}
}

// TestBeyondTheRateIsCounted: refusals that somebody can cause at will leave rows up to a rate, and a count beyond it.
func TestBeyondTheRateIsCounted(t *testing.T) {
	r := newSessionRig(t)
	ctx := context.Background()
	g, lease, _ := r.ready(testWorkspace)
	for range recordBurst {
		r.broker.limits.record(testWorkspace, unproved)
		r.broker.limits.record(testWorkspace, proved)
	}
	rows := func() int {
		return r.count(`SELECT (SELECT count(*) FROM audit_entry) + (SELECT count(*) FROM audit_inbox) + (SELECT count(*) FROM broker_decision)`)
	}
	before := rows()
	_, err := g.event(lease.Lease.ID, 1, door.Ready, "") // a number of before
	wantCode(t, err, CodeBinding)
	c, req, err := g.challengeFor(door.Renew)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	request.Evidence.Certificates = nil
	_, err = r.broker.Grant(ctx, request, "p")
	wantCode(t, err, attest.CodeFormat)
	if n := r.count(`SELECT count(*) FROM broker_challenge WHERE id = $1 AND outcome = 'refused'`, c.Challenge); n != 1 {
		t.Error("the challenge is not closed")
	}
	if after := rows(); after != before {
		t.Errorf("%d rows more", after-before)
	}
	if got := r.broker.aggregate.counts; got[CodeBinding] != 1 || got[attest.CodeFormat] != 1 {
		t.Errorf("counted: %v", got)
	}
	_, err = r.broker.Event(ctx, "none", door.Event{Seq: 1, Stage: door.Ready}, "p")
	wantCode(t, err, CodeLease)
	other := *g
	other.sign = r.boot(testWorkspace, 1).sign
	_, err = other.event(lease.Lease.ID, 99, door.Ready, "")
	wantCode(t, err, CodeBinding)
	if got := r.broker.aggregate.counts; got[CodeLease] != 1 || got[CodeBinding] != 2 {
		t.Errorf("counted: %v", got)
	}
}
