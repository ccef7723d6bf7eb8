package postgres_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

func TestBatches(t *testing.T) {
	ctx, db := t.Context(), pgtest.New(t)
	if _, err := db.Exec(ctx, `CREATE TABLE thing (id int PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	insert := func(ids ...int) *pgx.Batch {
		b := &pgx.Batch{}
		for _, id := range ids {
			b.Queue(`INSERT INTO thing (id) VALUES ($1)`, id)
		}
		return b
	}
	stop := errors.New("stop")
	for name, c := range map[string]struct {
		fn   func(tx *postgres.Batches) error
		want int // rows afterwards
		fail bool
	}{
		"one batch": {func(tx *postgres.Batches) error { return tx.Commit(ctx, insert(1)) }, 1, false},
		"several batches": {func(tx *postgres.Batches) error {
			return errors.Join(tx.Send(ctx, insert(1)), tx.Send(ctx, insert(2)), tx.Commit(ctx, insert(3)))
		}, 3, false},
		"nothing to do": {func(tx *postgres.Batches) error { return tx.Commit(ctx, &pgx.Batch{}) }, 0, false},
		"error after a batch": {func(tx *postgres.Batches) error {
			if err := tx.Send(ctx, insert(1)); err != nil {
				return err
			}
			return stop
		}, 0, true},
		"failed first batch": {func(tx *postgres.Batches) error { return tx.Send(ctx, insert(1, 1)) }, 0, true},
		"failed last batch": {func(tx *postgres.Batches) error {
			return errors.Join(tx.Send(ctx, insert(1)), tx.Commit(ctx, insert(2, 2)))
		}, 0, true},
		"commit after a failure": {func(tx *postgres.Batches) error { _ = tx.Send(ctx, insert(1, 1)); return tx.Commit(ctx, insert(2)) }, 0, true},
		"commit forgotten":       {func(tx *postgres.Batches) error { return tx.Send(ctx, insert(1)) }, 0, true},
		"statement after the end": {func(tx *postgres.Batches) error {
			return errors.Join(tx.Commit(ctx, insert(1)), tx.Send(ctx, insert(2)))
		}, 1, true},
		"nothing asked, no commit":  {func(*postgres.Batches) error { return nil }, 0, true},
		"nothing asked, and failed": {func(*postgres.Batches) error { return stop }, 0, true},
	} {
		if _, err := db.Exec(ctx, `DELETE FROM thing`); err != nil {
			t.Fatal(err)
		}
		err := postgres.InBatches(ctx, db, c.fn)
		if (err != nil) != c.fail {
			t.Errorf("%s: %v", name, err)
		}
		var rows int
		if err := db.QueryRow(ctx, `SELECT count(*) FROM thing`).Scan(&rows); err != nil || rows != c.want {
			t.Errorf("%s: %d rows, want %d; %v", name, rows, c.want, err)
		}
	}
	func() {
		defer func() { _ = recover() }()
		_ = postgres.InBatches(ctx, db, func(tx *postgres.Batches) error {
			_ = tx.Send(ctx, insert(77))
			panic("in between")
		})
	}()
	var rows int
	if err := db.QueryRow(ctx, `SELECT count(*) FROM thing WHERE id = 77`).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("after a panic: %d rows, %v", rows, err)
	}
	if n := db.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections were not given back", n)
	}
}
