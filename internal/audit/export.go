package audit

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Export writes the whole log up to its newest checkpoint, for siesta-verify
// and for archives. It streams: memory does not grow with the log.
//
// The format is lines of text, then byte strings of announced length:
//
//	siesta-audit-export/v1
//	origin <name>
//	batch <first> <count> <leaf hashes, base64>
//	entry <index> <length>
//	<that many bytes>                                 (count times)
//	checkpoint <size> <length>
//	<that many bytes: a signed note>
//	…                                                 (batch after batch)
//	tile <level> <index> <8192 bytes, base64>         (every completed tile, by level and index)
//	end <size>
//
// Each leaf hash thus stands three times, as stored: in its batch, in its tile,
// and under its batch's signed head; and the body a fourth. Openings are never
// exported.
//
// The export is what the database says, faults included: whether it is true is
// for the verifier to find out.
//
// It is read in pages, each a statement of its own, and no connection is held
// while a page is written: a slow reader delays nobody. What was stored when the
// export began never changes, so pages need no snapshot; what comes meanwhile is
// left out.
func (l *Log) Export(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	if err := l.export(ctx, out); err != nil {
		return fmt.Errorf("exporting audit log: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("exporting audit log: %w", err)
	}
	return nil
}

// Rows of one page, at most 8 MiB each.
const (
	exportBatches = 128
	exportEntries = 256
	exportTiles   = 128
)

const (
	exportHeader   = "siesta-audit-export/v1"
	sqlExportUntil = `SELECT (SELECT coalesce(max(size), -1) FROM audit_batch), (SELECT coalesce(max(leaf_index), -1) FROM audit_entry)`
	sqlExportBatch = `SELECT size, first_index, leaves, checkpoint FROM audit_batch WHERE size > $1 AND size <= $2 ORDER BY size LIMIT $3`
	sqlExportEntry = `SELECT leaf_index, body FROM audit_entry WHERE leaf_index > $1 AND leaf_index <= $2 ORDER BY leaf_index LIMIT $3`
	// All but those that a later batch has completed. A tile beyond even the newest
	// head is one that the log should not have, and stays in.
	sqlExportTile = `SELECT level, idx, data FROM audit_tile, LATERAL (SELECT (idx::numeric + 1) * 256::numeric ^ (level + 1)) t (edge)
WHERE (level, idx) > ($1, $2) AND (edge <= $3 OR edge > (SELECT coalesce(max(size), -1) FROM audit_batch)) ORDER BY level, idx LIMIT $4`
)

type batchRow struct {
	Size       int64  `db:"size"`
	FirstIndex int64  `db:"first_index"`
	Leaves     []byte `db:"leaves"`
	Checkpoint []byte `db:"checkpoint"`
}

func (l *Log) export(ctx context.Context, out *bufio.Writer) error {
	entries := exportedEntries{db: l.db, after: -1}
	var until int64
	if err := l.db.QueryRow(ctx, sqlExportUntil).Scan(&until, &entries.last); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\norigin %s\n", exportHeader, l.sign.origin)
	for size := int64(-1); ; {
		batches, err := page[batchRow](ctx, l.db, sqlExportBatch, size, until, exportBatches)
		if err != nil {
			return err
		}
		if len(batches) == 0 {
			break
		}
		for _, b := range batches {
			fmt.Fprintf(out, "batch %d %d %s\n", b.FirstIndex, b.Size-b.FirstIndex, base64.StdEncoding.EncodeToString(b.Leaves))
			if err := entries.write(ctx, out, b.Size-1); err != nil {
				return err
			}
			if _, err := fmt.Fprintf(out, "checkpoint %d %d\n%s\n", b.Size, len(b.Checkpoint), b.Checkpoint); err != nil {
				return err
			}
			size = b.Size
		}
	}
	// Entries that no batch covers, which only a tampered log has.
	if err := entries.write(ctx, out, entries.last); err != nil {
		return err
	}
	if err := l.exportTiles(ctx, out, until); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "end %d\n", max(until, 0))
	return err
}

func page[T any](ctx context.Context, db *pgxpool.Pool, sql string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}

// exportedEntries reads entries in order, across batches.
type exportedEntries struct {
	db          *pgxpool.Pool
	after, last int64 // read are the entries up to after, to be read those up to last
	page        []entryRow
}

type entryRow struct {
	Index int64  `db:"leaf_index"`
	Body  []byte `db:"body"`
}

// write writes the entries up to and including index to that are not yet written.
func (e *exportedEntries) write(ctx context.Context, out *bufio.Writer, to int64) (err error) {
	for {
		if len(e.page) == 0 {
			if e.page, err = page[entryRow](ctx, e.db, sqlExportEntry, e.after, e.last, exportEntries); err != nil || len(e.page) == 0 {
				return err
			}
			e.after = e.page[len(e.page)-1].Index
		}
		next := e.page[0]
		if next.Index > to {
			return nil
		}
		if _, err := fmt.Fprintf(out, "entry %d %d\n%s\n", next.Index, len(next.Body), next.Body); err != nil {
			return err
		}
		e.page = e.page[1:]
	}
}

type tileRow struct {
	Level int    `db:"level"`
	Index int64  `db:"idx"`
	Data  []byte `db:"data"`
}

func (l *Log) exportTiles(ctx context.Context, out *bufio.Writer, until int64) error {
	for last := (tileRow{Level: -1}); ; {
		tiles, err := page[tileRow](ctx, l.db, sqlExportTile, last.Level, last.Index, until, exportTiles)
		if err != nil || len(tiles) == 0 {
			return err
		}
		for _, t := range tiles {
			if _, err := fmt.Fprintf(out, "tile %d %d %s\n", t.Level, t.Index, base64.StdEncoding.EncodeToString(t.Data)); err != nil {
				return err
			}
		}
		last = tiles[len(tiles)-1]
	}
}
