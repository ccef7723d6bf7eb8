package image

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/corim"
)

// Errors that callers branch on.
var (
	ErrNotFound     = errors.New("not found")
	ErrState        = errors.New("not possible in this state")
	ErrInvalid      = errors.New("invalid")
	ErrSelfApproval = errors.New("whoever made or registered an image may not approve it")
	ErrNotAuthor    = errors.New("only who made a draft uploads its files")
)

// fault is ErrInvalid in the words that people read.
type fault string

func (f fault) Error() string { return string(f) }
func (fault) Unwrap() error   { return ErrInvalid }

func invalid(format string, args ...any) error { return fault(fmt.Sprintf(format, args...)) }

// State of an image; see the package comment.
type State string

// States of an image.
const (
	Draft      State = "draft"
	Registered State = "registered"
	Approved   State = "approved"
	Withdrawn  State = "withdrawn"
)

// Kind names one of an image's three files.
type Kind string

// Kinds of files, with the most bytes each may have.
const (
	Kernel   Kind = "kernel"
	Initrd   Kind = "initrd"
	Firmware Kind = "firmware"
)

// MaxSize is the most bytes a file of the kind may have; 0 for an unknown kind.
func (k Kind) MaxSize() int64 {
	switch k {
	case Kernel:
		return 64 << 20
	case Initrd:
		return 256 << 20
	case Firmware:
		return 16 << 20
	}
	return 0
}

// File is one stored file. The zero value is a file not yet uploaded.
type File struct {
	SHA256 [32]byte
	SHA512 [64]byte
	Size   int64
}

// Present reports whether the file has been uploaded.
func (f File) Present() bool { return f.Size > 0 }

// Image is one guest image.
type Image struct {
	ID           string
	Name         string
	State        State
	Kernel       File
	Initrd       File
	Firmware     File
	CreatedBy    string
	RegisteredBy string
	ApprovedBy   string
	WithdrawnBy  string
	Version      int64
	CreatedAt    time.Time
}

// Service keeps images and their files in Postgres.
type Service struct {
	db        *pgxpool.Pool
	audit     *audit.Recorder
	endorsers []corim.PublicKey
}

// New returns a service over a migrated database. Endorsers are the keys whose documents about files are accepted: with none,
// none is.
func New(db *pgxpool.Pool, log *audit.Recorder, endorsers ...corim.PublicKey) *Service {
	return &Service{db: db, audit: log, endorsers: endorsers}
}

// Create stores an empty draft.
func (s *Service) Create(ctx context.Context, tx pgx.Tx, who audit.Actor, name string) (Image, audit.ID, error) {
	if strings.TrimSpace(name) == "" || len(name) > 200 {
		return Image{}, 0, fmt.Errorf("creating image: %w", invalid("name must have 1 to 200 bytes"))
	}
	if who.Subject == "" {
		return Image{}, 0, fmt.Errorf("creating image: %w", invalid("an image is made by somebody"))
	}
	id := strings.ToLower(ulid.Make().String())
	if _, err := tx.Exec(ctx, `INSERT INTO image (id, name, state, created_by) VALUES ($1, $2, 'draft', $3)`, id, name, who.Subject); err != nil {
		return Image{}, 0, fmt.Errorf("creating image %s: %w", id, err)
	}
	return s.changed(ctx, tx, who, "image.create", id)
}

// Accepts says whether who may upload files of the image: only who made the draft, so that the bytes have one author, who
// can never be the one to approve them. It is asked before any byte is read; Attach asks again.
func (i Image) Accepts(who audit.Actor) error {
	if i.CreatedBy != who.Subject {
		return ErrNotAuthor
	}
	if i.State != Draft {
		return fmt.Errorf("%w: it is %s", ErrState, i.State)
	}
	return nil
}

// Attach makes a stored file part of a draft. Only who made the draft may: see Accepts.
func (s *Service) Attach(ctx context.Context, tx pgx.Tx, who audit.Actor, id string, kind Kind, sha256 [32]byte) (Image, audit.ID, error) {
	if kind.MaxSize() == 0 {
		return Image{}, 0, fmt.Errorf("attaching a file to image %s: %w", id, invalid("%q is neither kernel, initrd nor firmware", kind))
	}
	img, err := read(ctx, tx, id)
	if err == nil {
		err = img.Accepts(who)
	}
	if err != nil {
		return Image{}, 0, fmt.Errorf("attaching a file to image %s: %w", id, err)
	}
	// kind is one of three constants, so it can stand in the statement as a column name.
	return s.transition(ctx, tx, who, "image.attach", id, fmt.Sprintf(
		`UPDATE image SET %s = $2, version = version + 1
		 WHERE id = $1 AND state = 'draft' AND created_by = $3 AND EXISTS (SELECT FROM blob WHERE sha256 = $2)`, kind), sha256[:], who.Subject)
}

// Register makes a complete draft unchangeable and offers it for approval.
func (s *Service) Register(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Image, audit.ID, error) {
	return s.transition(ctx, tx, who, "image.register", id,
		`UPDATE image SET state = 'registered', registered_by = $2, version = version + 1
		 WHERE id = $1 AND state = 'draft' AND kernel IS NOT NULL AND initrd IS NOT NULL AND firmware IS NOT NULL AND $2 <> ''`, who.Subject)
}

// Approve lets workspaces start from the image. ErrSelfApproval if who made or registered it.
func (s *Service) Approve(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Image, audit.ID, error) {
	img, err := read(ctx, tx, id)
	if err != nil {
		return Image{}, 0, fmt.Errorf("approving image %s: %w", id, err)
	}
	if who.Subject == "" || img.RegisteredBy == who.Subject || img.CreatedBy == who.Subject {
		return Image{}, 0, fmt.Errorf("approving image %s: %w", id, ErrSelfApproval)
	}
	return s.transition(ctx, tx, who, "image.approve", id,
		`UPDATE image SET state = 'approved', approved_by = $2, version = version + 1 WHERE id = $1 AND state = 'registered'`, who.Subject)
}

// Withdraw ends an image for good: no key is released to it from the commit on.
func (s *Service) Withdraw(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Image, audit.ID, error) {
	return s.transition(ctx, tx, who, "image.withdraw", id,
		`UPDATE image SET state = 'withdrawn', withdrawn_by = $2, version = version + 1
		 WHERE id = $1 AND state <> 'withdrawn' AND $2 <> ''`, who.Subject)
}

// Image returns one image.
func (s *Service) Image(ctx context.Context, id string) (Image, error) {
	img, err := read(ctx, s.db, id)
	if err != nil {
		return Image{}, fmt.Errorf("reading image %s: %w", id, err)
	}
	return img, nil
}

// Lock returns one image as it stays until tx ends.
func (s *Service) Lock(ctx context.Context, tx pgx.Tx, id string) (Image, error) {
	if _, err := tx.Exec(ctx, `SELECT FROM image WHERE id = $1 FOR UPDATE`, id); err != nil {
		return Image{}, fmt.Errorf("locking image %s: %w", id, err)
	}
	img, err := read(ctx, tx, id)
	if err != nil {
		return Image{}, fmt.Errorf("reading image %s: %w", id, err)
	}
	return img, nil
}

// Images lists up to limit images after the given id, in order of id; state "" means all.
func (s *Service) Images(ctx context.Context, state State, after string, limit int) ([]Image, error) {
	rows, err := s.db.Query(ctx, selectImage+` WHERE i.id > $1 AND ($2 = '' OR i.state = $2) ORDER BY i.id LIMIT $3`, after, string(state), limit)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanImage)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	return list, nil
}

// transition runs a guarded update that must change exactly one row, and tells a missing image from one in another state.
func (s *Service) transition(ctx context.Context, tx pgx.Tx, who audit.Actor, action, id, update string, args ...any) (Image, audit.ID, error) {
	tag, err := tx.Exec(ctx, update, append([]any{id}, args...)...)
	if err != nil {
		return Image{}, 0, fmt.Errorf("%s %s: %w", action, id, err)
	}
	if tag.RowsAffected() == 1 {
		return s.changed(ctx, tx, who, action, id)
	}
	img, err := read(ctx, tx, id)
	if err != nil {
		return Image{}, 0, fmt.Errorf("%s %s: %w", action, id, err)
	}
	return Image{}, 0, fmt.Errorf("%s %s: %w: it is %s%s", action, id, ErrState, img.State, img.hint())
}

func (s *Service) changed(ctx context.Context, tx pgx.Tx, who audit.Actor, action, id string) (Image, audit.ID, error) {
	img, err := read(ctx, tx, id)
	if err != nil {
		return Image{}, 0, fmt.Errorf("%s %s: %w", action, id, err)
	}
	details := map[string]any{"name": img.Name, "state": string(img.State)}
	for kind, f := range img.files() {
		if f.Present() {
			details[string(kind)] = hex.EncodeToString(f.SHA256[:])
		}
	}
	if img.State == Approved { // what was known of its files when somebody answered for them
		list, err := s.endorsed(ctx, tx, id)
		if err != nil {
			return Image{}, 0, fmt.Errorf("%s %s: %w", action, id, err)
		}
		for _, e := range list {
			if e.Nth == 1 {
				known, _ := details[string(e.File)+"_endorsed_by"].([]string)
				details[string(e.File)+"_endorsed_by"] = append(known, e.Endorsement)
				details[string(e.File)+"_endorsements"] = e.Documents // there can be more than are named here
			}
		}
	}
	entry, err := s.audit.Append(ctx, tx, audit.Entry{Actor: who, Action: action, Object: "image/" + id, Outcome: audit.Success, Details: details})
	return img, entry, err
}

func (i Image) files() map[Kind]File {
	return map[Kind]File{Kernel: i.Kernel, Initrd: i.Initrd, Firmware: i.Firmware}
}

// hint ends the error about a draft with what to do next.
func (i Image) hint() string {
	if i.State != Draft {
		return ""
	}
	var absent []string
	for _, kind := range []Kind{Kernel, Initrd, Firmware} {
		if !i.files()[kind].Present() {
			absent = append(absent, string(kind))
		}
	}
	if len(absent) == 0 {
		return "; register it first"
	}
	return "; upload " + strings.Join(absent, ", ")
}

const selectImage = `SELECT i.id, i.name, i.state,
  k.sha256, k.sha512, k.size, r.sha256, r.sha512, r.size, f.sha256, f.sha512, f.size,
  i.created_by, i.registered_by, i.approved_by, i.withdrawn_by, i.version, i.created_at
  FROM image i LEFT JOIN blob k ON k.sha256 = i.kernel LEFT JOIN blob r ON r.sha256 = i.initrd LEFT JOIN blob f ON f.sha256 = i.firmware`

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func read(ctx context.Context, db querier, id string) (Image, error) {
	rows, err := db.Query(ctx, selectImage+` WHERE i.id = $1`, id)
	if err != nil {
		return Image{}, err
	}
	img, err := pgx.CollectExactlyOneRow(rows, scanImage)
	if errors.Is(err, pgx.ErrNoRows) {
		return Image{}, ErrNotFound
	}
	return img, err
}

func scanImage(row pgx.CollectableRow) (Image, error) {
	var (
		img                             Image
		files                           [3]fileColumns
		registered, approved, withdrawn *string
	)
	err := row.Scan(&img.ID, &img.Name, &img.State,
		&files[0].sha256, &files[0].sha512, &files[0].size, &files[1].sha256, &files[1].sha512, &files[1].size,
		&files[2].sha256, &files[2].sha512, &files[2].size,
		&img.CreatedBy, &registered, &approved, &withdrawn, &img.Version, &img.CreatedAt)
	if err != nil {
		return Image{}, err
	}
	img.Kernel, img.Initrd, img.Firmware = files[0].file(), files[1].file(), files[2].file()
	for to, from := range map[*string]*string{&img.RegisteredBy: registered, &img.ApprovedBy: approved, &img.WithdrawnBy: withdrawn} {
		if from != nil {
			*to = *from
		}
	}
	return img, nil
}

type fileColumns struct {
	sha256, sha512 []byte
	size           *int64
}

func (c fileColumns) file() File {
	var f File
	if c.size != nil {
		copy(f.SHA256[:], c.sha256)
		copy(f.SHA512[:], c.sha512)
		f.Size = *c.size
	}
	return f
}
