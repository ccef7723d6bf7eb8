package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	sqlFence = `SELECT audit_fence($1, $2)`
	// Moving is one statement, so that an entry is in the inbox or in the log
	// and never in both or neither. The hash is over the stored bytes, not over
	// what some process believes it stored.
	sqlMove = `WITH gone AS (
    DELETE FROM audit_inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM audit_inbox ORDER BY id LIMIT $2)) RETURNING *
), numbered AS (
    SELECT $1::bigint + row_number() OVER (ORDER BY id) - 1 AS leaf_index, gone.* FROM gone
), kept AS (
    INSERT INTO audit_entry (leaf_index, id, at, action, object, project, outcome, body, mac)
    SELECT leaf_index, id, at, action, object, project, outcome, body, mac FROM numbered
    RETURNING leaf_index, id, sha256('\x00'::bytea || body) AS leaf, mac
), opened AS (
    INSERT INTO audit_opening (leaf_index, openings)
    SELECT leaf_index, openings FROM numbered WHERE openings IS NOT NULL
)
SELECT id, leaf, mac FROM kept ORDER BY leaf_index`
	sqlDirect = `INSERT INTO audit_entry (leaf_index, id, at, action, object, project, outcome, body, mac)
SELECT $1::bigint + n - 1, id, at, action, object, project, outcome, body, mac
FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::bytea[])
    WITH ORDINALITY AS q (id, at, action, object, project, outcome, body, mac, n)`
	sqlDirectOpenings = `INSERT INTO audit_opening (leaf_index, openings)
SELECT $1::bigint + n - 1, openings FROM unnest($2::bytea[]) WITH ORDINALITY AS q (openings, n) WHERE openings IS NOT NULL`
	sqlTiles = `INSERT INTO audit_tile (level, idx, root, data)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::bytea[], $4::bytea[])`
	sqlBatch = `INSERT INTO audit_batch (size, first_index, epoch, leaves, checkpoint) VALUES ($1, $2, $3, $4, $5)`
	sqlHead  = `UPDATE audit_head SET size = $2, root = $3, lease_until = clock_timestamp() + $4::interval WHERE epoch = $1`
)

// batch writes one transaction: queued entries, then those of the inbox if it
// may have any, their tiles, checkpoint and head. It returns how many it wrote. After
// an error the term is over: the transaction may or may not have committed, and
// only a new epoch can tell.
func (t *lead) batch(ctx context.Context, direct []*queued) (int, error) {
	// A shutdown lets the batch finish, in bounded time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.log.lease)
	defer cancel()
	ids := make([]ID, len(direct))
	leaves := make([]tlog.Hash, len(direct), len(direct)+16)
	for i, q := range direct {
		ids[i], leaves[i] = q.id, tlog.RecordHash(q.body)
	}

	first := t.edge.size
	work := t.begin(direct)
	if t.inbox {
		work.Queue(sqlMove, first+int64(len(direct)), maxBatch-len(direct)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var id ID
				var leaf, mac []byte
				if err := rows.Scan(&id, &leaf, &mac); err != nil {
					return err
				}
				// The transaction ends with the term: the entry stays where it is, for a human to see.
				if !t.log.made(id, tlog.Hash(leaf), mac) {
					return fmt.Errorf("%w: entry %d of the inbox was not recorded with this log's key", errTampered, id)
				}
				ids, leaves = append(ids, id), append(leaves, tlog.Hash(leaf))
			}
			return rows.Err()
		})
		if err := t.conn.SendBatch(ctx, work).Close(); err != nil {
			return 0, fmt.Errorf("taking entries: %w", twice(err))
		}
		if len(leaves) == 0 {
			if _, err := t.conn.Exec(ctx, "ROLLBACK"); err != nil {
				return 0, fmt.Errorf("giving back an empty batch: %w", err)
			}
			t.inbox = false
			return 0, nil
		}
		work = &pgx.Batch{}
	}

	// The tree grows in a copy: if we fail from here on, t.edge is still what
	// is stored. (A failed term is discarded whole all the same.)
	next := t.edge
	done := next.grow(leaves)
	head := &snapshot{tree: next.tree(), edge: next, done: done}
	var err error
	if head.checkpoint, err = t.log.sign.sign(head.tree); err != nil {
		return 0, err
	}
	t.finish(work, first, leaves, head)
	if err := t.conn.SendBatch(ctx, work).Close(); err != nil {
		return 0, fmt.Errorf("storing entries: %w", twice(err))
	}

	// Durable from here. If we crash before the waits end, whoever waits finds
	// the entries in the database.
	t.edge, t.latest = next, head.checkpoint
	n := len(direct)
	t.log.settle(ids[n:], leaves[n:], first+int64(n), head)
	for i, q := range direct {
		q.done <- answer{located: located{first + int64(i), leaves[i], head}}
	}
	return len(leaves), nil
}

// twice makes an error that would come again for ever one that a human sees: what
// is to be stored stands in the log already, by its id or by its index.
func twice(err error) error {
	var fault *pgconn.PgError
	if !errors.As(err, &fault) || fault.Code != "23505" || fault.TableName != "audit_entry" {
		return err
	}
	problem := "an entry that waits has the id of one in the log"
	if fault.ConstraintName == "audit_entry_pkey" {
		problem = "behind the signed head, where the next entry belongs, stands one that was not signed"
	}
	return fmt.Errorf("%w: %s (%s)", errTampered, problem, fault.Detail)
}

// begin opens the transaction, raises the fence and stores queued entries.
func (t *lead) begin(direct []*queued) *pgx.Batch {
	work := &pgx.Batch{}
	work.Queue("BEGIN")
	work.Queue(sqlFence, t.epoch, t.edge.size)
	if len(direct) == 0 {
		return work
	}
	n := len(direct)
	ids, at, bodies, openings, macs := make([]int64, n), make([]time.Time, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	action, object, project, outcome := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, q := range direct {
		ids[i], at[i], bodies[i], openings[i], macs[i] = int64(q.id), q.at, q.body, q.openings, q.mac
		action[i], object[i], project[i], outcome[i] = q.action, q.object, q.project, q.outcome
	}
	work.Queue(sqlDirect, t.edge.size, ids, at, action, object, project, outcome, bodies, macs)
	work.Queue(sqlDirectOpenings, t.edge.size, openings)
	return work
}

// finish queues the tiles, the signed head and the commit.
func (t *lead) finish(work *pgx.Batch, first int64, leaves []tlog.Hash, head *snapshot) {
	if len(head.done) > 0 {
		levels, indexes := make([]int32, 0, len(head.done)), make([]int64, 0, len(head.done))
		roots, data := make([][]byte, 0, len(head.done)), make([][]byte, 0, len(head.done))
		for i := range head.done {
			tile := &head.done[i]
			levels, indexes = append(levels, int32(tile.level)), append(indexes, tile.index)
			roots, data = append(roots, tile.nodes[tileHeight][0][:]), append(data, tile.nodes.data())
		}
		work.Queue(sqlTiles, levels, indexes, roots, data)
	}
	packed := make([]byte, 0, len(leaves)*tlog.HashSize)
	for i := range leaves {
		packed = append(packed, leaves[i][:]...)
	}
	work.Queue(sqlBatch, head.tree.N, first, t.epoch, packed, head.checkpoint)
	work.Queue(sqlHead, t.epoch, head.tree.N, head.tree.Hash[:], t.log.lease)
	work.Queue("COMMIT")
	// Asked here, it costs no round trip of its own.
	work.Queue(sqlWaiting).QueryRow(func(row pgx.Row) error { return row.Scan(&t.inbox) })
}

// settleEarlier answers entries of an earlier term's last batch, whose commit
// was not seen: stored entries by their index, the others by sending them to
// the inbox. It returns those it could not ask about.
func (t *lead) settleEarlier(ctx context.Context, unsettled []*queued) ([]*queued, error) {
	for i, q := range unsettled {
		switch index, leaf, err := t.log.find(ctx, t.conn, q.id); {
		case errors.Is(err, ErrNotFound):
			q.done <- answer{again: true}
		case err != nil:
			return unsettled[i:], fmt.Errorf("settling an earlier batch: %w", err)
		case leaf != tlog.RecordHash(q.body):
			return unsettled[i:], fmt.Errorf("settling an earlier batch: %w: another entry stands in the log as %d", errTampered, q.id)
		default:
			q.done <- answer{located: located{index: index}}
		}
	}
	return nil, nil
}
