package audit

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
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
func (l *Log) Export(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	// One snapshot for all queries: batches that come meanwhile are not seen.
	err := pgx.BeginTxFunc(ctx, l.db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0"); err != nil { // a large log takes its time
			return err
		}
		return export(ctx, tx, out, l.sign.origin)
	})
	if err != nil {
		return fmt.Errorf("exporting audit log: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("exporting audit log: %w", err)
	}
	return nil
}

const (
	exportHeader    = "siesta-audit-export/v1"
	exportStep      = 1024 // batches read at once
	sqlExportBatch  = `SELECT size, first_index, leaves, checkpoint FROM audit_batch WHERE size > $1 ORDER BY size LIMIT $2`
	sqlExportTiles  = `SELECT level, idx, data FROM audit_tile ORDER BY level, idx`
	sqlExportBeyond = `SELECT leaf_index, body FROM audit_entry WHERE leaf_index >= $1 ORDER BY leaf_index`
)

type batchRow struct {
	Size       int64  `db:"size"`
	FirstIndex int64  `db:"first_index"`
	Leaves     []byte `db:"leaves"`
	Checkpoint []byte `db:"checkpoint"`
}

func export(ctx context.Context, tx pgx.Tx, out *bufio.Writer, origin string) error {
	fmt.Fprintf(out, "%s\norigin %s\n", exportHeader, origin)
	size := int64(-1)
	for {
		rows, err := tx.Query(ctx, sqlExportBatch, size, exportStep)
		if err != nil {
			return err
		}
		batches, err := pgx.CollectRows(rows, pgx.RowToStructByName[batchRow])
		if err != nil {
			return err
		}
		if len(batches) == 0 {
			break
		}
		if err := exportBatches(ctx, tx, out, max(size, 0), batches); err != nil {
			return err
		}
		size = batches[len(batches)-1].Size
	}
	if err := exportBeyond(ctx, tx, out, max(size, 0)); err != nil {
		return err
	}
	if err := exportTiles(ctx, tx, out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "end %d\n", max(size, 0))
	return err
}

func exportBatches(ctx context.Context, tx pgx.Tx, out *bufio.Writer, from int64, batches []batchRow) error {
	rows, err := tx.Query(ctx, sqlBundle, from, batches[len(batches)-1].Size)
	if err != nil {
		return err
	}
	defer rows.Close()
	more := rows.Next()
	for _, b := range batches {
		fmt.Fprintf(out, "batch %d %d %s\n", b.FirstIndex, b.Size-b.FirstIndex, base64.StdEncoding.EncodeToString(b.Leaves))
		for more {
			var index int64
			var body []byte
			if err := rows.Scan(&index, &body); err != nil {
				return err
			}
			if index >= b.Size {
				break
			}
			writeEntry(out, index, body)
			more = rows.Next()
		}
		if err := rows.Err(); err != nil {
			return err
		}
		fmt.Fprintf(out, "checkpoint %d %d\n%s", b.Size, len(b.Checkpoint), b.Checkpoint)
		if _, err := out.WriteString("\n"); err != nil {
			return err
		}
	}
	return nil
}

func writeEntry(out *bufio.Writer, index int64, body []byte) {
	fmt.Fprintf(out, "entry %d %d\n%s\n", index, len(body), body)
}

// exportBeyond writes entries that no batch covers, which only a tampered log has.
func exportBeyond(ctx context.Context, tx pgx.Tx, out *bufio.Writer, from int64) error {
	rows, err := tx.Query(ctx, sqlExportBeyond, from)
	if err != nil {
		return err
	}
	var index int64
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&index, &body}, func() error {
		writeEntry(out, index, body)
		return nil
	})
	return err
}

func exportTiles(ctx context.Context, tx pgx.Tx, out *bufio.Writer) error {
	rows, err := tx.Query(ctx, sqlExportTiles)
	if err != nil {
		return err
	}
	var level int
	var index int64
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&level, &index, &data}, func() error {
		_, err := fmt.Fprintf(out, "tile %d %d %s\n", level, index, base64.StdEncoding.EncodeToString(data))
		return err
	})
	return err
}
