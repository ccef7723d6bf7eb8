package permit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/audit/audittest"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

var (
	olga  = audit.Actor{Kind: audit.Person, Subject: "https://id.test|olga", Name: "olga"}
	carlo = audit.Actor{Kind: audit.Person, Subject: "https://id.test|carlo", Name: "carlo"}
	rita  = "https://id.test|rita"
	// The far ends of a permit are dates of the database's clock, so tests use dates that are certainly past or future.
	future = time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	past   = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
)

type rig struct {
	t  *testing.T
	db *pgxpool.Pool
	*permit.Service
}

// newRig has one project with rita in it, one dataset of carlo's and an approved image "img".
func newRig(t *testing.T) rig {
	t.Helper()
	db := pgtest.New(t)
	r := rig{t, db, permit.New(db, audittest.Recorder(t),
		permit.Site{Name: "ifca", Hosts: []string{"node-1", "node-2"}, Chips: []string{query.Chip, strings.Repeat("c5", 64)}})}
	r.tx(func(tx pgx.Tx) error {
		_, _, err := r.CreateProject(t.Context(), tx, olga, permit.Project{ID: "flu", Name: "Influenza", ValidUntil: future, Members: []string{rita}})
		return err
	})
	r.tx(func(tx pgx.Tx) error {
		_, _, err := r.CreateDataset(t.Context(), tx, olga, permit.Dataset{ID: "cohort-1", Title: "Cohort", Version: "1", Custodian: carlo.Subject})
		return err
	})
	r.exec(`INSERT INTO blob (sha256, sha512, size) VALUES (decode(repeat('00', 32), 'hex'), decode(repeat('00', 64), 'hex'), 1)`)
	r.exec(`INSERT INTO image (id, name, state, kernel, initrd, firmware, created_by, registered_by, approved_by)
	        SELECT 'img', 'guest', 'approved', sha256, sha256, sha256, 'a', 'a', 'b' FROM blob`)
	r.exec(`INSERT INTO broker_volume (workspace, project, site, secret_name, state) VALUES ('01jabcdefghjkmnpqrstvwxyz0', 'flu', 'ifca', 'k', 'open')`)
	r.exec(`INSERT INTO broker_key (workspace, version, state, epoch, kek, blob_hash) SELECT workspace, 1, 'active', 1, '', decode(repeat('00', 32), 'hex') FROM broker_volume`)
	return r
}

func (r rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

func (r rig) tx(fn func(pgx.Tx) error) {
	r.t.Helper()
	if err := postgres.InTx(r.t.Context(), r.db, fn); err != nil {
		r.t.Fatal(err)
	}
}

func (r rig) grant(until time.Time) permit.Permit {
	r.t.Helper()
	var p permit.Permit
	r.tx(func(tx pgx.Tx) (err error) {
		p, _, err = r.Grant(r.t.Context(), tx, carlo, permit.Permit{Project: "flu", Dataset: "cohort-1", People: []string{rita}, Until: until})
		return err
	})
	return p
}

var query = permit.FactQuery{Workspace: "w", Project: "flu", Dataset: "cohort-1", Person: rita, Image: "img", Site: "ifca", Chip: strings.Repeat("0f", 64), Host: "ifca/node-1", Product: "Milan", Key: "01jabcdefghjkmnpqrstvwxyz0/1"}

func (r rig) facts(q permit.FactQuery) permit.FactSet {
	r.t.Helper()
	var f permit.FactSet
	r.tx(func(tx pgx.Tx) (err error) {
		f, err = r.ReleaseFacts(r.t.Context(), tx, q)
		return err
	})
	return f
}

func TestFactsHoldOnlyWithEverythingInPlace(t *testing.T) {
	r := newRig(t)
	if f := r.facts(query); f.Permit.Holds || f.Permit.Fix == "" {
		t.Errorf("without a permit: %+v", f.Permit)
	}
	r.grant(future)
	if f := r.facts(query); !f.Permit.Holds || !f.Project.Holds || !f.Image.Holds || !f.NoFreeze.Holds {
		t.Fatalf("with everything in place: %+v", f)
	}
	for name, change := range map[string]func(*permit.FactQuery){
		"another person":  func(q *permit.FactQuery) { q.Person = "https://id.test|eve" },
		"another dataset": func(q *permit.FactQuery) { q.Dataset = "cohort-2" },
		"another project": func(q *permit.FactQuery) { q.Project = "other" },
	} {
		q := query
		change(&q)
		if f := r.facts(q); f.Permit.Holds {
			t.Errorf("%s: the permit holds", name)
		}
	}
	var zero permit.FactQuery
	if f := r.facts(zero); f.Permit.Holds || f.Project.Holds || f.Image.Holds {
		t.Errorf("an empty query: %+v", f)
	}
}

func TestFactsFollowTheirRows(t *testing.T) {
	for name, row := range map[string]struct {
		change string
		broken func(permit.FactSet) permit.Fact
	}{
		"permit over":      {`UPDATE permit SET until = '2000-01-01'`, func(f permit.FactSet) permit.Fact { return f.Permit }},
		"project over":     {`UPDATE project SET valid_until = '2000-01-01'`, func(f permit.FactSet) permit.Fact { return f.Project }},
		"person removed":   {`UPDATE project SET members = '{}'`, func(f permit.FactSet) permit.Fact { return f.Project }},
		"project closed":   {`UPDATE project SET state = 'closed'`, func(f permit.FactSet) permit.Fact { return f.Project }},
		"image withdrawn":  {`UPDATE image SET state = 'withdrawn', withdrawn_by = 'b'`, func(f permit.FactSet) permit.Fact { return f.Image }},
		"image registered": {`UPDATE image SET state = 'registered', approved_by = NULL`, func(f permit.FactSet) permit.Fact { return f.Image }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.grant(future)
			r.exec(row.change)
			if f := row.broken(r.facts(query)); f.Holds || f.Why == "" || f.Fix == "" {
				t.Errorf("got %+v, want a fact that does not hold, says why and who can fix it", f)
			}
		})
	}
}

func TestEveryKindOfFreezeStopsAndLifts(t *testing.T) {
	r := newRig(t)
	r.grant(future)
	for kind, value := range map[permit.FreezeKind]string{
		"person": query.Person, "project": query.Project, "dataset": query.Dataset, "image": query.Image, "site": query.Site, "chip": query.Chip,
		"host": query.Host, "product": query.Product, "key": query.Key,
	} {
		var placed permit.Freeze
		r.tx(func(tx pgx.Tx) (err error) {
			placed, _, err = r.Place(t.Context(), tx, carlo, permit.Freeze{Kind: kind, Value: value, Reason: "incident"})
			return err
		})
		if f := r.facts(query); f.NoFreeze.Holds {
			t.Errorf("a freeze of the %s stops nothing", kind)
		}
		r.tx(func(tx pgx.Tx) error {
			_, _, err := r.Lift(t.Context(), tx, carlo, placed.ID)
			return err
		})
		if f := r.facts(query); !f.NoFreeze.Holds {
			t.Errorf("a lifted freeze of the %s still stops: %s", kind, f.NoFreeze.Why)
		}
	}
}

func TestOnlyTheCustodianGrantsAndEnds(t *testing.T) {
	r := newRig(t)
	err := postgres.InTx(t.Context(), r.db, func(tx pgx.Tx) error {
		_, _, err := r.Grant(t.Context(), tx, olga, permit.Permit{Project: "flu", Dataset: "cohort-1", People: []string{rita}, Until: future})
		return err
	})
	if !errors.Is(err, permit.ErrNotCustodian) {
		t.Errorf("somebody else grants: got %v", err)
	}
	p := r.grant(future)
	err = postgres.InTx(t.Context(), r.db, func(tx pgx.Tx) error {
		_, _, err := r.End(t.Context(), tx, olga, p.ID)
		return err
	})
	if !errors.Is(err, permit.ErrNotCustodian) {
		t.Errorf("somebody else ends: got %v", err)
	}
	r.tx(func(tx pgx.Tx) error { _, _, err := r.End(t.Context(), tx, carlo, p.ID); return err })
	if r.facts(query).Permit.Holds {
		t.Error("an ended permit holds")
	}
	err = postgres.InTx(t.Context(), r.db, func(tx pgx.Tx) error { _, _, err := r.End(t.Context(), tx, carlo, p.ID); return err })
	if !errors.Is(err, permit.ErrState) {
		t.Errorf("ending twice: got %v", err)
	}
}

func TestPermitNamesMembersOnly(t *testing.T) {
	r := newRig(t)
	err := postgres.InTx(t.Context(), r.db, func(tx pgx.Tx) error {
		_, _, err := r.Grant(t.Context(), tx, carlo, permit.Permit{Project: "flu", Dataset: "cohort-1", People: []string{"https://id.test|eve"}, Until: future})
		return err
	})
	if !errors.Is(err, permit.ErrInvalid) {
		t.Errorf("a permit for a stranger: got %v", err)
	}
	r.grant(past) // allowed, and worth nothing
	if r.facts(query).Permit.Holds {
		t.Error("a permit of the past holds")
	}
}

// A release that has read its facts makes the end of its permit wait; one that comes after the end sees it.
func TestEndOfPermitAndReleaseAreOrdered(t *testing.T) {
	r := newRig(t)
	p := r.grant(future)
	assertWaits(t, r, func(ctx context.Context, tx pgx.Tx) error {
		_, _, err := r.End(ctx, tx, carlo, p.ID)
		return err
	})
	if r.facts(query).Permit.Holds {
		t.Error("the permit holds after its end has committed")
	}
}

// The project's row is locked with the rest: a member is removed after the release that has seen her, or before it.
func TestRemovalOfAMemberAndReleaseAreOrdered(t *testing.T) {
	r := newRig(t)
	r.grant(future)
	p, err := r.Project(t.Context(), "flu")
	if err != nil {
		t.Fatal(err)
	}
	p.Members = nil
	assertWaits(t, r, func(ctx context.Context, tx pgx.Tx) error {
		_, _, err := r.UpdateProject(ctx, tx, olga, p, p.Version)
		return err
	})
	f := r.facts(query)
	if f.Project.Holds || !f.Permit.Holds {
		t.Errorf("after the removal has committed: %+v", f)
	}
}

// A release may wait between its BEGIN and its facts: what ends meanwhile does not hold.
func TestWhatEndsWhileAReleaseWaits(t *testing.T) {
	r := newRig(t)
	p := r.grant(future)
	release, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release.Rollback(context.WithoutCancel(t.Context())) }()
	r.exec(`UPDATE permit SET until = clock_timestamp() WHERE id = $1`, p.ID)
	r.exec(`UPDATE project SET valid_until = clock_timestamp()`)
	f, err := r.ReleaseFacts(t.Context(), release, query)
	if err != nil || f.Permit.Holds || f.Project.Holds {
		t.Errorf("%+v, %v", f, err)
	}
}

// A freeze inserts a row that no release could have locked: the gate orders the two all the same.
func TestFreezeAndReleaseAreOrdered(t *testing.T) {
	r := newRig(t)
	r.grant(future)
	assertWaits(t, r, func(ctx context.Context, tx pgx.Tx) error {
		_, _, err := r.Place(ctx, tx, carlo, permit.Freeze{Kind: "site", Value: "ifca", Reason: "incident"})
		return err
	})
	if r.facts(query).NoFreeze.Holds {
		t.Error("nothing is frozen after the freeze has committed")
	}
}

// assertWaits holds a releasing transaction open, starts change in another, and sees in the server's own books that
// change waits for a lock; then lets the release commit and change finish.
func assertWaits(t *testing.T, r rig, change func(context.Context, pgx.Tx) error) {
	t.Helper()
	release, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f, err := r.ReleaseFacts(t.Context(), release, query); err != nil || !f.Permit.Holds || !f.NoFreeze.Holds {
		t.Fatalf("before the change: %+v, %v", f, err)
	}
	done := make(chan error, 1)
	go func() {
		done <- postgres.InTx(t.Context(), r.db, func(tx pgx.Tx) error { return change(t.Context(), tx) })
	}()
	for waiting := 0; waiting == 0; {
		select {
		case err := <-done:
			t.Fatalf("the change did not wait for the release under way (%v)", err)
		default:
		}
		err := r.db.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			OR NOT granted AND locktype = 'transactionid'`).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := release.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
