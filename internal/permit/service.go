package permit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrState    = errors.New("not possible in this state")
	ErrInvalid  = errors.New("invalid")
	// ErrNotCustodian: only the custodian of a dataset decides over it.
	ErrNotCustodian = errors.New("not the custodian of this dataset")
	// ErrSamePerson: whoever placed a quarantine does not lift it.
	ErrSamePerson = errors.New("never the same person")
)

// Service reads and changes projects, datasets, permits and freezes. Methods that change something take the caller's
// transaction and write the audit entry in it; the returned audit.ID is what a policy change waits for after commit.
type Service struct {
	db      *pgxpool.Pool
	audit   *audit.Recorder
	sites   []Site
	issuers []string
}

// New returns a service over a migrated database. Sites are what the configuration names; nothing else can be frozen as a
// site or a host.
func New(db *pgxpool.Pool, log *audit.Recorder, sites ...Site) *Service {
	return &Service{db: db, audit: log, sites: sites}
}

// WithIssuers returns the service where these issuers' tokens are accepted: nobody but their people, and those who are members
// already, can be frozen as a person. Without it anything of the form can.
func (s *Service) WithIssuers(urls ...string) *Service {
	with := *s
	with.issuers = urls
	return &with
}

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,62}$`)

func newID() string { return strings.ToLower(ulid.Make().String()) }

// fault is ErrInvalid in the words that people read.
type fault string

func (f fault) Error() string { return string(f) }
func (fault) Unwrap() error   { return ErrInvalid }

func invalid(format string, args ...any) error { return fault(fmt.Sprintf(format, args...)) }

// constraint turns the two violations that a caller can cause into errors it can act on.
func constraint(doing string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "23505":
			return fmt.Errorf("%s: %w", doing, ErrExists)
		case "23503":
			return fmt.Errorf("%s: a project or dataset it names: %w", doing, ErrNotFound)
		case "23514":
			return fmt.Errorf("%s: %w: %s", doing, ErrInvalid, pg.ConstraintName)
		}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func collectOne[T any](ctx context.Context, db querier, doing, sql string, args ...any) (T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		var zero T
		return zero, constraint(doing, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	if errors.Is(err, pgx.ErrNoRows) {
		return v, fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	if err != nil {
		return v, constraint(doing, err)
	}
	return v, nil
}

func collect[T any](ctx context.Context, db querier, doing, sql string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[T])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return list, nil
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}
