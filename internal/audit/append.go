package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const sqlAppend = `INSERT INTO audit_inbox (at, action, object, project, outcome, body, openings)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id`

// Append records an entry in the caller's transaction, in one statement. The
// entry exists if and only if that transaction commits, and takes its place in
// the tree shortly after: see Log.Wait.
//
// An error means that the action must fail: what cannot be recorded is not done.
func Append(ctx context.Context, tx pgx.Tx, e Entry) (ID, error) {
	var id ID
	batch := &pgx.Batch{}
	if err := Queue(batch, e, &id); err != nil {
		return 0, err
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return 0, fmt.Errorf("inserting audit entry: %w", err)
	}
	return id, nil
}

// Appended is the SQL expression for the id of the entry that was last appended
// in the same transaction, for rows that name it and travel in the same batch.
const Appended = `currval('audit_id')`

// Queue is Append as one statement of a batch, which saves its round trip. id is
// set when the batch has been read; the caller sends the batch in its transaction
// and must fail if sending fails.
func Queue(batch *pgx.Batch, e Entry, id *ID) error {
	s, err := e.seal(time.Now())
	if err != nil {
		return err
	}
	batch.Queue(sqlAppend, s.at, s.action, s.object, s.project, s.outcome, s.body, s.openings).
		QueryRow(func(row pgx.Row) error { return row.Scan(id) })
	return nil
}
