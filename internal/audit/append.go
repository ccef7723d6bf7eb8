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
	s, err := e.seal(time.Now())
	if err != nil {
		return 0, err
	}
	var id ID
	err = tx.QueryRow(ctx, sqlAppend, s.at, s.action, s.object, s.project, s.outcome, s.body, s.openings).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("inserting audit entry: %w", err)
	}
	return id, nil
}
