package image

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/jackc/pgx/v5"
)

// pieceSize is how many bytes of a file stand in one row.
const pieceSize = 1 << 20

// ErrTooLarge: the upload has more bytes than its kind may have.
var ErrTooLarge = errors.New("file is too large")

// Upload is a file that has been received and is not yet stored. Close drops it.
type Upload struct {
	File
	content *os.File
}

// Receive reads r to its end, at most kind.MaxSize() bytes, into a temporary file that has no name: a crash leaves
// nothing. It uses no connection of the database, so it may take as long as the network does.
func Receive(kind Kind, r io.Reader) (_ *Upload, err error) {
	limit := kind.MaxSize()
	if limit == 0 {
		return nil, fmt.Errorf("receiving a file: %w", invalid("%q is neither kernel, initrd nor firmware", kind))
	}
	u := &Upload{}
	if u.content, err = os.CreateTemp("", "siestad-upload-"); err != nil {
		return nil, fmt.Errorf("receiving %s: %w", kind, err)
	}
	defer func() {
		if err != nil {
			_ = u.Close()
		}
	}()
	if err := os.Remove(u.content.Name()); err != nil {
		return nil, fmt.Errorf("receiving %s: %w", kind, err)
	}
	h256, h512 := sha256.New(), sha512.New()
	if u.Size, err = io.Copy(io.MultiWriter(u.content, h256, h512), io.LimitReader(r, limit+1)); err != nil {
		return nil, fmt.Errorf("receiving %s: %w", kind, err)
	}
	if u.Size > limit {
		return nil, fmt.Errorf("receiving %s: %w: more than %d bytes", kind, ErrTooLarge, limit)
	}
	if u.Size == 0 {
		return nil, fmt.Errorf("receiving %s: %w", kind, invalid("it is empty"))
	}
	h256.Sum(u.SHA256[:0])
	h512.Sum(u.SHA512[:0])
	return u, nil
}

// Close drops the received bytes.
func (u *Upload) Close() error { return u.content.Close() }

// Store keeps an upload by content in the caller's transaction. Bytes that are there already are not stored twice.
func (s *Service) Store(ctx context.Context, tx pgx.Tx, u *Upload) error {
	tag, err := tx.Exec(ctx, `INSERT INTO blob (sha256, sha512, size) VALUES ($1, $2, $3) ON CONFLICT (sha256) DO NOTHING`, u.SHA256[:], u.SHA512[:], u.Size)
	if err != nil {
		return fmt.Errorf("storing a file: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	h := sha256.New()
	r := io.TeeReader(io.NewSectionReader(u.content, 0, u.Size), h)
	buf := make([]byte, pieceSize)
	for seq := 0; ; seq++ {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := tx.Exec(ctx, `INSERT INTO blob_piece (sha256, seq, data) VALUES ($1, $2, $3)`, u.SHA256[:], seq, buf[:n]); err != nil {
				return fmt.Errorf("storing a file: %w", err)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("storing a file: %w", err)
		}
	}
	// What was read back from the disk must be what was named.
	if [sha256.Size]byte(h.Sum(nil)) != u.SHA256 {
		return errors.New("storing a file: its temporary copy has changed")
	}
	return nil
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
