package quarantine

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/audit/audittest"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

const workspace = "01jabcdefghjkmnpqrstvwxyz0"

var (
	chip = strings.Repeat("c5", 64)
	olga = audit.Actor{Kind: audit.Person, Subject: "https://id.test|olga"}
	oz   = audit.Actor{Kind: audit.Person, Subject: "https://id.test|oz"}
)

type rig struct {
	t *testing.T
	*Service
	permits *permit.Service
}

// newRig has one guest that holds a lease.
func newRig(t *testing.T) rig {
	t.Helper()
	db := pgtest.New(t)
	for _, sql := range []string{
		`INSERT INTO broker_blob (sha256, body) VALUES (decode(repeat('00', 32), 'hex'), '')`,
		`INSERT INTO broker_volume (workspace, project, site, secret_name, state) VALUES ('` + workspace + `', 'study', 'ifca', 'k', 'open')`,
		`INSERT INTO broker_arm (workspace, generation, epoch, state, dataset, owner, image, volume_id, volume_serial, policy, report_id)
			SELECT workspace, 1, 1, 'released', 'cohort', 'ann', 'img', 'v', 'v', sha256, sha256 FROM broker_volume, broker_blob`,
		`INSERT INTO broker_lease (id, workspace, generation, epoch, volume_id, report_id, signing_key, chip, product, state, mode, until, renew_after, stage, challenge, request, entry)
			SELECT 'lease', workspace, 1, 1, 'v', policy, policy, '` + chip + `', 'Genoa', 'live', 'open', '2999-01-01', '2999-01-01', 'ready', 'c', policy, 1 FROM broker_arm`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	permits := permit.New(db, audittest.Recorder(t), permit.Site{Name: "ifca", Chips: []string{chip}})
	return rig{t, New(db, audittest.Recorder(t), permits, nil), permits}
}

func (r rig) tx(fn func(context.Context, pgx.Tx) error) {
	r.t.Helper()
	if err := postgres.InTx(r.t.Context(), r.db, func(tx pgx.Tx) error { return fn(r.t.Context(), tx) }); err != nil {
		r.t.Fatal(err)
	}
}

// However a chip is written, the lease that it holds is found and ended.
func TestChipInCapitalsIsFound(t *testing.T) {
	r := newRig(t)
	r.tx(func(ctx context.Context, tx pgx.Tx) error {
		q, _, err := r.Place(ctx, tx, olga, "chip", strings.ToUpper(chip), "incident")
		if err == nil && (q.Value != chip || len(q.Hits) != 1 || q.Hits[0].Lease != "lease") {
			t.Errorf("%+v", q)
		}
		return err
	})
	var live int
	if err := r.db.QueryRow(t.Context(), `SELECT count(*) FROM broker_lease WHERE state = 'live'`).Scan(&live); err != nil || live != 0 {
		t.Errorf("%d leases live on, %v", live, err)
	}
}

// A lift sees what its own transaction sees, and takes no second connection while it holds locks on the first.
func TestLiftReadsInItsTransaction(t *testing.T) {
	r := newRig(t)
	r.tx(func(ctx context.Context, tx pgx.Tx) error {
		placed, _, err := r.Place(ctx, tx, olga, "product", "Genoa", "incident")
		if err != nil {
			return err
		}
		if _, _, err := r.permits.Lift(ctx, tx, oz, placed.ID); !errors.Is(err, permit.ErrState) {
			t.Errorf("a quarantine lifted as a freeze: %v", err)
		}
		lifted, _, err := r.Lift(ctx, tx, oz, placed.ID)
		if err == nil && (lifted.State != "lifted" || len(lifted.Hits) != 1) {
			t.Errorf("%+v", lifted)
		}
		return err
	})
}
