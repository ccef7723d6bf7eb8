package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	sqlNewestBatch = `SELECT checkpoint FROM audit_batch ORDER BY size DESC LIMIT 1`
	sqlEdgeLeaves  = `SELECT first_index, leaves FROM audit_batch WHERE size > $1 ORDER BY size`
	sqlEdgeRoots   = `SELECT root FROM audit_tile WHERE level = $1 AND idx >= $2 ORDER BY idx`
)

// load rebuilds the right edge from what is stored and refuses to go on unless
// it is what was last signed, and extends what was last seen.
func (t *lead) load(ctx context.Context, head headRow) error {
	var text []byte
	err := t.conn.QueryRow(ctx, sqlNewestBatch).Scan(&text)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && head.size == 0:
		t.edge = newEdge()
		if err := t.compareLastSeen(ctx, t.edge.tree()); err != nil {
			return err
		}
		return t.sayEmpty(ctx)
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: the head has size %d and there is no checkpoint", errTampered, head.size)
	case err != nil:
		return fmt.Errorf("reading newest checkpoint: %w", err)
	}
	signed, err := t.log.verify.Checkpoint(text)
	if err != nil {
		return fmt.Errorf("%w: %w", errTampered, err)
	}
	if t.edge, err = t.rebuild(ctx, head.size); err != nil {
		return err
	}
	tree := t.edge.tree()
	if signed.Size != head.size || !bytes.Equal(signed.Root[:], head.root) || signed.Root != tree.Hash {
		return fmt.Errorf("%w: newest checkpoint has size %d, head %d, and their roots and the stored leaves' are not all the same",
			errTampered, signed.Size, head.size)
	}
	t.latest = text
	return t.compareLastSeen(ctx, tree)
}

// sayEmpty stores the checkpoint of the empty log, so that there is always one.
func (t *lead) sayEmpty(ctx context.Context) error {
	text, err := t.log.sign.sign(t.edge.tree())
	if err != nil {
		return err
	}
	work := &pgx.Batch{}
	work.Queue("BEGIN")
	work.Queue(sqlFence, t.epoch, int64(0))
	work.Queue(sqlBatch, int64(0), int64(0), t.epoch, []byte{}, text)
	work.Queue("COMMIT")
	if err := t.conn.SendBatch(ctx, work).Close(); err != nil {
		return fmt.Errorf("storing the first checkpoint: %w", err)
	}
	t.latest = text
	return nil
}

func (t *lead) rebuild(ctx context.Context, size int64) (edge, error) {
	e := newEdge()
	e.size = size
	start := size &^ (tileWidth - 1)
	rows, err := t.conn.Query(ctx, sqlEdgeLeaves, start)
	if err != nil {
		return e, fmt.Errorf("reading leaves of the edge: %w", err)
	}
	next := int64(-1)
	var first int64
	var leaves []byte
	_, err = pgx.ForEachRow(rows, []any{&first, &leaves}, func() error {
		if next >= 0 && first != next {
			return fmt.Errorf("%w: leaves %d to %d are missing", errTampered, next, first)
		}
		next = first + int64(len(leaves)/tlog.HashSize)
		for ; len(leaves) >= tlog.HashSize; leaves, first = leaves[tlog.HashSize:], first+1 {
			if first >= start && first < size {
				e.levels[0].push(tlog.Hash(leaves[:tlog.HashSize]))
			}
		}
		return nil
	})
	if err != nil {
		return e, fmt.Errorf("reading leaves of the edge: %w", err)
	}
	for level := 1; level < tileLevels; level++ {
		width := size >> (tileHeight * level)
		rows, err := t.conn.Query(ctx, sqlEdgeRoots, level-1, width&^(tileWidth-1))
		if err != nil {
			return e, fmt.Errorf("reading tiles of the edge: %w", err)
		}
		roots, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			return e, fmt.Errorf("reading tiles of the edge: %w", err)
		}
		if int64(len(roots)) != width&(tileWidth-1) {
			return e, fmt.Errorf("%w: level %d has %d tiles at its edge instead of %d", errTampered, level-1, len(roots), width&(tileWidth-1))
		}
		for _, root := range roots {
			e.levels[level].push(tlog.Hash(root))
		}
	}
	if have := int64(len(e.levels[0][0])); have != size-start {
		return e, fmt.Errorf("%w: the last tile has %d leaves instead of %d", errTampered, have, size-start)
	}
	return e, nil
}

// compareLastSeen refuses a tree that does not extend the checkpoint kept
// outside the database: the mark of a restored backup, or of a fork.
func (t *lead) compareLastSeen(ctx context.Context, tree tlog.Tree) error {
	if t.log.lastSeen == "" {
		return nil
	}
	text, err := os.ReadFile(t.log.lastSeen)
	if errors.Is(err, fs.ErrNotExist) {
		t.log.logger.Warn("no checkpoint was remembered, so a restored database would not be noticed now",
			zap.String("file", t.log.lastSeen), zap.Int64("size", tree.N))
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the last seen checkpoint: %w", err)
	}
	seen, err := t.log.verify.Checkpoint(text)
	if err != nil {
		return fmt.Errorf("%w: the last seen checkpoint in %s: %w", errTampered, t.log.lastSeen, err)
	}
	if seen.Size > tree.N {
		return fmt.Errorf("%w: it has %d entries and had %d when last seen (was the database restored from a backup?)",
			errTampered, tree.N, seen.Size)
	}
	root, err := tlog.TreeHash(seen.Size, tlog.TileHashReader(tree, &tileReader{ctx, t.conn}))
	if err != nil {
		return fmt.Errorf("comparing with the last seen checkpoint: %w", err)
	}
	if root != seen.Root {
		return fmt.Errorf("%w: it does not extend the checkpoint of size %d in %s", errTampered, seen.Size, t.log.lastSeen)
	}
	return nil
}

// remember keeps the newest checkpoint outside the database, at most once a
// second. Failing only makes a later comparison weaker, so it is no error.
func (t *lead) remember(last bool) {
	if t.log.lastSeen == "" || t.latest == nil || (!last && time.Since(t.saved) < time.Second) {
		return
	}
	t.saved = time.Now()
	if err := writeDurably(t.log.lastSeen, t.latest); err != nil {
		t.log.logger.Warn("remembering the newest checkpoint", zap.Error(err))
	}
	t.latest = nil
}

// writeDurably replaces a file: after a crash it has the old or the new content.
func writeDurably(name string, content []byte) error {
	dir := filepath.Dir(name)
	file, err := os.CreateTemp(dir, filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // fails after the rename, as it should
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return err
	}
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}
