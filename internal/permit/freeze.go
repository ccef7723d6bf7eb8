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

// FreezeKinds are all things that can be frozen. A chip's value is its id in lower-case hex.
var FreezeKinds = []FreezeKind{"person", "project", "dataset", "image", "site", "chip"}

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
}

const freezeColumns = `id, kind, value, reason, state, placed_by, lifted_by, created_at`

// Place stores a live freeze. It waits for the releases under way and precedes every later one (see freezeGate).
func (s *Service) Place(ctx context.Context, tx pgx.Tx, who audit.Actor, f Freeze) (Freeze, audit.ID, error) {
	doing := fmt.Sprintf("freezing %s %s", f.Kind, f.Value)
	var err error
	switch {
	case !slices.Contains(FreezeKinds, f.Kind):
		err = invalid("kind %q is none of %v", f.Kind, FreezeKinds)
	case strings.TrimSpace(f.Value) == "" || len(f.Value) > 300:
		err = invalid("value must have 1 to 300 bytes")
	case f.Kind == "chip" && strings.Trim(f.Value, "0123456789abcdef") != "":
		err = invalid("a chip id is written in lower-case hex")
	case strings.TrimSpace(f.Reason) == "" || len(f.Reason) > 500:
		err = invalid("reason must have 1 to 500 bytes")
	case who.Subject == "":
		err = invalid("a freeze is placed by somebody")
	}
	if err != nil {
		return Freeze{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", freezeGate); err != nil {
		return Freeze{}, 0, fmt.Errorf("%s: waiting for releases under way: %w", doing, err)
	}
	placed, err := collectOne[Freeze](ctx, tx, doing,
		`INSERT INTO freeze_order (id, kind, value, reason, state, placed_by) VALUES ($1, $2, $3, $4, 'live', $5) RETURNING `+freezeColumns,
		newID(), f.Kind, f.Value, f.Reason, who.Subject)
	if err != nil {
		return Freeze{}, 0, err
	}
	id, err := audit.Append(ctx, tx, freezeEntry(who, "freeze.place", placed))
	return placed, id, err
}

// Lift ends a live freeze.
func (s *Service) Lift(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Freeze, audit.ID, error) {
	doing := "lifting freeze " + id
	lifted, err := collect[Freeze](ctx, tx, doing,
		`UPDATE freeze_order SET state = 'lifted', lifted_by = $2 WHERE id = $1 AND state = 'live' AND $2 <> '' RETURNING `+freezeColumns, id, who.Subject)
	if err != nil {
		return Freeze{}, 0, err
	}
	if len(lifted) == 0 {
		if _, err := s.Freeze(ctx, id); err != nil {
			return Freeze{}, 0, fmt.Errorf("%s: %w", doing, err)
		}
		return Freeze{}, 0, fmt.Errorf("%s: %w: it is not live", doing, ErrState)
	}
	entry, err := audit.Append(ctx, tx, freezeEntry(who, "freeze.lift", lifted[0]))
	return lifted[0], entry, err
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
		Details: map[string]any{"kind": string(f.Kind)}, Personal: map[string]string{"reason": f.Reason},
	}
	// A person's name is personal data and enters as a commitment; what names no person stays readable.
	if f.Kind == "person" {
		e.Personal["value"] = f.Value
	} else {
		e.Details["value"] = f.Value
	}
	if f.Kind == "project" {
		e.Project = f.Value
	}
	return e
}
