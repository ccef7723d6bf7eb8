package keybroker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

const (
	// MaxSecret is the largest payload: with the envelope and base64 it stays well below what Barbican stores.
	MaxSecret = 8 << 10
	// maxSegment bounds each of repository, type and tag, as the table does.
	maxSegment = 128
	// stagedLife is how long a secret may be on its way into the key store.
	stagedLife = 10 * time.Minute
	// maxSwept is what one sweep takes on.
	maxSwept = 1000

	uniqueViolation = "23505"
)

// SecretState is how far the life of a secret has come.
type SecretState string

// The states that are shown. A staged secret is nobody's yet.
const (
	SecretLive   SecretState = "live"
	SecretEnding SecretState = "ending" // no path leads to it; the key store has not confirmed the deletion
	SecretEnded  SecretState = "ended"
)

// Secret is a generic secret of a project: some bytes that its guests get through /kbs/v0, never a volume key. The bytes
// are not here: what was put in comes out to attested guests alone.
type Secret struct {
	ID      string
	Project string
	Dataset string // empty: for workspaces on any dataset of the project
	Site    string // whose key store holds it
	kbs.Resource
	State     SecretState
	CreatedBy string
	CreatedAt time.Time
	EndedBy   string
	EndedAt   time.Time
	// Destruction is empty while the secret lives. Afterwards it says how far its destruction has come.
	Destruction string

	name, secretID string
	epoch          int
	kek, blobHash  []byte
}

// Path is the name by which guests ask for it.
func (s *Secret) Path() string { return s.String() }

// where is the place that the secret's wrapping is bound to: a row that is moved to another project, dataset or path
// opens no more. No part can hold a slash.
func (s *Secret) where() string {
	return strings.Join([]string{"secret", s.ID, s.Project, s.Dataset, s.Path()}, "/")
}

func (b *Broker) secretScope(s *Secret) scope { return b.scope(s.Site, s.where(), 1) }

func secretObject(id string) string { return "secret/" + id }

// StageSecret puts a new secret into the key store of its site. It becomes real with ConfirmSecret; until then nobody
// sees it and no guest gets it.
//
// What a crash leaves: a staged row, with or without a payload in the key store under the name in it. The sweep destroys
// the KEK of such a row, deletes the payload, and that is all there ever was.
func (b *Broker) StageSecret(ctx context.Context, who audit.Actor, s Secret, payload door.Secret) (Secret, error) {
	doing := func(err error) error {
		return fmt.Errorf("storing secret %s of project %s: %w", s.Path(), s.Project, err)
	}
	r, err := kbs.ParseResource(s.Path())
	if err != nil || r != s.Resource || max(len(r.Repository), len(r.Type), len(r.Tag)) > maxSegment {
		return Secret{}, doing(fmt.Errorf("%w: repository, type and tag are of a-z, A-Z, 0-9, _, - and, not first, dots, at most %d each", ErrInvalid, maxSegment))
	}
	if s.Project == "" || s.Site == "" || who.Subject == "" {
		return Secret{}, doing(fmt.Errorf("%w: project, site and author must be named", ErrInvalid))
	}
	if len(payload) == 0 || len(payload) > MaxSecret {
		return Secret{}, doing(fmt.Errorf("%w: a payload has 1 to %d bytes", ErrInvalid, MaxSecret))
	}
	store, err := b.Stores.Store(s.Site)
	if err != nil {
		return Secret{}, doing(err)
	}
	s.ID = newID()
	s.name = "siesta-v1-" + b.Installation + "-" + s.ID + "-secret-g1"
	var e envelope
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared($1)`, rootGate); err != nil {
			return fmt.Errorf("taking the gate of the roots: %w", err)
		}
		if e, err = wrap(ctx, b.Keyring, secretCustody, b.secretScope(&s), payload); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO broker_secret (id, project, dataset, repository, type, tag, site, secret_name, state, epoch, kek, blob_hash, created_by)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'staged', $9, $10, $11, $12)`,
			s.ID, s.Project, s.Dataset, s.Repository, s.Type, s.Tag, s.Site, s.name, e.epoch, e.kek, e.blobHash[:], who.Subject)
		return err
	})
	if err != nil {
		return Secret{}, doing(err)
	}
	if s.secretID, err = store.EnsureSecret(ctx, s.name); err != nil {
		return Secret{}, doing(fmt.Errorf("making %s in the key store: %w", s.name, err))
	}
	if err := store.PutPayload(ctx, s.secretID, e.blob); err != nil {
		return Secret{}, doing(fmt.Errorf("writing %s to the key store: %w", s.name, err))
	}
	tag, err := b.DB.Exec(ctx, `UPDATE broker_secret SET secret_id = $2 WHERE id = $1 AND state = 'staged'`, s.ID, s.secretID)
	if err != nil {
		return Secret{}, doing(err)
	}
	if tag.RowsAffected() != 1 {
		return Secret{}, doing(fmt.Errorf("%w: it took too long", ErrBusy))
	}
	return s, nil
}

// ConfirmSecret makes a staged secret live, with its audit entry. ErrExists: a live secret has this path.
func (b *Broker) ConfirmSecret(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Secret, audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("confirming secret %s: %w", id, err) }
	s, err := scanSecret(tx.QueryRow(ctx, `UPDATE broker_secret SET state = 'live' WHERE id = $1 AND state = 'staged' AND secret_id IS NOT NULL
		RETURNING `+secretColumns, id))
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == uniqueViolation:
		return Secret{}, 0, doing(fmt.Errorf("%w: a live secret of the project has this path", ErrExists))
	case errors.Is(err, pgx.ErrNoRows):
		return Secret{}, 0, doing(fmt.Errorf("%w: it is not staged any more", ErrBusy))
	case err != nil:
		return Secret{}, 0, doing(err)
	}
	entry, err := b.Log.Append(ctx, tx, secretEntry(who, "secret.create", s))
	if err != nil {
		return Secret{}, 0, doing(err)
	}
	return s, entry, nil
}

func secretEntry(who audit.Actor, action string, s Secret) audit.Entry {
	details := map[string]any{"path": s.Path(), "site": s.Site}
	if s.Dataset != "" {
		details["dataset"] = s.Dataset
	}
	return audit.Entry{Actor: who, Action: action, Object: secretObject(s.ID), Project: s.Project, Outcome: audit.Success, Details: details}
}

// EndSecret destroys the secret's KEK: from the commit on no path leads to the payload. What is left in the key store is
// deleted by the sweep, which is tidiness, not security.
func (b *Broker) EndSecret(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Secret, audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("ending secret %s: %w", id, err) }
	s, err := scanSecret(tx.QueryRow(ctx, `UPDATE broker_secret SET state = 'ending', kek = NULL, ended_by = $2, ended_at = now()
		WHERE id = $1 AND state = 'live' RETURNING `+secretColumns, id, who.Subject))
	if errors.Is(err, pgx.ErrNoRows) {
		return Secret{}, 0, doing(fmt.Errorf("%w: it is not live", ErrState))
	}
	if err != nil {
		return Secret{}, 0, doing(err)
	}
	s.Destruction = DestructionUnderWay
	entry, err := b.Log.Append(ctx, tx, secretEntry(who, "secret.end", s))
	if err != nil {
		return Secret{}, 0, doing(err)
	}
	return s, entry, nil
}

//nolint:gosec // names of columns, none of them a credential
const secretColumns = `id, project, dataset, repository, type, tag, site, secret_name, coalesce(secret_id, ''), state, epoch, kek, blob_hash,
	created_by, created_at, coalesce(ended_by, ''), coalesce(ended_at, 'epoch')`

func scanSecret(row pgx.Row) (s Secret, err error) {
	err = row.Scan(&s.ID, &s.Project, &s.Dataset, &s.Repository, &s.Type, &s.Tag, &s.Site, &s.name, &s.secretID, &s.State, &s.epoch, &s.kek, &s.blobHash,
		&s.CreatedBy, &s.CreatedAt, &s.EndedBy, &s.EndedAt)
	return s, err
}

// Secret shows one; ErrNotFound if there is none, or none yet.
func (b *Broker) Secret(ctx context.Context, id string) (Secret, error) {
	s, err := scanSecret(b.DB.QueryRow(ctx, `SELECT `+secretColumns+` FROM broker_secret WHERE id = $1 AND state <> 'staged' AND ended_by IS DISTINCT FROM 'siestad'`, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return Secret{}, fmt.Errorf("reading secret %s: %w", id, ErrNotFound)
	}
	if err == nil {
		err = b.secretDestruction(ctx, &s)
	}
	if err != nil {
		return Secret{}, fmt.Errorf("reading secret %s: %w", id, err)
	}
	return s, nil
}

// Secrets lists those of a project, or of all projects, behind the id after.
func (b *Broker) Secrets(ctx context.Context, project, after string, limit int) ([]Secret, error) {
	rows, err := b.DB.Query(ctx, `SELECT `+secretColumns+` FROM broker_secret
		WHERE ($1 = '' OR project = $1) AND id > $2 AND state <> 'staged' AND ended_by IS DISTINCT FROM 'siestad' ORDER BY id LIMIT $3`, project, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing secrets: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Secret, error) { return scanSecret(row) })
	if err != nil {
		return nil, fmt.Errorf("listing secrets: %w", err)
	}
	for i := range list {
		if err := b.secretDestruction(ctx, &list[i]); err != nil {
			return nil, fmt.Errorf("listing secrets: %w", err)
		}
	}
	return list, nil
}

func (b *Broker) secretDestruction(ctx context.Context, s *Secret) (err error) {
	switch s.State {
	case SecretEnding:
		s.Destruction = DestructionUnderWay
	case SecretEnded:
		s.Destruction, err = b.destruction(ctx, s.epoch)
	}
	return err
}

// sweepSecrets ends what stayed staged and deletes from the key stores what has ended. Every step may be repeated.
func (b *Broker) sweepSecrets(ctx context.Context) error {
	if _, err := b.DB.Exec(ctx, `UPDATE broker_secret SET state = 'ending', kek = NULL, ended_by = 'siestad', ended_at = now()
		WHERE state = 'staged' AND created_at < now() - make_interval(secs => $1)`, stagedLife.Seconds()); err != nil {
		return fmt.Errorf("ending staged secrets: %w", err)
	}
	rows, err := b.DB.Query(ctx, `SELECT `+secretColumns+` FROM broker_secret WHERE state = 'ending' ORDER BY ended_at LIMIT $1`, maxSwept)
	if err != nil {
		return fmt.Errorf("listing ended secrets: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Secret, error) { return scanSecret(row) })
	if err != nil {
		return fmt.Errorf("listing ended secrets: %w", err)
	}
	var all []error
	for _, s := range list {
		if err := b.deleteSecret(ctx, s); err != nil {
			all = append(all, fmt.Errorf("deleting %s from the key store of %s: %w", s.name, s.Site, err))
		}
	}
	return errors.Join(all...)
}

func (b *Broker) deleteSecret(ctx context.Context, s Secret) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	b.blobs.drop(func(k blobKey) bool { return k.workspace == secretObject(s.ID) })
	store, err := b.Stores.Store(s.Site)
	if err != nil {
		return err
	}
	id := s.secretID
	if id == "" { // the process died before the id was on record: only the name finds it
		if id, err = store.EnsureSecret(ctx, s.name); err != nil {
			return err
		}
	}
	if err := store.DeleteSecret(ctx, id); err != nil {
		return err
	}
	return postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE broker_secret SET state = 'ended' WHERE id = $1 AND state = 'ending'`, s.ID)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = b.Log.Append(ctx, tx, secretEntry(systemActor, "secret.destroyed", s))
		return err
	})
}

// moveSecret wraps the KEK of one secret under the newest root.
func (b *Broker) moveSecret(ctx context.Context, tx pgx.Tx, newest int) (bool, error) {
	s, err := scanSecret(tx.QueryRow(ctx, `SELECT `+secretColumns+` FROM broker_secret WHERE kek IS NOT NULL AND epoch < $1 ORDER BY id LIMIT 1 FOR UPDATE`, newest))
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading a secret: %w", err)
	}
	aad := b.secretScope(&s).aad(labelSecretKEK)
	kek, err := b.Keyring.Unwrap(ctx, s.epoch, aad, s.kek)
	if err != nil {
		return false, fmt.Errorf("moving the KEK of secret %s: %w", s.ID, err)
	}
	defer clear(kek)
	again, err := b.Keyring.Wrap(ctx, newest, aad, kek)
	if err != nil {
		return false, fmt.Errorf("moving the KEK of secret %s: %w", s.ID, err)
	}
	_, err = tx.Exec(ctx, `UPDATE broker_secret SET epoch = $2, kek = $3 WHERE id = $1`, s.ID, newest, again)
	return err == nil, err
}
