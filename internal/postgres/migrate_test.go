package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

func TestOpenRefuses(t *testing.T) {
	for name, row := range map[string]struct{ dsn, want string }{
		"empty":           {"", "connection string is empty"},
		"malformed":       {"host=/nowhere port=high", "reading connection string"},
		"simple protocol": {"host=/nowhere default_query_exec_mode=simple_protocol", "simple query protocol"},
		"unreachable":     {"host=/nowhere dbname=x", "reaching database"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := postgres.Open(t.Context(), row.dsn)
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("error %q does not say %q", err, row.want)
			}
		})
	}
}

func TestOpenErrorHidesPassword(t *testing.T) {
	_, err := postgres.Open(t.Context(), "postgres://u:canary-word@/x?host=/nowhere&connect_timeout=bad")
	if err == nil || strings.Contains(err.Error(), "canary-word") {
		t.Fatalf("error is %v", err)
	}
}

func TestCheckSchemaNeverCreates(t *testing.T) {
	dsn := pgtest.Empty(t)
	db, err := postgres.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()

	err = postgres.CheckSchema(t.Context(), db)
	if err == nil || !strings.Contains(err.Error(), "siestad migrate") {
		t.Fatalf("empty database: error is %v", err)
	}
	var tables int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`).Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if tables != 0 {
		t.Fatalf("checking made %d tables", tables)
	}

	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	if err := postgres.CheckSchema(t.Context(), db); err != nil {
		t.Fatalf("after migrating: %v", err)
	}
	if _, err := db.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`); err != nil {
		t.Fatal(err)
	}
	if err := postgres.CheckSchema(t.Context(), db); err == nil || !strings.Contains(err.Error(), "newer siestad") {
		t.Fatalf("schema from the future: error is %v", err)
	}
	if _, err := db.Exec(t.Context(), `DELETE FROM goose_db_version WHERE version_id IN (99999, 2)`); err != nil {
		t.Fatal(err)
	}
	if err := postgres.CheckSchema(t.Context(), db); err == nil || !strings.Contains(err.Error(), "of its") {
		t.Fatalf("a schema with a gap: error is %v", err)
	}
	if _, err := db.Exec(t.Context(), `DELETE FROM goose_db_version WHERE version_id <> 0`); err != nil {
		t.Fatal(err)
	}
	if err := postgres.CheckSchema(t.Context(), db); err == nil || !strings.Contains(err.Error(), "siestad migrate") {
		t.Fatalf("schema of version 0: error is %v", err)
	}
}

func TestMigrateTwiceAtOnce(t *testing.T) {
	dsn := pgtest.Empty(t)
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			if err := postgres.Migrate(t.Context(), dsn); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

func TestInTx(t *testing.T) {
	db := pgtest.New(t)
	ctx := t.Context()
	if _, err := db.Exec(ctx, `CREATE TABLE mark (n int)`); err != nil {
		t.Fatal(err)
	}
	insert := func(after func() error) error {
		return postgres.InTx(ctx, db, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO mark VALUES (1)`); err != nil {
				return err
			}
			return after()
		})
	}
	refusal := errors.New("no")
	if err := insert(func() error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("error is %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = insert(func() error { panic("no") })
	}()
	if err := insert(func() error { return nil }); err != nil {
		t.Error(err)
	}
	var n int
	if err := db.QueryRow(context.Background(), `SELECT count(*) FROM mark`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows (%v), want the one of the commit", n, err)
	}
}

func TestDatabasesAreApart(t *testing.T) {
	a, b := pgtest.New(t), pgtest.New(t)
	if _, err := a.Exec(t.Context(), `CREATE TABLE only_here ()`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(t.Context(), `SELECT FROM only_here`); err == nil {
		t.Fatal("one test sees the other's table")
	}
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		if err := a.QueryRow(t.Context(), "SHOW "+setting).Scan(&value); err != nil || value != "on" {
			t.Errorf("%s is %q (%v), want the durable default", setting, value, err)
		}
	}
}
