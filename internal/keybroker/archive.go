package keybroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Archive reads the decisions that the broker has taken. It changes nothing.
type Archive struct {
	db    *pgxpool.Pool
	roots *attest.Roots
}

// NewArchive returns the archive of a migrated database. roots are the vendors' anchors of this build, under which a past
// decision is judged again; nil refuses that, and nothing else.
func NewArchive(db *pgxpool.Pool, roots *attest.Roots) *Archive {
	return &Archive{db: db, roots: roots}
}

// Judged is a decision as it was written.
type Judged struct {
	ID         string
	Workspace  string
	Project    string
	Site       string
	Generation int
	Purpose    string
	Outcome    string // released, renewed, or refused
	Code       string
	TEE        string
	At         time.Time
	Lease      *string
	Evidence   []byte // digest of the report
	Policy     []byte
	Collateral []byte
	ReportData []byte
	Checks     []attest.Check // of Decision alone
}

// DecisionFilter narrows a list; zero fields do not.
type DecisionFilter struct {
	Workspace, Code, Outcome string
	Since, Until             time.Time
	Before                   string // id: older ones than this
	Limit                    int
}

const judgedColumns = `d.id, d.workspace, coalesce(v.project, ''), coalesce(v.site, ''), d.generation, d.purpose, d.outcome, d.code, d.tee, d.judged_at,
	d.lease, d.report, d.policy, d.collateral, d.report_data`

func scanJudged(row pgx.CollectableRow) (j Judged, err error) {
	err = row.Scan(&j.ID, &j.Workspace, &j.Project, &j.Site, &j.Generation, &j.Purpose, &j.Outcome, &j.Code, &j.TEE, &j.At,
		&j.Lease, &j.Evidence, &j.Policy, &j.Collateral, &j.ReportData)
	return j, err
}

// Decisions lists decisions, newest first, without their checks.
func (a *Archive) Decisions(ctx context.Context, f DecisionFilter) ([]Judged, error) {
	rows, err := a.db.Query(ctx, `SELECT `+judgedColumns+` FROM broker_decision d LEFT JOIN broker_volume v USING (workspace)
		WHERE ($1 = '' OR d.workspace = $1) AND ($2 = '' OR d.code = $2) AND ($3 = '' OR d.outcome = $3)
		  AND ($4::timestamptz IS NULL OR d.judged_at >= $4) AND ($5::timestamptz IS NULL OR d.judged_at < $5) AND ($6 = '' OR d.id < $6)
		ORDER BY d.id DESC LIMIT $7`,
		f.Workspace, f.Code, f.Outcome, nullTime(f.Since), nullTime(f.Until), f.Before, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("listing decisions: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanJudged)
	if err != nil {
		return nil, fmt.Errorf("listing decisions: %w", err)
	}
	return list, nil
}

// Decision returns one decision with every check; ErrNotFound.
func (a *Archive) Decision(ctx context.Context, id string) (Judged, error) {
	rows, err := a.db.Query(ctx, `SELECT `+judgedColumns+`, d.checks FROM broker_decision d LEFT JOIN broker_volume v USING (workspace) WHERE d.id = $1`, id)
	if err != nil {
		return Judged{}, fmt.Errorf("reading decision %s: %w", id, err)
	}
	j, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (j Judged, err error) {
		var checks []byte
		if err := row.Scan(&j.ID, &j.Workspace, &j.Project, &j.Site, &j.Generation, &j.Purpose, &j.Outcome, &j.Code, &j.TEE, &j.At,
			&j.Lease, &j.Evidence, &j.Policy, &j.Collateral, &j.ReportData, &checks); err != nil {
			return j, err
		}
		return j, json.Unmarshal(checks, &j.Checks)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Judged{}, fmt.Errorf("reading decision %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Judged{}, fmt.Errorf("reading decision %s: %w", id, err)
	}
	return j, nil
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
