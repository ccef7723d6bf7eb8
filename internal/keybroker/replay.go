package keybroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// ErrNotKept: not everything that a decision rests on is stored, so it cannot be taken again.
var ErrNotKept = errors.New("what the decision rests on is not kept")

// Stored is a verdict with all that it rests on. The broker's own facts are not part of it: they were true or false then.
type Stored struct {
	Judged
	Verdict  attest.Decision
	Evidence attest.Evidence
	// Policy is the one that the verdict was given under, with its report data; Asked is what the workspace had asked for
	// before documents and floors narrowed it.
	Policy, Asked attest.Policy
	Objects       []attest.Object
}

// Collateral is what was at hand.
func (a *Archive) Collateral(s Stored) (attest.Collateral, error) {
	return attest.NewCollateral(a.roots, s.Objects)
}

// Bundle is everything that siesta-verify needs to take a decision again.
func (a *Archive) Bundle(ctx context.Context, id string) (attest.Bundle, error) {
	s, err := a.Load(ctx, id)
	if err != nil {
		return attest.Bundle{}, err
	}
	return attest.Bundle{Decision: s.Verdict, Evidence: s.Evidence, Policy: s.Policy, Collateral: s.Objects, At: s.Verdict.At}, nil
}

// Load reads one decision with what it rests on; ErrNotFound, ErrNotKept.
func (a *Archive) Load(ctx context.Context, id string) (Stored, error) {
	s, err := a.load(ctx, id)
	if err != nil {
		return Stored{}, fmt.Errorf("reading decision %s: %w", id, err)
	}
	return s, nil
}

func (a *Archive) load(ctx context.Context, id string) (Stored, error) {
	var s Stored
	var checks, policy, asked []byte
	rows, err := a.db.Query(ctx, `SELECT `+judgedColumns+`, d.checks, coalesce(r.body, ''), c.body, e.body, coalesce(p.body, ''), coalesce(q.body, p.body, '')
		FROM broker_decision d LEFT JOIN broker_volume v USING (workspace)
		LEFT JOIN broker_arm a ON a.workspace = d.workspace AND a.generation = d.generation
		LEFT JOIN broker_blob r ON r.sha256 = d.report LEFT JOIN broker_blob c ON c.sha256 = d.certificates LEFT JOIN broker_blob e ON e.sha256 = d.event_log
		LEFT JOIN broker_blob p ON p.sha256 = d.policy LEFT JOIN broker_blob q ON q.sha256 = a.asked
		WHERE d.id = $1`, id)
	if err != nil {
		return s, err
	}
	s, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (s Stored, err error) {
		j, ev := &s.Judged, &s.Evidence
		err = row.Scan(&j.ID, &j.Workspace, &j.Project, &j.Site, &j.Generation, &j.Purpose, &j.Outcome, &j.Code, &j.TEE, &j.At,
			&j.Lease, &j.Evidence, &j.Policy, &j.Collateral, &j.ReportData, &checks, &ev.Report, &ev.Certificates, &ev.EventLog, &policy, &asked)
		return s, err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Stored{}, ErrNotFound
	}
	if err != nil {
		return Stored{}, err
	}
	if len(s.Evidence.Report) == 0 || len(policy) == 0 || len(s.ReportData) != 64 || len(s.Collateral) != 32 {
		return Stored{}, ErrNotKept
	}
	s.Evidence.TEE = attest.TEE(s.TEE)
	if err := s.Policy.UnmarshalJSON(policy); err != nil {
		return Stored{}, err
	}
	if err := s.Asked.UnmarshalJSON(asked); err != nil {
		return Stored{}, err
	}
	s.Policy.ReportData = [64]byte(s.ReportData)
	s.Asked.ReportData = s.Policy.ReportData
	if err := json.Unmarshal(checks, &s.Checks); err != nil {
		return Stored{}, err
	}
	if s.Objects, err = a.objects(ctx, s.Collateral); err != nil {
		return Stored{}, err
	}
	s.Verdict = verdictOf(s)
	return s, nil
}

// objects reads the collateral of a digest. Decisions from before objects were kept name one that nothing was stored for.
func (a *Archive) objects(ctx context.Context, digest []byte) ([]attest.Object, error) {
	rows, err := a.db.Query(ctx, `SELECT c.kind, b.body FROM broker_collateral c JOIN broker_blob b ON b.sha256 = c.object
		WHERE c.digest = $1 ORDER BY c.kind, c.object`, digest)
	if err != nil {
		return nil, fmt.Errorf("reading its collateral: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[attest.Object])
	if err != nil {
		return nil, fmt.Errorf("reading its collateral: %w", err)
	}
	if len(list) == 0 && (attest.Collateral{}).Digest() != attest.Digest(digest) {
		return nil, fmt.Errorf("%w: its collateral", ErrNotKept)
	}
	return list, nil
}

// verdictOf is the verifier's part of a decision: what a replay must come to.
func verdictOf(s Stored) attest.Decision {
	d := attest.Decision{
		ID: s.ID, At: s.At.UTC(), TEE: s.Evidence.TEE, Outcome: attest.Accepted, Checks: []attest.Check{}, Objects: []attest.Digest{},
		Evidence: s.Evidence.Digest(), Policy: s.Policy.Hash(), Collateral: attest.Digest(s.Collateral),
	}
	for _, c := range s.Checks {
		if c.Source == fromBroker {
			continue
		}
		d.Checks = append(d.Checks, c)
		if c.Status == attest.Failed && d.Outcome == attest.Accepted {
			d.Outcome, d.Code, d.Check = attest.Refused, c.Code, c.Name
		}
	}
	for _, o := range s.Objects {
		d.Objects = append(d.Objects, o.Digest())
	}
	d.Simulated = d.Outcome == attest.Accepted && s.Policy.Simulated
	return d
}

// fromBroker is the source of the checks that are facts of the broker's, not of the verifier.
const fromBroker = "broker"

// Period says which verdicts to read again. Site and Project narrow it where they are set.
type Period struct {
	Site, Project string
	Since, Until  time.Time
	Limit         int
}

// ofPeriod is where its decisions are.
const ofPeriod = ` FROM broker_decision d JOIN broker_volume v USING (workspace)
	WHERE d.judged_at >= $1 AND d.judged_at < $2 AND ($3 = '' OR v.site = $3) AND ($4 = '' OR v.project = $4)`

// Bare counts the decisions of a period that had no evidence: they were refused before any was judged, and no policy would
// have them come out otherwise.
func (a *Archive) Bare(ctx context.Context, p Period) (n int, err error) {
	err = a.db.QueryRow(ctx, `SELECT count(*)`+ofPeriod+` AND d.report IS NULL`, p.Since, p.Until, p.Site, p.Project).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting decisions without evidence: %w", err)
	}
	return n, nil
}

// In lists the ids of the newest decisions of a period that had evidence; more says that there are others.
func (a *Archive) In(ctx context.Context, p Period) (ids []string, more bool, err error) {
	rows, err := a.db.Query(ctx, `SELECT d.id`+ofPeriod+` AND d.report IS NOT NULL
		ORDER BY d.id DESC LIMIT $5`, p.Since, p.Until, p.Site, p.Project, p.Limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("looking for decisions: %w", err)
	}
	if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return nil, false, fmt.Errorf("looking for decisions: %w", err)
	}
	if len(ids) > p.Limit {
		return ids[:p.Limit], true, nil
	}
	return ids, false, nil
}

// Standing is a guest that is armed, with the newest decision that accepted it, the lease that it holds, if any, and the
// machine that it was last seen on.
type Standing struct {
	Workspace, Project, Site string
	Decision, Lease          string
	Chip, Product            string
}

// Standing lists every guest that a release or a renewal may still come from.
func (a *Archive) Standing(ctx context.Context) ([]Standing, error) {
	rows, err := a.db.Query(ctx, `SELECT a.workspace, v.project, v.site, coalesce(d.id, ''),
			CASE WHEN l.state = 'live' AND l.until > now() THEN l.id ELSE '' END, coalesce(l.chip, ''), coalesce(l.product, '')
		FROM broker_arm a JOIN broker_volume v USING (workspace)
		LEFT JOIN LATERAL (SELECT id FROM broker_decision d WHERE d.workspace = a.workspace AND d.generation = a.generation
			AND d.outcome <> 'refused' ORDER BY d.id DESC LIMIT 1) d ON true
		LEFT JOIN LATERAL (SELECT * FROM broker_lease l WHERE l.workspace = a.workspace AND l.generation = a.generation
			ORDER BY l.id DESC LIMIT 1) l ON true
		WHERE a.state <> 'disarmed' AND v.state = 'open' ORDER BY a.workspace`)
	if err != nil {
		return nil, fmt.Errorf("listing the armed guests: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Standing])
	if err != nil {
		return nil, fmt.Errorf("listing the armed guests: %w", err)
	}
	return list, nil
}
