package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/eosc-siesta/siestad/migrations"
)

const (
	undefinedTable = "42P01"
	// lockTimeout keeps a migration from queueing for a table lock behind a
	// long transaction, with every other query of the service queueing behind it.
	lockTimeout = "15s"
)

// Migrate brings the schema to the newest version. Two processes may call it
// at once: a session lock lets one work and the other find nothing to do.
func Migrate(ctx context.Context, dsn string) error {
	config, err := poolConfig(dsn)
	if err != nil {
		return err
	}
	connection := config.ConnConfig
	connection.RuntimeParams["lock_timeout"] = lockTimeout
	connection.RuntimeParams["statement_timeout"] = "0"
	connection.RuntimeParams["application_name"] = "siestad migrate"
	db := stdlib.OpenDB(*connection)
	defer db.Close()

	provider, err := newProvider(db, migrations.FS)
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating database: %w", err)
	}
	return nil
}

func newProvider(db *sql.DB, files fs.FS) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, fmt.Errorf("preparing migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("reading migrations: %w", err)
	}
	return provider, nil
}

// CheckSchema returns nil only if the schema has exactly the version that this
// program carries. It changes nothing.
func CheckSchema(ctx context.Context, db *pgxpool.Pool) error {
	want, number, err := newestMigration(migrations.FS)
	if err != nil {
		return err
	}
	var have int64
	var applied int
	err = db.QueryRow(ctx, `SELECT coalesce(max(version_id), 0), count(DISTINCT version_id) FILTER (WHERE version_id > 0) FROM goose_db_version WHERE is_applied`).
		Scan(&have, &applied)
	var fault *pgconn.PgError
	switch {
	case errors.As(err, &fault) && fault.Code == undefinedTable, err == nil && have == 0:
		return errors.New("checking schema: the database has no siestad schema yet, run `siestad migrate`")
	case err != nil:
		return fmt.Errorf("checking schema: %w", err)
	case have < want:
		return fmt.Errorf("checking schema: the database has version %d and this program needs %d, run `siestad migrate`", have, want)
	case have > want:
		return fmt.Errorf("checking schema: the database has version %d and this program knows %d only, run a newer siestad (`siestad migrate` never goes back)", have, want)
	case applied != number:
		return fmt.Errorf("checking schema: the database has version %d with %d of its %d migrations; restore a backup, or start with an empty database", have, applied, number)
	}
	return nil
}

// newestMigration returns the newest version and how many there are.
func newestMigration(files fs.FS) (newest int64, number int, err error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return 0, 0, fmt.Errorf("listing migrations: %w", err)
	}
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, 0, fmt.Errorf("reading version of migration %s: %w", name, err)
		}
		newest = max(newest, version)
	}
	if newest == 0 {
		return 0, 0, errors.New("listing migrations: this program carries none")
	}
	return newest, len(names), nil
}
