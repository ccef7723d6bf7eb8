package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/mod/sumdb/tlog"
)

// Tiles serves the log read-only in the C2SP tlog-tiles layout:
//
//	/checkpoint
//	/tile/<L>/<N>[.p/<W>]        hashes
//	/tile/entries/<N>[.p/<W>]    entry bundles
//
// Hashes and checkpoints say nothing about anybody. Bundles hold the bodies of
// entries: whoever mounts the handler lets only auditors reach tile/entries/.
func (l *Log) Tiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", func(w http.ResponseWriter, r *http.Request) {
		text, err := l.Checkpoint(r.Context())
		l.serve(w, text, err, "text/plain; charset=utf-8", "no-cache")
	})
	mux.HandleFunc("GET /tile/{path...}", func(w http.ResponseWriter, r *http.Request) {
		tile, entries, err := parseTilePath(r.PathValue("path"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		read := l.tileData
		if entries {
			read = l.bundle
		}
		data, err := read(r.Context(), tile)
		l.serve(w, data, err, "application/octet-stream", "public, max-age=31536000, immutable")
	})
	return mux
}

func (l *Log) serve(w http.ResponseWriter, data []byte, err error, contentType, cache string) {
	switch {
	case errors.Is(err, ErrNotFound):
		http.Error(w, "not in the log", http.StatusNotFound)
	case err != nil:
		l.logger.Error("serving audit log", zap.Error(err))
		http.Error(w, "the log cannot be read now", http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", cache)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data) // the client is gone: nobody to tell
	}
}

// parseTilePath reads <L>/<N>[.p/<W>] or entries/<N>[.p/<W>], where N is in
// groups of three digits, all but the last prefixed by x, and W is 1 to 255.
func parseTilePath(path string) (tile tlog.Tile, entries bool, err error) {
	bad := fmt.Errorf("tile path is malformed")
	first, rest, ok := strings.Cut(path, "/")
	if !ok || len(path) > 64 {
		return tile, false, bad
	}
	tile = tlog.Tile{H: tileHeight, W: tileWidth}
	if first == "entries" {
		entries = true
	} else if tile.L, err = strconv.Atoi(first); err != nil || tile.L < 0 || tile.L >= tileLevels || strconv.Itoa(tile.L) != first {
		return tile, false, bad
	}
	if number, width, partial := strings.Cut(rest, ".p/"); partial {
		if tile.W, err = strconv.Atoi(width); err != nil || tile.W < 1 || tile.W >= tileWidth || strconv.Itoa(tile.W) != width {
			return tile, false, bad
		}
		rest = number
	}
	groups := strings.Split(rest, "/")
	if len(groups) > 5 {
		return tile, false, bad
	}
	for i, group := range groups {
		digits, more := strings.CutPrefix(group, "x")
		if more != (i < len(groups)-1) || len(digits) != 3 || strings.Trim(digits, "0123456789") != "" {
			return tile, false, bad
		}
		if i == 0 && more && digits == "000" {
			return tile, false, bad // a number has one path only
		}
		n, _ := strconv.ParseInt(digits, 10, 64) // three digits, seen above
		tile.N = tile.N*1000 + n
	}
	return tile, entries, nil
}

// tileData returns a tile's hashes. They need no check here: whoever reads
// tiles checks them against a checkpoint.
func (l *Log) tileData(ctx context.Context, tile tlog.Tile) ([]byte, error) {
	data, err := (&tileReader{ctx, l.db}).ReadTiles([]tlog.Tile{tile})
	if err != nil {
		return nil, err
	}
	return data[0], nil
}

const sqlBundle = `SELECT leaf_index, body FROM audit_entry WHERE leaf_index >= $1 AND leaf_index < $2 ORDER BY leaf_index`

// bundle returns the bodies of a level-0 tile, each after its 16-bit length.
func (l *Log) bundle(ctx context.Context, tile tlog.Tile) ([]byte, error) {
	start := tile.N * tileWidth
	rows, err := l.db.Query(ctx, sqlBundle, start, start+int64(tile.W))
	if err != nil {
		return nil, fmt.Errorf("reading entry bundle: %w", err)
	}
	var out []byte
	var index int64
	var body []byte
	next := start
	_, err = pgx.ForEachRow(rows, []any{&index, &body}, func() error {
		if index != next || len(body) > 0xffff {
			return fmt.Errorf("entry %d is missing or too long", next)
		}
		next++
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(body))), body...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading entry bundle: %w", err)
	}
	if next != start+int64(tile.W) {
		return nil, fmt.Errorf("reading entry bundle: %w", ErrNotFound)
	}
	return out, nil
}
