package policy

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/floor"
	"github.com/eosc-siesta/siestad/internal/permit"
)

var site = Scope{"site", "ifca"}

// document is a policy that says nothing but what change says.
func document(change func(*attest.Policy)) attest.Policy {
	p := attest.Policy{Revocation: attest.RevocationNotJudged}
	change(&p)
	return p
}

func (r rig) stricter() attest.Policy {
	return document(func(p *attest.Policy) {
		level := r.site.MinTCB[attest.Genoa]
		level.Microcode++
		p.MinTCB = map[string]attest.TCB{attest.Genoa: level}
	})
}

func TestTwoPeopleActivate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v, err := r.create(site, r.stricter())
	if err != nil || v.State != "draft" || v.Version != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	_, err = r.move(r.Activate, carlo, v.ID)
	wantError(t, err, ErrState)
	if _, err = r.move(r.Propose, carlo, v.ID); err != nil {
		t.Fatal(err)
	}
	_, err = r.move(r.Activate, carla, v.ID) // wrote it
	wantError(t, err, ErrSamePerson)
	_, err = r.move(r.Activate, carlo, v.ID) // proposed it
	wantError(t, err, ErrSamePerson)
	if asked, err := r.narrow(r.asked()); err != nil || !cmp.Equal(asked, r.asked()) {
		t.Fatalf("a proposal is in force: %v", err)
	}
	third := carla
	third.Subject = "https://id.test|chris"
	if v, err = r.move(r.Activate, third, v.ID); err != nil || v.State != "active" {
		t.Fatalf("%+v, %v", v, err)
	}
	// The database holds it, too, whatever the code does.
	if _, err := r.DB.Exec(context.Background(), `UPDATE policy_version SET activated_by = proposed_by`); err == nil {
		t.Error("the database lets one person do both")
	}
	var n int
	if err := r.DB.QueryRow(context.Background(), `SELECT count(*) FROM audit_inbox`).Scan(&n); err != nil || n != 3 {
		t.Errorf("%d entries, %v", n, err)
	}
}

func TestEndTakesTwoPeople(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.inForce(site, r.stricter())
	v, err := r.move(r.Retire, carla, first.ID)
	if err != nil || v.State != "active" || v.RetiringBy == nil {
		t.Fatalf("one person ended it: %+v, %v", v, err)
	}
	_, err = r.move(r.Retire, carla, first.ID)
	wantError(t, err, ErrSamePerson)
	if v, err = r.move(r.Retire, carlo, first.ID); err != nil || v.State != "retired" {
		t.Fatalf("%+v, %v", v, err)
	}
	_, err = r.move(r.Propose, carla, first.ID)
	wantError(t, err, ErrState)

	// A version that was written before the one in force never comes back over it.
	older, err := r.create(site, r.stricter())
	if err != nil {
		t.Fatal(err)
	}
	second := r.inForce(site, r.stricter())
	if _, err := r.move(r.Propose, carla, older.ID); err != nil {
		t.Fatal(err)
	}
	_, err = r.move(r.Activate, carlo, older.ID)
	wantError(t, err, ErrState)
	third := r.inForce(site, r.stricter())
	if v, err := r.Get(context.Background(), second.ID); err != nil || v.State != "retired" || *v.SupersededBy != third.ID {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestDocumentsOnlyNarrow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, row := range map[string]struct {
		scope Scope
		doc   attest.Policy
		want  error
	}{
		"lower floor": {site, document(func(p *attest.Policy) {
			level := r.site.MinTCB[attest.Genoa]
			level.Microcode--
			p.MinTCB = map[string]attest.TCB{attest.Genoa: level}
			p.Products = []string{attest.Genoa}
		}), ErrWider},
		"lower floor, project's": {Scope{"project", "study"}, document(func(p *attest.Policy) { p.MinTCB = map[string]attest.TCB{attest.Genoa: {}} }), ErrWider},
		"another product": {site, document(func(p *attest.Policy) {
			p.Products = []string{attest.Milan}
			p.MinTCB = map[string]attest.TCB{attest.Milan: {}}
		}), ErrWider},
		"another chip":         {site, document(func(p *attest.Policy) { p.Chips = [][]byte{make([]byte, 64)} }), ErrWider},
		"another guest policy": {site, document(func(p *attest.Policy) { p.RequirePolicy = 0xb0000 }), ErrWider},
		"a provider's key":     {site, document(func(p *attest.Policy) { p.VLEKProvider = "aws" }), ErrWider},
		"TDX where there is none": {site, document(func(p *attest.Policy) {
			tdx := attest.NovaTDXPolicy()
			p.TDX = &tdx
		}), ErrWider},
		"simulated":       {site, document(func(p *attest.Policy) { p.Simulated = true }), ErrInvalid},
		"unknown site":    {Scope{"site", "nowhere"}, r.stricter(), ErrInvalid},
		"unknown project": {Scope{"project", "nowhere"}, r.stricter(), ErrInvalid},
		"no such scope":   {Scope{"person", "study"}, r.stricter(), ErrInvalid},
	} {
		_, err := r.create(row.scope, row.doc)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		t.Run(name, func(t *testing.T) { wantError(t, err, row.want) })
	}
	err := r.tx(func(tx pgx.Tx) error {
		_, _, err := r.Create(context.Background(), tx, carla, site, []byte(`{"version":1,"products":[],"any":true}`), "x")
		return err
	})
	wantError(t, err, ErrInvalid)
}

func TestArmingUnderDocuments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.inForce(site, r.stricter())
	r.inForce(Scope{"project", "study"}, document(func(p *attest.Policy) {
		p.Chips = [][]byte{other}
		p.RequireAliasCheck = true
		p.Platform.SMT = attest.Barred
		p.Revocation = attest.RevocationRequired
	}))
	got, err := r.narrow(r.asked())
	if err != nil {
		t.Fatal(err)
	}
	want := r.asked()
	want.Chips = [][]byte{other}
	want.MinTCB = r.stricter().MinTCB
	want.RequireAliasCheck, want.Platform.SMT, want.Revocation = true, attest.Barred, attest.RevocationRequired
	if diff := cmp.Diff(string(want.Canonical()), string(got.Canonical())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := got.Narrows(r.asked()); err != nil {
		t.Error(err)
	}
	// Elsewhere the project's document does not count.
	if err := r.tx(func(tx pgx.Tx) error {
		p, err := r.Narrow(context.Background(), tx, "ifca", "another", r.asked())
		if err == nil && len(p.Chips) != 2 {
			t.Error("narrowed by another project's document")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestPolicyTest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.decided("ws1")
	for name, row := range map[string]struct {
		doc         attest.Policy
		code, check string
	}{
		"the same":    {document(func(*attest.Policy) {}), "", ""},
		"microcode":   {r.stricter(), attest.CodeTCB, "reported TCB"},
		"other chip":  {document(func(p *attest.Policy) { p.Chips = [][]byte{other} }), attest.CodeChip, "registered chip"},
		"needs lists": {document(func(p *attest.Policy) { p.Revocation = attest.RevocationRequired }), attest.CodeCollateral, "revocation list"},
	} {
		v, err := r.create(site, row.doc)
		if err != nil {
			t.Fatal(err)
		}
		report, err := r.Test(context.Background(), v.ID, judge.AddDate(0, 0, -30), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if report.Judged != 1 || report.NotReplayable != 0 {
			t.Fatalf("%s: %+v", name, report)
		}
		if row.code == "" {
			if len(report.Changes) != 0 {
				t.Errorf("%s: %+v", name, report.Changes)
			}
			continue
		}
		if len(report.Changes) != 1 {
			t.Fatalf("%s: %d changes", name, len(report.Changes))
		}
		c := report.Changes[0]
		if c.Decision != id || c.Was != attest.Accepted || c.Becomes != attest.Refused || c.Code != row.code || c.Check != row.check {
			t.Errorf("%s: %+v", name, c)
		}
	}
	v, err := r.create(site, r.stricter())
	if err != nil {
		t.Fatal(err)
	}
	if report, err := r.Test(context.Background(), v.ID, judge.Add(time.Second), time.Time{}); err != nil || report.Judged != 0 {
		t.Errorf("outside the period: %+v, %v", report, err)
	}
	// A decision without evidence is counted, where it is of the scope and the period, and not judged.
	r.decided("ws2")
	r.exec(`UPDATE broker_decision SET report = NULL WHERE workspace = 'ws2'`)
	for since, bare := range map[time.Time]int{judge.AddDate(0, 0, -1): 1, judge.Add(time.Second): 0} {
		if report, err := r.Test(context.Background(), v.ID, since, time.Time{}); err != nil || report.Bare != bare || report.Judged != bare || report.NotReplayable != 0 {
			t.Errorf("since %s: %+v, %v", since, report, err)
		}
	}
	r.exec(`UPDATE broker_volume SET site = 'elsewhere' WHERE workspace = 'ws2'`)
	if report, err := r.Test(context.Background(), v.ID, judge.AddDate(0, 0, -1), time.Time{}); err != nil || report.Bare != 0 {
		t.Errorf("of another site: %+v, %v", report, err)
	}
	// Without its policy a decision cannot be taken again, and is counted.
	r.exec(`UPDATE broker_decision SET policy = NULL`)
	if report, err := r.Test(context.Background(), v.ID, judge.AddDate(0, 0, -1), time.Time{}); err != nil || report.NotReplayable != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestBundleReplaysOffline(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, err := r.Archive.Bundle(context.Background(), r.decided("ws1"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := b.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var again attest.Bundle
	if err := again.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	if d, err := again.Replay(); err != nil || d.Outcome != attest.Accepted {
		t.Fatalf("%s, %v", d.Outcome, err)
	}
	again.Decision.Outcome = attest.Refused
	if _, err := again.Replay(); err == nil {
		t.Error("a decision that was altered replays")
	}
}

func signedFile(t *testing.T, key ed25519.PrivateKey, payload string) []byte {
	t.Helper()
	body, err := floor.Sign([]byte(payload), key)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// A release that was judged under the floor before must commit before the new one is in force.
func TestFloorWaitsForReleases(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := context.Background()
	release, err := r.DB.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release.Rollback(ctx) }()
	if _, err := permit.New(r.DB, nil).ReleaseFacts(ctx, release, permit.FactQuery{}); err != nil {
		t.Fatal(err)
	}
	var f Floor
	body := floorFile(t, judge, r.site.MinTCB[attest.Genoa].Microcode)
	if err := r.tx(func(tx pgx.Tx) error { f, _, err = r.ProposeFloor(ctx, tx, carla, body); return err }); err != nil {
		t.Fatal(err)
	}
	err = r.tx(func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '50ms'`); err != nil {
			return err
		}
		_, _, err := r.ActivateFloor(ctx, tx, carlo, f.ID)
		return err
	})
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "55P03" /* lock_not_available */ {
		t.Errorf("a floor came into force beside a release: %v", err)
	}
	if err := release.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.tx(func(tx pgx.Tx) error { _, _, err := r.ActivateFloor(ctx, tx, carlo, f.ID); return err }); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// afterAnother runs second in a transaction that waits for that of first.
func (r rig) afterAnother(first, second func(tx pgx.Tx) error) (err error) {
	r.t.Helper()
	ctx := context.Background()
	result := make(chan error, 1)
	if err := r.tx(func(tx pgx.Tx) error {
		if err := first(tx); err != nil {
			return err
		}
		go func() { result <- r.tx(second) }()
		for waiting := 0; waiting == 0; {
			select {
			case err := <-result:
				return fmt.Errorf("the second did not wait for the first: %w", err)
			default:
			}
			if err := r.DB.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&waiting); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return <-result
}

// Two people put two files into force at once: whichever commits last, floors never go back.
func TestFloorsNeverGoBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := context.Background()
	level := r.site.MinTCB[attest.Genoa].Microcode
	propose := func(body []byte) (f Floor) {
		t.Helper()
		if err := r.tx(func(tx pgx.Tx) (err error) { f, _, err = r.ProposeFloor(ctx, tx, carla, body); return err }); err != nil {
			t.Fatal(err)
		}
		return f
	}
	older, newest := propose(floorFile(t, judge, level)), propose(floorFile(t, judge.Add(time.Hour), level+1))
	activate := func(id string) func(tx pgx.Tx) error {
		return func(tx pgx.Tx) error { _, _, err := r.ActivateFloor(ctx, tx, carlo, id); return err }
	}
	wantError(t, r.afterAnother(activate(newest.ID), activate(older.ID)), ErrState)
	if f, err := r.Floor(ctx, newest.ID); err != nil || f.State != "active" {
		t.Errorf("%s, %v", f.State, err)
	}
	body := floorFile(t, judge.Add(2*time.Hour), level+2)
	again := func(tx pgx.Tx) error { _, _, err := r.ProposeFloor(ctx, tx, carla, body); return err }
	wantError(t, r.afterAnother(again, again), ErrState) // the very same file
}

func TestPoliciesNeverGoBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := context.Background()
	proposed := func() Version {
		t.Helper()
		v, err := r.create(Scope{"site", "ifca"}, r.site)
		if err == nil {
			v, err = r.move(r.Propose, carla, v.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	older, newest := proposed(), proposed()
	activate := func(id string) func(tx pgx.Tx) error {
		return func(tx pgx.Tx) error { _, _, err := r.Activate(ctx, tx, carlo, id); return err }
	}
	wantError(t, r.afterAnother(activate(newest.ID), activate(older.ID)), ErrState)
}

func TestFloor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.decided("ws1")
	ctx := context.Background()
	level := r.site.MinTCB[attest.Genoa].Microcode
	low, high := floorFile(t, judge, level), floorFile(t, judge.Add(time.Hour), level+1)

	report, err := r.CheckFloor(ctx, low)
	if err != nil || report.Judged != 1 || len(report.Failing) != 0 || len(report.Hosts) != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	report, err = r.CheckFloor(ctx, high)
	if err != nil || len(report.Failing) != 1 || len(report.Hosts) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	f := report.Failing[0]
	if f.Workspace != "ws1" || f.Lease != "lease-of-ws1" || f.Host != "node-1" || f.Code != attest.CodeTCB || !slices.Equal(f.Advisories, []string{"AMD-SB-3019"}) {
		t.Errorf("%+v", f)
	}

	propose := func(body []byte) (f Floor, err error) {
		err = r.tx(func(tx pgx.Tx) error { f, _, err = r.ProposeFloor(ctx, tx, carla, body); return err })
		return f, err
	}
	activate := func(id string) error {
		return r.tx(func(tx pgx.Tx) error { _, _, err := r.ActivateFloor(ctx, tx, carlo, id); return err })
	}
	stored, err := propose(high)
	if err != nil {
		t.Fatal(err)
	}
	err = r.tx(func(tx pgx.Tx) error { _, _, err := r.ActivateFloor(ctx, tx, carla, stored.ID); return err })
	wantError(t, err, ErrSamePerson)
	older, err := propose(low)
	if err != nil {
		t.Fatal(err)
	}
	if err := activate(stored.ID); err != nil {
		t.Fatal(err)
	}
	wantError(t, activate(older.ID), ErrState) // issued before the one in force
	_, err = propose(floorFile(t, judge.Add(-time.Hour), 255))
	wantError(t, err, ErrState)

	raised, err := r.Raise(ctx, [32]byte(stored.SHA256), r.asked())
	if err != nil || raised.MinTCB[attest.Genoa].Microcode != level+1 || raised.MinTCB[attest.Genoa].SNP != r.site.MinTCB[attest.Genoa].SNP {
		t.Errorf("%+v, %v", raised.MinTCB, err)
	}
	if _, err := r.Raise(ctx, [32]byte{1}, r.asked()); err == nil {
		t.Error("a floor that nobody has is applied")
	}
	_, stranger, _ := ed25519.GenerateKey(nil)
	_, err = propose(signedFile(t, stranger,
		`{"version":1,"issued":"2027-01-01T00:00:00Z","advisories":[{"id":"AMD-SB-3019","date":"2027-01-01","products":[{"product":"Genoa","min_tcb":{"microcode":1}}]}]}`))
	wantError(t, err, floor.ErrInvalid)
}
