package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// rollbackTimeout bounds the goodbye to a transaction whose caller has gone.
const rollbackTimeout = 5 * time.Second

// Batches is a transaction whose statements travel in batches: its BEGIN with the
// first, its COMMIT with the last, so that it costs as many round trips as there
// are batches. It is for the few transactions that are run all the time.
//
// What InTx gives and this does not: a look at the last batch's answers before
// they are committed. A statement of that batch must therefore fail by itself when
// its effect would be wrong, or be unable to be wrong because the rows that it
// rests on were locked by an earlier batch.
type Batches struct {
	conn      *pgxpool.Conn
	begun     bool
	committed bool
}

// InBatches runs fn in one read-committed transaction. fn ends it with Commit; if
// it returns an error, panics, or forgets to commit, nothing is changed. An error
// from Commit itself means that the outcome is unknown: read again before acting
// on it.
func InBatches(ctx context.Context, db *pgxpool.Pool, fn func(tx *Batches) error) error {
	conn, err := db.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquiring a connection: %w", err)
	}
	// A connection that is still in a transaction when it is released is closed
	// by the pool, and its transaction with it.
	defer conn.Release()
	tx := &Batches{conn: conn}
	defer tx.rollback(ctx)
	if err := fn(tx); err != nil {
		return err
	}
	if !tx.committed {
		return errors.New("the transaction was not committed")
	}
	return nil
}

// Send runs a batch and reads its answers.
func (tx *Batches) Send(ctx context.Context, batch *pgx.Batch) error {
	if tx.committed {
		return errors.New("the transaction is over")
	}
	if !tx.begun {
		begin := &pgx.Batch{}
		begin.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
		batch.QueuedQueries = append(begin.QueuedQueries, batch.QueuedQueries...)
		tx.begun = true
	}
	return tx.conn.SendBatch(ctx, batch).Close()
}

// Commit runs the last batch and commits. If a statement fails on the server, so
// does the transaction. If only the reading of an answer fails, it is committed.
func (tx *Batches) Commit(ctx context.Context, batch *pgx.Batch) error {
	batch.Queue("COMMIT")
	err := tx.Send(ctx, batch)
	tx.committed = true
	return err
}

func (tx *Batches) rollback(ctx context.Context) {
	if tx.conn.Conn().IsClosed() || tx.conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	// If it fails, releasing the connection ends the transaction.
	_, _ = tx.conn.Exec(ctx, "ROLLBACK")
}
