package quarantine

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// Order is one quarantine with what it found when it was placed.
type Order struct {
	ID        string
	Kind      permit.FreezeKind
	Value     string
	Reason    string
	State     string // live or lifted
	PlacedBy  string
	LiftedBy  *string
	CreatedAt time.Time
	Hits      []keybroker.Hit
}

// Service places, lifts and lists quarantines.
type Service struct {
	db      *pgxpool.Pool
	audit   *audit.Recorder
	permits *permit.Service
	hosts   keybroker.HostOf
}

// New returns a service over a migrated database. hosts may be nil where no chip has a host's name.
func New(db *pgxpool.Pool, log *audit.Recorder, permits *permit.Service, hosts keybroker.HostOf) *Service {
	return &Service{db: db, audit: log, permits: permits, hosts: hosts}
}

// maxNamed bounds the workspaces that the audit entry names; the rows name all.
const maxNamed = 50

// Place puts a quarantine into force and ends the leases that it finds, in the caller's transaction.
func (s *Service) Place(ctx context.Context, tx pgx.Tx, who audit.Actor, kind permit.FreezeKind, value, reason string) (Order, audit.ID, error) {
	doing := fmt.Sprintf("placing a quarantine on %s %s", kind, value)
	// As the leases have it, which are looked for first.
	value, err := s.permits.CheckQuarantine(ctx, tx, who, permit.Freeze{Kind: kind, Value: value, Reason: reason})
	if err != nil {
		return Order{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	var placed permit.Freeze
	hits, err := keybroker.Quarantine(ctx, tx, s.hosts, kind, value, func(ctx context.Context, tx pgx.Tx) (string, error) {
		var err error
		placed, err = s.permits.PlaceQuarantine(ctx, tx, who, permit.Freeze{Kind: kind, Value: value, Reason: reason})
		return "quarantine " + placed.ID, err
	})
	if err != nil {
		return Order{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	leases, named := 0, []string{}
	for _, h := range hits {
		if h.Lease != "" {
			leases++
		}
		if len(named) < maxNamed {
			named = append(named, h.Workspace)
		}
		// Two leases of one workspace, on its old volume and its new one, are one hit.
		if _, err := tx.Exec(ctx, `INSERT INTO quarantine_hit (quarantine, workspace, project, site, generation, lease, chip, host)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
			placed.ID, h.Workspace, h.Project, h.Site, h.Generation, h.Lease, h.Chip, h.Host); err != nil {
			return Order{}, 0, fmt.Errorf("%s: recording what it hit: %w", doing, err)
		}
	}
	id, err := s.audit.Append(ctx, tx, audit.Entry{
		Actor: who, Action: "quarantine.place", Object: "quarantine/" + placed.ID, Outcome: audit.Success,
		Details: map[string]any{
			"kind": string(kind), "value": value, "workspaces": len(hits), "leases": leases, "first": named,
		},
		Personal: map[string]string{"reason": reason},
	})
	if err != nil {
		return Order{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	return order(placed, hits), id, nil
}

// Lift ends a quarantine; permit.ErrSamePerson for whoever placed it.
func (s *Service) Lift(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Order, audit.ID, error) {
	f, entry, err := s.permits.LiftQuarantine(ctx, tx, who, id)
	if err != nil {
		return Order{}, 0, err
	}
	hits, err := hitsOf(ctx, tx, id)
	return order(f, hits), entry, err
}

// Get returns one quarantine.
func (s *Service) Get(ctx context.Context, id string) (Order, error) {
	f, err := s.permits.Freeze(ctx, id)
	if err != nil {
		return Order{}, err
	}
	if !f.Quarantine {
		return Order{}, fmt.Errorf("reading quarantine %s: %w", id, permit.ErrNotFound)
	}
	hits, err := hitsOf(ctx, s.db, id)
	return order(f, hits), err
}

// List returns up to limit quarantines before the given id, newest first, without their hits.
func (s *Service) List(ctx context.Context, before string, limit int) ([]Order, error) {
	freezes, err := s.permits.Quarantines(ctx, before, limit)
	if err != nil {
		return nil, err
	}
	list := make([]Order, len(freezes))
	for i, f := range freezes {
		list[i] = order(f, nil)
	}
	return list, nil
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func hitsOf(ctx context.Context, db querier, id string) ([]keybroker.Hit, error) {
	rows, err := db.Query(ctx, `SELECT workspace, project, site, generation, lease, chip, host FROM quarantine_hit
		WHERE quarantine = $1 ORDER BY workspace`, id)
	if err != nil {
		return nil, fmt.Errorf("reading what quarantine %s hit: %w", id, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[keybroker.Hit])
	if err != nil {
		return nil, fmt.Errorf("reading what quarantine %s hit: %w", id, err)
	}
	return list, nil
}

func order(f permit.Freeze, hits []keybroker.Hit) Order {
	return Order{
		ID: f.ID, Kind: f.Kind, Value: f.Value, Reason: f.Reason, State: f.State, PlacedBy: f.PlacedBy, LiftedBy: f.LiftedBy,
		CreatedAt: f.CreatedAt, Hits: hits,
	}
}
