package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/eosc-siesta/siestad/internal/postgres"
)

// Recorder appends entries. It names each and authenticates it, so that the
// sequencer signs what programs with the log key recorded and nothing that
// somebody else put into the inbox. It is safe for concurrent use; a nil
// Recorder refuses every entry.
type Recorder struct {
	key []byte

	mu   sync.Mutex
	span span
}

const (
	macLabel = "siesta/audit-inbox/v1"
	// firstID is above every id from before ids were authenticated.
	firstID ID = 1 << 60
)

const (
	// Where the log has a key this writes, and waits for, nothing.
	sqlGiveKey = `UPDATE audit_head SET key = $1 WHERE key = ''`
	sqlOldest  = `SELECT id, sha256('\x00'::bytea || body), mac FROM audit_inbox ORDER BY id LIMIT 1`
	sqlLogKey  = `SELECT key, coalesce((SELECT checkpoint FROM audit_batch ORDER BY size DESC LIMIT 1), '') FROM audit_head`
)

// OpenRecorder returns a Recorder for the log of this origin that signer signs,
// for a program that does not lead the log. The first program to open a log gives
// it its key, for ever. OpenRecorder refuses a key that is not the stored log's:
// what is recorded under it would stop the log, until a human takes it out.
func OpenRecorder(ctx context.Context, db *pgxpool.Pool, origin string, signer ed25519.PrivateKey) (*Recorder, error) {
	if len(signer) != ed25519.PrivateKeySize {
		return nil, errNoKey
	}
	key := VerifierKey(origin, signer.Public().(ed25519.PublicKey))
	verify, err := NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("opening audit recorder: %w", err)
	}
	r, err := newRecorder(signer, span{})
	if err != nil {
		return nil, err
	}
	err = postgres.InTx(ctx, db, func(tx pgx.Tx) error {
		given, err := tx.Exec(ctx, sqlGiveKey, key)
		if err != nil {
			return err
		}
		if given.RowsAffected() > 0 {
			if err := r.madeInbox(ctx, tx); err != nil {
				return err
			}
		}
		var have string
		var newest []byte
		if err := tx.QueryRow(ctx, sqlLogKey).Scan(&have, &newest); err != nil {
			return err
		}
		if have != key {
			return fmt.Errorf("the log in the database has the key %s, and this program %s: set log.key_file and log.origin to what the log began with; another log needs a database of its own", have, key)
		}
		if len(newest) == 0 {
			return nil
		}
		if _, err := verify.Checkpoint(newest); err != nil {
			return fmt.Errorf("the log in the database was signed with another key or origin than this program's %s: set log.key_file and log.origin to what the log began with: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening audit recorder: %w", err)
	}
	if err := r.take(ctx, db, time.Now()); err != nil {
		return nil, fmt.Errorf("opening audit recorder: %w", err)
	}
	return r, nil
}

// madeInbox refuses to give a log a key with which the entries that wait for it were not recorded.
func (r *Recorder) madeInbox(ctx context.Context, tx pgx.Tx) error {
	var id ID
	var leaf, mac []byte
	err := tx.QueryRow(ctx, sqlOldest).Scan(&id, &leaf, &mac)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("reading the inbox: %w", err)
	case !r.made(id, tlog.Hash(leaf), mac):
		return errors.New("entries that wait to be signed were recorded with another key: set log.key_file and log.origin to what the log began with")
	}
	return nil
}

var errNoKey = errors.New("opening audit recorder: the key is not an Ed25519 private key")

// NewRecorder returns a Recorder for the log that signer signs, with a number that
// no database gave: the caller answers for it that no other program has it.
func NewRecorder(signer ed25519.PrivateKey, number int64) (*Recorder, error) {
	const end = 1 << (63 - numberBits)
	return newRecorder(signer, span{number: number & (1<<numberBits - 1), follow: end - 1, until: end})
}

func newRecorder(signer ed25519.PrivateKey, s span) (*Recorder, error) {
	if len(signer) != ed25519.PrivateKeySize {
		return nil, errNoKey
	}
	key, err := hkdf.Key(sha256.New, signer.Seed(), nil, macLabel, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("opening audit recorder: %w", err)
	}
	return &Recorder{key: key, span: s}, nil
}

// mac authenticates that the entry of this id has these bytes.
func (r *Recorder) mac(id ID, leaf tlog.Hash) []byte {
	h := hmac.New(sha256.New, r.key)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(id)))
	h.Write(leaf[:])
	return h.Sum(nil)
}

func (r *Recorder) made(id ID, leaf tlog.Hash, mac []byte) bool {
	return hmac.Equal(mac, r.mac(id, leaf))
}

// next returns a new id. ids grow with time, which keeps the inbox in order.
func (r *Recorder) next(now time.Time) (ID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.span.next(now)
}

// seal makes an entry ready to be stored.
func (r *Recorder) seal(e Entry) (sealed, error) {
	if r == nil || len(r.key) == 0 {
		return sealed{}, errors.New("sealing audit entry: no recorder")
	}
	now := time.Now()
	id, err := r.next(now)
	if err != nil {
		return sealed{}, fmt.Errorf("sealing audit entry: %w", err)
	}
	s, err := e.seal(id, now)
	if err != nil {
		return sealed{}, err
	}
	s.mac = r.mac(id, tlog.RecordHash(s.body))
	return s, nil
}

const sqlAppend = `INSERT INTO audit_inbox (id, at, action, object, project, outcome, body, openings, mac)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

func (s sealed) args() []any {
	return []any{s.id, s.at, s.action, s.object, s.project, s.outcome, s.body, s.openings, s.mac}
}

// Append records an entry in the caller's transaction, in one statement. The
// entry exists if and only if that transaction commits, and takes its place in
// the tree shortly after: see Log.WaitID.
//
// An error means that the action must fail: what cannot be recorded is not done.
func (r *Recorder) Append(ctx context.Context, tx pgx.Tx, e Entry) (ID, error) {
	s, err := r.seal(e)
	if err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, sqlAppend, s.args()...); err != nil {
		return 0, fmt.Errorf("inserting audit entry: %w", err)
	}
	return s.id, nil
}

// Ref is an entry that this program has recorded: its id, and what it says. The
// zero Ref is of none.
type Ref struct {
	ID   ID
	leaf tlog.Hash
}

func (s sealed) ref() Ref { return Ref{s.id, tlog.RecordHash(s.body)} }

// is compares an entry with the leaf that stands under its id.
func (r Ref) is(leaf tlog.Hash) error {
	if r.leaf != leaf {
		return fmt.Errorf("finding audit entry: %w: another one stands in the log as %d", errTampered, r.ID)
	}
	return nil
}

// Queue is Append as one statement of a batch, which saves its round trip. The
// id is good for statements after it in the batch; the caller sends the batch in
// its transaction and must fail if sending fails.
func (r *Recorder) Queue(batch *pgx.Batch, e Entry) (Ref, error) {
	s, err := r.seal(e)
	if err != nil {
		return Ref{}, err
	}
	batch.Queue(sqlAppend, s.args()...)
	return s.ref(), nil
}
