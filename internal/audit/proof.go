package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

// querier is a pool or a connection.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// One query gives everything that a proof needs: complete tiles, and for
// partial ones the hashes at the edge: leaves for level 0, roots of complete
// tiles for the levels above.
const sqlReadTiles = `SELECT 0 AS kind, t.level, t.idx, 0::bigint AS at, t.data
FROM unnest($1::int[], $2::bigint[]) AS w (level, idx) JOIN audit_tile t USING (level, idx)
UNION ALL
SELECT 1, w.level, w.idx, t.idx, t.root
FROM unnest($3::int[], $4::bigint[]) AS w (level, idx)
JOIN audit_tile t ON t.level = w.level - 1 AND t.idx >= w.idx * 256 AND t.idx < (w.idx + 1) * 256
UNION ALL
SELECT 2, 0, w.idx, b.first_index, b.leaves
FROM unnest($3::int[], $4::bigint[]) AS w (level, idx)
JOIN audit_batch b ON b.size > w.idx * 256 AND b.size < (w.idx + 1) * 256 + 1024 AND b.first_index < (w.idx + 1) * 256
WHERE w.level = 0
ORDER BY kind, at`

// tileReader reads tiles from the database. What it returns is not believed:
// tlog.TileHashReader checks it against the head.
type tileReader struct {
	ctx context.Context // of the one request that the reader serves
	db  querier
}

func (r *tileReader) Height() int { return tileHeight }

func (r *tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

type tileKey struct {
	level int
	index int64
}

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var fullLevels, partLevels []int32
	var fullIndexes, partIndexes []int64
	for _, t := range tiles {
		fullLevels, fullIndexes = append(fullLevels, int32(t.L)), append(fullIndexes, t.N)
		if t.W < tileWidth {
			partLevels, partIndexes = append(partLevels, int32(t.L)), append(partIndexes, t.N)
		}
	}
	rows, err := r.db.Query(r.ctx, sqlReadTiles, fullLevels, fullIndexes, partLevels, partIndexes)
	if err != nil {
		return nil, fmt.Errorf("reading tiles: %w", err)
	}
	found := make(map[tileKey][]byte, len(tiles))
	whole := make(map[tileKey]bool, len(tiles))
	var kind, level int
	var index, at int64
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&kind, &level, &index, &at, &data}, func() error {
		key := tileKey{level, index}
		start := index * tileWidth
		switch {
		case kind == 0:
			found[key], whole[key] = data, true
		case whole[key]: // completed since
		case kind == 1 && at == start+int64(len(found[key])/tlog.HashSize):
			found[key] = append(found[key], data...)
		case kind == 2:
			if skip := start + int64(len(found[key])/tlog.HashSize) - at; skip >= 0 && skip*tlog.HashSize <= int64(len(data)) {
				found[key] = append(found[key], data[skip*tlog.HashSize:]...)
			}
		}
		data = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading tiles: %w", err)
	}
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data := found[tileKey{t.L, t.N}]
		if len(data) < t.W*tlog.HashSize {
			return nil, fmt.Errorf("reading tiles: tile %d/%d of width %d: %w", t.L, t.N, t.W, ErrNotFound)
		}
		out[i] = data[:t.W*tlog.HashSize]
	}
	return out, nil
}

// Checkpoint returns the newest signed head.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	var text []byte
	err := l.db.QueryRow(ctx, sqlNewestBatch).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("reading newest checkpoint: %w (the log has not been started yet)", ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading newest checkpoint: %w", err)
	}
	return text, nil
}

func (l *Log) head(ctx context.Context) (Checkpoint, error) {
	text, err := l.Checkpoint(ctx)
	if err != nil {
		return Checkpoint{}, err
	}
	return l.verify.Checkpoint(text)
}

// ErrRange says that an index or size is not within the log.
var ErrRange = errors.New("outside the log")

// Inclusion proves that the entry at index is in the tree of the given size.
func (l *Log) Inclusion(ctx context.Context, index, size int64) (tlog.RecordProof, error) {
	head, err := l.head(ctx)
	if err != nil {
		return nil, err
	}
	if index < 0 || index >= size || size > head.Size {
		return nil, fmt.Errorf("proving entry %d in a tree of %d: %w", index, size, ErrRange)
	}
	return l.inclusion(ctx, head, index, size)
}

func (l *Log) inclusion(ctx context.Context, head Checkpoint, index, size int64) (tlog.RecordProof, error) {
	proof, err := tlog.ProveRecord(size, index, l.hashes(ctx, head))
	if err != nil {
		return nil, fmt.Errorf("proving entry %d in a tree of %d: %w", index, size, err)
	}
	return proof, nil
}

// Consistency proves that the tree of size next extends the tree of size old.
func (l *Log) Consistency(ctx context.Context, old, next int64) (tlog.TreeProof, error) {
	head, err := l.head(ctx)
	if err != nil {
		return nil, err
	}
	if old < 1 || old > next || next > head.Size {
		return nil, fmt.Errorf("proving that size %d extends size %d: %w", next, old, ErrRange)
	}
	proof, err := tlog.ProveTree(next, old, l.hashes(ctx, head))
	if err != nil {
		return nil, fmt.Errorf("proving that size %d extends size %d: %w", next, old, err)
	}
	return proof, nil
}

func (l *Log) hashes(ctx context.Context, head Checkpoint) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: head.Size, Hash: head.Root}, &tileReader{ctx, l.db})
}

// Receipt proves a stored entry under the newest head.
func (l *Log) Receipt(ctx context.Context, index int64) (Receipt, error) {
	head, proof, err := l.proven(ctx, index)
	if err != nil {
		return Receipt{}, err
	}
	return formatReceipt(index, proof, head.Text), nil
}

// proven returns the newest head and the proof of what stands at index under it.
func (l *Log) proven(ctx context.Context, index int64) (Checkpoint, tlog.RecordProof, error) {
	head, err := l.head(ctx)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if index < 0 || index >= head.Size {
		return Checkpoint{}, nil, fmt.Errorf("proving entry %d: %w", index, ErrNotFound)
	}
	proof, err := l.inclusion(ctx, head, index, head.Size)
	return head, proof, err
}
