package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/migrations"
)

const (
	patience = 2 * time.Minute
	keep     = 60
)

var (
	shared    = sync.OnceValues(start)
	templated = sync.OnceValues(makeTemplate)
	serial    atomic.Int64
	abandoned atomic.Int64
)

// New returns a pool on a fresh, migrated database that lives as long as the test.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	db, err := postgres.Open(context.Background(), DSN(t))
	if err != nil {
		t.Fatalf("opening test database: %v", err)
	}
	t.Cleanup(db.Close)
	return db
}

// DSN returns the connection string of a fresh, migrated database that lives
// as long as the test.
func DSN(t testing.TB) string {
	t.Helper()
	return forTest(t, true)
}

// Empty returns the connection string of a fresh database without any schema.
func Empty(t testing.TB) string {
	t.Helper()
	return forTest(t, false)
}

func forTest(t testing.TB, migrated bool) string {
	t.Helper()
	dsn, drop, err := Database(context.Background(), migrated)
	if err != nil {
		t.Fatalf("making test database: %v", err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Errorf("dropping test database: %v", err)
		}
	})
	return dsn
}

// Database makes a fresh database for programs that have no testing.TB, such
// as benchmarks, and returns its connection string and how to drop it.
func Database(ctx context.Context, migrated bool) (dsn string, drop func() error, err error) {
	server, err := shared()
	if err != nil {
		return "", nil, err
	}
	template := "template1"
	if migrated {
		if template, err = templated(); err != nil {
			return "", nil, err
		}
	}
	name := fmt.Sprintf("t%d_%d", os.Getpid(), serial.Add(1))
	if err := server.exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template)); err != nil {
		return "", nil, err
	}
	drop = func() error { return server.abandon(name) }
	return server.dsn(name), drop, nil
}

func makeTemplate() (string, error) {
	server, err := shared()
	if err != nil {
		return "", err
	}
	sum, err := migrationsHash(migrations.FS)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name := "template_" + sum[:12]
	if server.borrowed {
		return name, nil // whoever lends the server has made it
	}
	if err := server.exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	if err := postgres.Migrate(ctx, server.dsn(name)); err != nil {
		return "", err
	}
	return name, nil
}

func migrationsHash(files fs.FS) (string, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return "", fmt.Errorf("listing migrations: %w", err)
	}
	sum := sha256.New()
	for _, name := range names {
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return "", fmt.Errorf("reading migration %s: %w", name, err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(content), content)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (c *cluster) dsn(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s pool_max_conns=16", c.socket, port, superuser, database)
}

// abandon ends a database's sessions and leaves its files to the end of the
// cluster: every DROP DATABASE would force a checkpoint on all other tests.
// Beyond keep databases, and on a server that outlives us, the disk counts for more.
func (c *cluster) abandon(name string) error {
	ctx := context.Background()
	if abandoned.Add(1) > keep || c.borrowed {
		return c.exec(ctx, fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name))
	}
	return c.exec(ctx, fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'", name))
}

// exec runs one statement on a short-lived connection to the maintenance database.
func (c *cluster) exec(ctx context.Context, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=postgres", c.socket, port, superuser))
	if err != nil {
		return fmt.Errorf("connecting to test cluster: %w", err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("running %q: %w", statement, err)
	}
	return nil
}
