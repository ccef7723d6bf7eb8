package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/corim"
)

// Endorsement is a document in which somebody else signs digests of files.
type Endorsement struct {
	ID         string
	SHA256     []byte
	CorimID    string
	Signer     string // the name that the signer gives itself
	SignerKey  string // corim.PublicKey.ID of the key that signed
	Digests    int
	NotAfter   *time.Time
	ImportedBy string
	ImportedAt time.Time
}

// Endorsed says that a document in force names the digest of one of an image's files.
type Endorsed struct {
	File        Kind
	Subject     string // what the document says that the digest is of
	Endorsement string
	CorimID     string
	Signer      string
	SignerKey   string
	NotAfter    *time.Time
}

const endorsementColumns = `id, sha256, corim_id, signer, signer_key, digests, not_after, imported_by, imported_at`

// Import stores a document that one of the configured keys has signed and that is good now, by the database's clock. It
// changes no image: whoever approves one sees it, and decides.
func (s *Service) Import(ctx context.Context, tx pgx.Tx, who audit.Actor, body []byte) (Endorsement, audit.ID, error) {
	doing := func(err error) (Endorsement, audit.ID, error) {
		return Endorsement{}, 0, fmt.Errorf("importing a document: %w", err)
	}
	if who.Subject == "" {
		return doing(fmt.Errorf("%w: it is imported by somebody", ErrInvalid))
	}
	var now time.Time
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return doing(err)
	}
	signed, err := corim.Verify(body, s.endorsers, now)
	if err != nil {
		return doing(err)
	}
	digests, subjects := fileDigests(signed.Document)
	if len(digests) == 0 {
		return doing(fmt.Errorf("%w: it names no SHA-256 or SHA-512 digest, so no file", ErrInvalid))
	}
	hash := sha256.Sum256(body)
	var until *time.Time
	if end := signed.Until(); !end.IsZero() {
		until = &end
	}
	rows, err := tx.Query(ctx, `INSERT INTO endorsement (id, sha256, body, corim_id, signer, signer_key, digests, not_after, imported_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (sha256) DO NOTHING RETURNING `+endorsementColumns,
		strings.ToLower(ulid.Make().String()), hash[:], body, signed.Document.ID, signed.Signer, signed.Key, len(digests), until, who.Subject)
	if err != nil {
		return doing(err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Endorsement])
	if errors.Is(err, pgx.ErrNoRows) {
		return doing(fmt.Errorf("%w: this very document is here already", ErrState))
	}
	if err != nil {
		return doing(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO endorsed_digest (endorsement, digest, subject) SELECT $1, * FROM unnest($2::bytea[], $3::text[])`, e.ID, digests, subjects); err != nil {
		return doing(err)
	}
	details := map[string]any{"sha256": hex.EncodeToString(hash[:]), "corim": e.CorimID, "signer_key": e.SignerKey, "digests": e.Digests}
	if until != nil {
		details["not_after"] = until.UTC().Format(time.RFC3339)
	}
	entry, err := s.audit.Append(ctx, tx, audit.Entry{Actor: who, Action: "endorsement.import", Object: "endorsement/" + e.ID, Outcome: audit.Success, Details: details})
	if err != nil {
		return doing(err)
	}
	return e, entry, nil
}

// fileDigests are the digests in a document that a stored file can have, and in words of what each is.
func fileDigests(d corim.Document) (digests [][]byte, subjects []string) {
	for _, tag := range d.Tags {
		for _, v := range tag.Values {
			for _, digest := range v.Digests {
				if digest.Algorithm == corim.SHA256 || digest.Algorithm == corim.SHA512 {
					digests, subjects = append(digests, digest.Value), append(subjects, v.Subject())
				}
			}
		}
	}
	return digests, subjects
}

// Endorsements lists documents, newest first, older ones than before.
func (s *Service) Endorsements(ctx context.Context, before string, limit int) ([]Endorsement, error) {
	rows, err := s.db.Query(ctx, `SELECT `+endorsementColumns+` FROM endorsement WHERE $1 = '' OR id < $1 ORDER BY id DESC LIMIT $2`, before, limit)
	if err != nil {
		return nil, fmt.Errorf("listing endorsements: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Endorsement])
	if err != nil {
		return nil, fmt.Errorf("listing endorsements: %w", err)
	}
	return list, nil
}

// Endorsement returns one document and its bytes.
func (s *Service) Endorsement(ctx context.Context, id string) (Endorsement, []byte, error) {
	type withBody struct {
		Endorsement
		Body []byte
	}
	rows, err := s.db.Query(ctx, `SELECT `+endorsementColumns+`, body FROM endorsement WHERE id = $1`, id)
	if err != nil {
		return Endorsement{}, nil, fmt.Errorf("reading endorsement %s: %w", id, err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[withBody])
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return Endorsement{}, nil, fmt.Errorf("reading endorsement %s: %w", id, err)
	}
	return e.Endorsement, e.Body, nil
}

// Endorsed says which of an image's files are named in documents that have not ended and whose key is still configured. One
// image can be named so often that the list ends before its end; what it leaves out is more of the same.
func (s *Service) Endorsed(ctx context.Context, id string) ([]Endorsed, error) {
	list, err := s.endorsed(ctx, s.db, id)
	if err != nil {
		return nil, fmt.Errorf("reading the endorsements of image %s: %w", id, err)
	}
	return list, nil
}

func (s *Service) endorsed(ctx context.Context, db querier, id string) ([]Endorsed, error) {
	keys := []string{}
	for _, key := range s.endorsers {
		keys = append(keys, key.ID())
	}
	rows, err := db.Query(ctx, `SELECT f.file, d.subject, e.id AS endorsement, e.corim_id, e.signer, e.signer_key, e.not_after
		FROM image i
		CROSS JOIN LATERAL (VALUES ('kernel', i.kernel), ('initrd', i.initrd), ('firmware', i.firmware)) f (file, sha256)
		JOIN blob b ON b.sha256 = f.sha256
		JOIN endorsed_digest d ON d.digest IN (b.sha256, b.sha512)
		JOIN endorsement e ON e.id = d.endorsement
		WHERE i.id = $1 AND e.signer_key = ANY ($2) AND (e.not_after IS NULL OR e.not_after > now())
		GROUP BY f.file, d.subject, e.id ORDER BY f.file, e.id, d.subject LIMIT 100`, id, keys)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Endorsed])
}
