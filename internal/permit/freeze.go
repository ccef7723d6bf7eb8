package permit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// FreezeKind says what a freeze names.
type FreezeKind string

// FreezeKinds are all things that can be frozen. A chip's value is its whole id in lower-case hex, a host's is site/name, a
// product's is the name under which evidence comes, a key's is workspace/version.
var FreezeKinds = []FreezeKind{"person", "project", "dataset", "image", "site", "chip", "host", "product", "key"}

// QuarantineKinds are what can be quarantined: the machinery, not people or what they work on.
var QuarantineKinds = []FreezeKind{"chip", "host", "image", "key", "product"}

// Freeze stops every key release, and at the next renewal every lease, that touches what it names.
type Freeze struct {
	ID        string
	Kind      FreezeKind
	Value     string
	Reason    string
	State     string // live or lifted
	PlacedBy  string
	LiftedBy  *string
	CreatedAt time.Time
	// Quarantine: it ended the leases that it found, and another person than the one who placed it lifts it.
	Quarantine bool
}

const freezeColumns = `id, kind, value, reason, state, placed_by, lifted_by, created_at, quarantine`

// Place stores a live freeze. It waits for the releases under way and precedes every later one (see freezeGate).
func (s *Service) Place(ctx context.Context, tx pgx.Tx, who audit.Actor, f Freeze) (Freeze, audit.ID, error) {
	f.Quarantine = false
	placed, err := s.place(ctx, tx, who, f)
	if err != nil {
		return Freeze{}, 0, err
	}
	id, err := s.audit.Append(ctx, tx, freezeEntry(who, "freeze.place", placed))
	return placed, id, err
}

// PlaceQuarantine is Place for a quarantine that CheckQuarantine admits, without the audit entry: the caller writes the one
// entry that says what was hit, too.
func (s *Service) PlaceQuarantine(ctx context.Context, tx pgx.Tx, who audit.Actor, f Freeze) (Freeze, error) {
	f.Quarantine = true
	return s.place(ctx, tx, who, f)
}

// CheckQuarantine returns the value as leases have it, or what is wrong with the quarantine, for who says what was to be done.
func (s *Service) CheckQuarantine(ctx context.Context, tx pgx.Tx, who audit.Actor, f Freeze) (string, error) {
	f.Quarantine = true
	return s.check(ctx, tx, who, f)
}

func (s *Service) place(ctx context.Context, tx pgx.Tx, who audit.Actor, f Freeze) (Freeze, error) {
	doing := fmt.Sprintf("freezing %s %s", f.Kind, f.Value)
	value, err := s.check(ctx, tx, who, f)
	if err != nil {
		return Freeze{}, fmt.Errorf("%s: %w", doing, err)
	}
	if err := CloseGate(ctx, tx); err != nil {
		return Freeze{}, fmt.Errorf("%s: %w", doing, err)
	}
	return collectOne[Freeze](ctx, tx, doing,
		`INSERT INTO freeze_order (id, kind, value, reason, state, placed_by, quarantine) VALUES ($1, $2, $3, $4, 'live', $5, $6) RETURNING `+freezeColumns,
		newID(), f.Kind, value, f.Reason, who.Subject, f.Quarantine)
}

func (s *Service) check(ctx context.Context, tx pgx.Tx, who audit.Actor, f Freeze) (string, error) {
	kinds := FreezeKinds
	if f.Quarantine {
		kinds = QuarantineKinds
	}
	switch {
	case !slices.Contains(kinds, f.Kind):
		return "", invalid("kind %q is none of %v", f.Kind, kinds)
	case strings.TrimSpace(f.Reason) == "" || len(f.Reason) > 500:
		return "", invalid("reason must have 1 to 500 bytes")
	case who.Subject == "":
		return "", invalid("it is placed by somebody")
	}
	value, err := Named(f.Kind, f.Value)
	if err != nil {
		return "", err
	}
	f.Value = value
	return value, s.known(ctx, tx, f)
}

// Lift ends a live freeze. A quarantine is lifted by LiftQuarantine alone.
func (s *Service) Lift(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Freeze, audit.ID, error) {
	doing := "lifting freeze " + id
	lifted, err := collect[Freeze](ctx, tx, doing,
		`UPDATE freeze_order SET state = 'lifted', lifted_by = $2 WHERE id = $1 AND state = 'live' AND $2 <> '' AND NOT quarantine RETURNING `+freezeColumns, id, who.Subject)
	if err != nil {
		return Freeze{}, 0, err
	}
	if len(lifted) == 0 {
		f, err := collectOne[Freeze](ctx, tx, doing, `SELECT `+freezeColumns+` FROM freeze_order WHERE id = $1`, id)
		switch {
		case err != nil:
			return Freeze{}, 0, err
		case f.Quarantine:
			return Freeze{}, 0, fmt.Errorf("%s: %w: it is a quarantine, which is lifted as one", doing, ErrState)
		}
		return Freeze{}, 0, fmt.Errorf("%s: %w: it is not live", doing, ErrState)
	}
	entry, err := s.audit.Append(ctx, tx, freezeEntry(who, "freeze.lift", lifted[0]))
	return lifted[0], entry, err
}

// LiftQuarantine ends a live quarantine; ErrSamePerson for whoever placed it. What it ended stays ended.
func (s *Service) LiftQuarantine(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Freeze, audit.ID, error) {
	doing := "lifting quarantine " + id
	f, err := collectOne[Freeze](ctx, tx, doing, `SELECT `+freezeColumns+` FROM freeze_order WHERE id = $1 AND quarantine FOR UPDATE`, id)
	switch {
	case err != nil:
		return Freeze{}, 0, err
	case who.Subject == "" || f.PlacedBy == who.Subject:
		return Freeze{}, 0, fmt.Errorf("%s: %w", doing, ErrSamePerson)
	case f.State != "live":
		return Freeze{}, 0, fmt.Errorf("%s: %w: it is not live", doing, ErrState)
	}
	lifted, err := collectOne[Freeze](ctx, tx, doing,
		`UPDATE freeze_order SET state = 'lifted', lifted_by = $2 WHERE id = $1 AND state = 'live' RETURNING `+freezeColumns, id, who.Subject)
	if err != nil {
		return Freeze{}, 0, err
	}
	entry, err := s.audit.Append(ctx, tx, freezeEntry(who, "quarantine.lift", lifted))
	return lifted, entry, err
}

// Quarantines lists up to limit quarantines before the given id, newest first; "" begins at the newest.
func (s *Service) Quarantines(ctx context.Context, before string, limit int) ([]Freeze, error) {
	return collect[Freeze](ctx, s.db, "listing quarantines",
		`SELECT `+freezeColumns+` FROM freeze_order WHERE quarantine AND ($1 = '' OR id < $1) ORDER BY id DESC LIMIT $2`, before, limit)
}

// Freeze returns one freeze.
func (s *Service) Freeze(ctx context.Context, id string) (Freeze, error) {
	return collectOne[Freeze](ctx, s.db, "reading freeze "+id, `SELECT `+freezeColumns+` FROM freeze_order WHERE id = $1`, id)
}

// Freezes lists up to limit freezes after the given id, in order of id.
func (s *Service) Freezes(ctx context.Context, after string, limit int) ([]Freeze, error) {
	return collect[Freeze](ctx, s.db, "listing freezes", `SELECT `+freezeColumns+` FROM freeze_order WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
}

func freezeEntry(who audit.Actor, action string, f Freeze) audit.Entry {
	e := audit.Entry{
		Actor: who, Action: action, Object: "freeze/" + f.ID, Outcome: audit.Success,
		Details: map[string]any{"kind": string(f.Kind)}, Personal: map[string]string{"reason": oneLine(f.Reason)},
	}
	// A person's name is personal data and enters as a commitment; what names no person stays readable.
	if f.Kind == "person" {
		e.Personal["value"] = oneLine(f.Value)
	} else {
		e.Details["value"] = f.Value
	}
	if f.Kind == "project" {
		e.Project = f.Value
	}
	return e
}
