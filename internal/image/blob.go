package image

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/jackc/pgx/v5"
)

// pieceSize is how many bytes of a file stand in one row.
const pieceSize = 1 << 20

// ErrTooLarge: the upload has more bytes than its kind may have.
var ErrTooLarge = errors.New("file is too large")

// Store reads r to its end and keeps it by content, at most kind.MaxSize() bytes. Bytes that are there already are not
// stored twice. It runs in the caller's transaction: an upload that breaks off leaves nothing behind.
func (s *Service) Store(ctx context.Context, tx pgx.Tx, kind Kind, r io.Reader) (File, error) {
	limit := kind.MaxSize()
	if limit == 0 {
		return File{}, fmt.Errorf("storing a file: %w: %q is neither kernel, initrd nor firmware", ErrInvalid, kind)
	}
	// The content's name is known only at the end, so pieces are first written into a
	// temporary table that vanishes with the transaction.
	if _, err := tx.Exec(ctx, `CREATE TEMPORARY TABLE IF NOT EXISTS upload_piece (seq integer PRIMARY KEY, data bytea NOT NULL) ON COMMIT DROP`); err != nil {
		return File{}, fmt.Errorf("storing %s: %w", kind, err)
	}
	if _, err := tx.Exec(ctx, `TRUNCATE upload_piece`); err != nil {
		return File{}, fmt.Errorf("storing %s: %w", kind, err)
	}
	h256, h512 := sha256.New(), sha512.New()
	size, err := writePieces(ctx, tx, io.LimitReader(r, limit+1), h256, h512)
	if err != nil {
		return File{}, fmt.Errorf("storing %s: %w", kind, err)
	}
	if size > limit {
		return File{}, fmt.Errorf("storing %s: %w: more than %d bytes", kind, ErrTooLarge, limit)
	}
	if size == 0 {
		return File{}, fmt.Errorf("storing %s: %w: it is empty", kind, ErrInvalid)
	}
	file := File{Size: size}
	h256.Sum(file.SHA256[:0])
	h512.Sum(file.SHA512[:0])
	tag, err := tx.Exec(ctx, `INSERT INTO blob (sha256, sha512, size) VALUES ($1, $2, $3) ON CONFLICT (sha256) DO NOTHING`, file.SHA256[:], file.SHA512[:], size)
	if err != nil {
		return File{}, fmt.Errorf("storing %s: %w", kind, err)
	}
	if tag.RowsAffected() == 1 {
		if _, err := tx.Exec(ctx, `INSERT INTO blob_piece (sha256, seq, data) SELECT $1, seq, data FROM upload_piece ORDER BY seq`, file.SHA256[:]); err != nil {
			return File{}, fmt.Errorf("storing %s: %w", kind, err)
		}
	}
	return file, nil
}

func writePieces(ctx context.Context, tx pgx.Tx, r io.Reader, hashes ...hash.Hash) (int64, error) {
	var size int64
	buf := make([]byte, pieceSize)
	for seq := 0; ; seq++ {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			for _, h := range hashes {
				h.Write(buf[:n])
			}
			if _, err := tx.Exec(ctx, `INSERT INTO upload_piece (seq, data) VALUES ($1, $2)`, seq, buf[:n]); err != nil {
				return size, err
			}
			size += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return size, nil
		case err != nil:
			return size, fmt.Errorf("reading the upload: %w", err)
		}
	}
}

// Open streams a stored file, one piece in memory at a time. Every piece is a statement of its own, so a slow reader
// holds no transaction. ErrNotFound if there is no such file.
func (s *Service) Open(ctx context.Context, sha256 [32]byte) (io.ReadCloser, error) {
	var pieces int
	err := s.db.QueryRow(ctx, `SELECT (size + $2 - 1) / $2 FROM blob WHERE sha256 = $1`, sha256[:], pieceSize).Scan(&pieces)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("opening file %x: %w", sha256, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening file %x: %w", sha256, err)
	}
	return &pieceReader{ctx: ctx, service: s, name: sha256, pieces: pieces}, nil
}

type pieceReader struct {
	ctx     context.Context // of the one call that Open serves; the reader does not outlive it
	service *Service
	name    [32]byte
	pieces  int
	next    int
	rest    []byte
}

func (p *pieceReader) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if p.next == p.pieces {
			return 0, io.EOF
		}
		err := p.service.db.QueryRow(p.ctx, `SELECT data FROM blob_piece WHERE sha256 = $1 AND seq = $2`, p.name[:], p.next).Scan(&p.rest)
		if err != nil {
			return 0, fmt.Errorf("reading piece %d of file %x: %w", p.next, p.name, err)
		}
		p.next++
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieceReader) Close() error {
	p.rest, p.next = nil, p.pieces
	return nil
}
