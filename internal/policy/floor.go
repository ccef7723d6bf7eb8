package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/floor"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// Floor is one stored floor file.
type Floor struct {
	ID          string
	SHA256      []byte
	Body        []byte
	Issued      time.Time
	State       string // proposed, active, retired
	ProposedBy  string
	ActivatedBy *string
	CreatedAt   time.Time
}

const floorColumns = `id, sha256, body, issued, state, proposed_by, activated_by, created_at`

// ProposeFloor stores a signed floor file, which somebody else may then put into force.
func (s *Service) ProposeFloor(ctx context.Context, tx pgx.Tx, who audit.Actor, body []byte) (Floor, audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("proposing a floor file: %w", err) }
	file, err := floor.Verify(body, s.FloorKeys)
	if err != nil {
		return Floor{}, 0, doing(err)
	}
	if err := newer(ctx, tx, file.Issued); err != nil {
		return Floor{}, 0, doing(err)
	}
	hash := sha256.Sum256(body)
	f, err := oneFloor(ctx, tx, `INSERT INTO security_floor (id, sha256, body, issued, state, proposed_by)
		VALUES ($1, $2, $3, $4, 'proposed', $5) ON CONFLICT (sha256) DO NOTHING RETURNING `+floorColumns, newID(), hash[:], body, file.Issued, who.Subject)
	if errors.Is(err, ErrNotFound) {
		return Floor{}, 0, doing(fmt.Errorf("%w: this very file is here already: activate that one", ErrState))
	}
	if err != nil {
		return Floor{}, 0, doing(err)
	}
	return s.recordFloor(ctx, tx, who, "floor.propose", f, file)
}

// newer refuses a file that was not issued after the one in force.
func newer(ctx context.Context, tx pgx.Tx, issued time.Time) error {
	var before *time.Time
	if err := tx.QueryRow(ctx, `SELECT max(issued) FROM security_floor WHERE state = 'active'`).Scan(&before); err != nil {
		return fmt.Errorf("reading the floor in force: %w", err)
	}
	if before != nil && !issued.After(*before) {
		return fmt.Errorf("%w: the floor in force was issued on %s, and this one is not newer", ErrState, before.UTC().Format(time.RFC3339))
	}
	return nil
}

// ActivateFloor puts a proposed file into force in the place of the one before it. From the commit on every release and
// renewal is judged under it. Whoever proposed it gets ErrSamePerson.
func (s *Service) ActivateFloor(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Floor, audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("activating floor %s: %w", id, err) }
	f, err := oneFloor(ctx, tx, `SELECT `+floorColumns+` FROM security_floor WHERE id = $1 FOR UPDATE`, id)
	switch {
	case err != nil:
		return Floor{}, 0, doing(err)
	case who.Subject == "" || f.ProposedBy == who.Subject:
		return Floor{}, 0, doing(ErrSamePerson)
	case f.State != "proposed":
		return Floor{}, 0, doing(fmt.Errorf("%w: it is %s", ErrState, f.State))
	}
	// Its signature is proved once more, under the keys of today.
	file, err := floor.Verify(f.Body, s.FloorKeys)
	if err != nil {
		return Floor{}, 0, doing(err)
	}
	// A release that was judged under the floor before commits first, or is judged again; so does another activation, and
	// only then is it known which file is in force.
	if err := permit.CloseGate(ctx, tx); err != nil {
		return Floor{}, 0, doing(err)
	}
	if err := newer(ctx, tx, f.Issued); err != nil {
		return Floor{}, 0, doing(err)
	}
	if _, err := tx.Exec(ctx, `UPDATE security_floor SET state = 'retired' WHERE state = 'active'`); err != nil {
		return Floor{}, 0, doing(err)
	}
	f, err = oneFloor(ctx, tx, `UPDATE security_floor SET state = 'active', activated_by = $2 WHERE id = $1 AND state = 'proposed' RETURNING `+floorColumns, id, who.Subject)
	if err != nil {
		return Floor{}, 0, doing(err)
	}
	return s.recordFloor(ctx, tx, who, "floor.activate", f, file)
}

func (s *Service) recordFloor(ctx context.Context, tx pgx.Tx, who audit.Actor, action string, f Floor, file floor.File) (Floor, audit.ID, error) {
	id, err := s.Audit.Append(ctx, tx, audit.Entry{
		Actor: who, Action: action, Object: "floor/" + f.ID, Outcome: audit.Success,
		Details: map[string]any{"sha256": fmt.Sprintf("%x", f.SHA256), "issued": f.Issued.UTC().Format(time.RFC3339), "advisories": len(file.Advisories)},
	})
	if err != nil {
		return Floor{}, 0, fmt.Errorf("recording what became of floor %s: %w", f.ID, err)
	}
	return f, id, nil
}

// Floor returns one floor file.
func (s *Service) Floor(ctx context.Context, id string) (Floor, error) {
	f, err := oneFloor(ctx, s.DB, `SELECT `+floorColumns+` FROM security_floor WHERE id = $1`, id)
	if err != nil {
		return Floor{}, fmt.Errorf("reading floor %s: %w", id, err)
	}
	return f, nil
}

// Floors lists floor files, newest first, older ones than before.
func (s *Service) Floors(ctx context.Context, before string, limit int) ([]Floor, error) {
	rows, err := s.DB.Query(ctx, `SELECT `+floorColumns+` FROM security_floor WHERE $1 = '' OR id < $1 ORDER BY id DESC LIMIT $2`, before, limit)
	if err != nil {
		return nil, fmt.Errorf("listing floors: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Floor])
	if err != nil {
		return nil, fmt.Errorf("listing floors: %w", err)
	}
	return list, nil
}

func oneFloor(ctx context.Context, db querier, sql string, args ...any) (Floor, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Floor{}, err
	}
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Floor])
	if errors.Is(err, pgx.ErrNoRows) {
		return Floor{}, ErrNotFound
	}
	return f, err
}

// floorCache keeps the files that are read with every release. They are named by their digest and never change.
type floorCache struct {
	mu    sync.Mutex
	files map[[32]byte]floor.File
}

// Raise returns p with its floors raised to those of the file of this digest.
func (s *Service) Raise(ctx context.Context, digest [32]byte, p attest.Policy) (attest.Policy, error) {
	file, err := s.file(ctx, digest)
	if err != nil {
		return attest.Policy{}, err
	}
	return raise(file, p)
}

func (s *Service) file(ctx context.Context, digest [32]byte) (floor.File, error) {
	s.floors.mu.Lock()
	file, ok := s.floors.files[digest]
	s.floors.mu.Unlock()
	if ok {
		return file, nil
	}
	var body []byte
	if err := s.DB.QueryRow(ctx, `SELECT body FROM security_floor WHERE sha256 = $1`, digest[:]).Scan(&body); err != nil {
		return floor.File{}, fmt.Errorf("reading floor %x: %w", digest[:8], err)
	}
	if sha256.Sum256(body) != digest {
		return floor.File{}, fmt.Errorf("reading floor %x: the stored bytes are of another file", digest[:8])
	}
	file, err := floor.ReadUnverified(body)
	if err != nil {
		return floor.File{}, fmt.Errorf("reading floor %x: %w", digest[:8], err)
	}
	s.floors.mu.Lock()
	defer s.floors.mu.Unlock()
	if s.floors.files == nil || len(s.floors.files) > 16 {
		s.floors.files = map[[32]byte]floor.File{}
	}
	s.floors.files[digest] = file
	return file, nil
}

// raise joins a file with a policy. The result is proved to be narrower.
func raise(file floor.File, p attest.Policy) (attest.Policy, error) {
	out := p
	out.MinTCB = maps.Clone(p.MinTCB)
	for product, level := range p.MinTCB {
		out.MinTCB[product], _ = file.MinTCB(product, level)
	}
	out.TDX = raiseTDX(file, p.TDX)
	if err := out.Narrows(p); err != nil {
		return attest.Policy{}, fmt.Errorf("%w: %w", ErrWider, err)
	}
	return out, nil
}
