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

// Endorsed says that a document in force names one of an image's files by its digests.
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

// endorsedLines is how many lines of Endorsed one file may have.
const endorsedLines = 100

// Import stores a document that one of the configured keys has signed and that is good now, by the database's clock. It
// changes no image: whoever approves one sees it, and decides. What a key signed is stored once, in the form in which it first came.
func (s *Service) Import(ctx context.Context, tx pgx.Tx, who audit.Actor, body []byte) (Endorsement, audit.ID, error) {
	doing := func(err error) (Endorsement, audit.ID, error) {
		return Endorsement{}, 0, fmt.Errorf("importing a document: %w", err)
	}
	if who.Subject == "" {
		return doing(invalid("it is imported by somebody"))
	}
	var now time.Time
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return doing(err)
	}
	signed, err := corim.Verify(body, s.endorsers, now)
	if err != nil {
		return doing(err)
	}
	values, err := fileValues(signed.Document)
	if err != nil {
		return doing(err)
	}
	hash := sha256.Sum256(body)
	var until *time.Time
	if end := signed.Until(); !end.IsZero() {
		until = &end
	}
	rows, err := tx.Query(ctx, `INSERT INTO endorsement (id, statement, sha256, body, corim_id, signer, signer_key, digests, not_after, imported_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (statement) DO NOTHING RETURNING `+endorsementColumns,
		strings.ToLower(ulid.Make().String()), signed.Statement[:], hash[:], body, signed.Document.ID, signed.Signer, signed.Key, values.digests, until, who.Subject)
	if err != nil {
		return doing(err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Endorsement])
	if errors.Is(err, pgx.ErrNoRows) {
		return doing(fmt.Errorf("%w: what it says is here already, signed by the same key", ErrState))
	}
	if err != nil {
		return doing(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO endorsed_value (endorsement, sha256, sha512, subject) SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::text[])`,
		e.ID, values.sha256, values.sha512, values.subjects); err != nil {
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

// fileDigests are the values of a document by which a stored file can be known, a line for each.
type fileDigests struct {
	sha256, sha512 [][]byte // nil where the value has none
	subjects       []string // what the document says that each is of
	digests        int
}

func fileValues(d corim.Document) (out fileDigests, err error) {
	for _, tag := range d.Tags {
		for _, v := range tag.Values {
			var sum256, sum512 []byte
			for _, digest := range v.Digests {
				switch digest.Algorithm {
				case corim.SHA256:
					sum256 = digest.Value
				case corim.SHA512:
					sum512 = digest.Value
				default:
					continue
				}
				out.digests++
			}
			if sum256 == nil && sum512 == nil {
				continue
			}
			subject := v.Subject()
			if subject == "" {
				return fileDigests{}, invalid("it does not say of what a digest is")
			}
			out.sha256, out.sha512, out.subjects = append(out.sha256, sum256), append(out.sha512, sum512), append(out.subjects, subject)
		}
	}
	if out.digests == 0 {
		return fileDigests{}, invalid("it names no SHA-256 or SHA-512 digest, so no file")
	}
	return out, nil
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

// Endorsed says which of an image's files are named in documents that have not ended and whose key is still configured: of
// each file some lines, its newest documents first, and how many more there are.
func (s *Service) Endorsed(ctx context.Context, id string) (list []Endorsed, more int, err error) {
	lines, err := s.endorsed(ctx, s.db, id)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the endorsements of image %s: %w", id, err)
	}
	for _, line := range lines {
		list = append(list, line.Endorsed)
		if line.Place == 1 {
			more += line.Lines
		}
	}
	return list, more - len(list), nil
}

type endorsedLine struct {
	Endorsed
	Nth       int // which of its document's lines for the file this is
	Place     int // among the file's
	Lines     int // that the file has, with those that are left out
	Documents int // that name the file, likewise
}

// endorsed puts a line of every document first, so that none is left out for what another says twice.
func (s *Service) endorsed(ctx context.Context, db querier, id string) ([]endorsedLine, error) {
	keys := []string{}
	for _, key := range s.endorsers {
		keys = append(keys, key.ID())
	}
	rows, err := db.Query(ctx, `WITH line AS (
			SELECT f.file, v.subject, e.id AS endorsement, e.corim_id, e.signer, e.signer_key, e.not_after,
				row_number() OVER (PARTITION BY f.file, e.id ORDER BY v.subject) AS nth
			FROM image i
			CROSS JOIN LATERAL (VALUES ('kernel', i.kernel), ('initrd', i.initrd), ('firmware', i.firmware)) f (file, sha256)
			JOIN blob b ON b.sha256 = f.sha256
			JOIN endorsed_value v ON (v.sha256 = b.sha256 OR v.sha512 = b.sha512)
				AND coalesce(v.sha256, b.sha256) = b.sha256 AND coalesce(v.sha512, b.sha512) = b.sha512
			JOIN endorsement e ON e.id = v.endorsement
			WHERE i.id = $1 AND e.signer_key = ANY ($2) AND (e.not_after IS NULL OR e.not_after > now())
			GROUP BY f.file, v.subject, e.id),
		placed AS (
			SELECT *, row_number() OVER (PARTITION BY file ORDER BY nth, endorsement DESC) AS place,
				count(*) OVER (PARTITION BY file) AS lines, count(*) FILTER (WHERE nth = 1) OVER (PARTITION BY file) AS documents
			FROM line)
		SELECT * FROM placed WHERE place <= $3 ORDER BY file, place`, id, keys, endorsedLines)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[endorsedLine])
}
