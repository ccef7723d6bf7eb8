package keybroker

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// Volume names a workspace's data volume before it exists. SecretName is the deterministic name in the key store.
type Volume struct {
	Workspace  string
	Project    string
	Site       string
	SecretName string
}

// Prepare makes the volume's key and puts its wrapped form into the site's key store. It may be repeated after any
// failure and run twice at once: every pass reads what the key store holds and goes on from there, so that recovery and
// first run are the same code.
//
// What a crash leaves:
//   - after the volume row: a name; the next pass finds or makes the secret of that name.
//   - after EnsureSecret: an empty secret; found again by name.
//   - after the key row (KEK and hash of the blob are committed): no payload, then the next pass makes a new version; or
//     the payload of a call that was believed lost, then its hash is on record and that version becomes active.
//   - after PutPayload: the payload is there and its hash is on record; the next pass makes it active.
//
// A payload whose hash is not on record is refused: somebody else wrote it, or the database is not the one that did.
func (b *Broker) Prepare(ctx context.Context, v Volume) (string, error) {
	id, err := b.prepare(ctx, v)
	if err != nil {
		return "", fmt.Errorf("preparing the key of workspace %s: %w", v.Workspace, err)
	}
	return id, nil
}

// preparePasses is how often the key store may turn out to have changed under us before the flow has to come back.
const preparePasses = 4

func (b *Broker) prepare(ctx context.Context, v Volume) (string, error) {
	if v.Workspace == "" || v.Project == "" || v.Site == "" || v.SecretName == "" {
		return "", errors.New("a name is missing")
	}
	store, err := b.Stores.Store(v.Site)
	if err != nil {
		return "", fmt.Errorf("finding the key store of site %s: %w", v.Site, err)
	}
	done, secret, err := b.ensureVolume(ctx, v)
	if err != nil || done {
		return secret, err
	}
	if secret == "" {
		if secret, err = store.EnsureSecret(ctx, v.SecretName); err != nil {
			return "", fmt.Errorf("making secret %s: %w", v.SecretName, err)
		}
		if secret == "" {
			return "", fmt.Errorf("making secret %s: the key store gave no id", v.SecretName)
		}
		if err := b.recordSecret(ctx, v.Workspace, secret); err != nil {
			return "", err
		}
	}
	for range preparePasses {
		blob, err := store.GetPayload(ctx, secret)
		switch {
		case err == nil:
			return secret, b.activate(ctx, v, blob)
		case !errors.Is(err, ErrNoPayload):
			return "", fmt.Errorf("reading secret %s: %w", v.SecretName, err)
		}
		e, err := b.newVersion(ctx, v)
		if err != nil {
			return "", err
		}
		// KEK and hash are committed: whatever becomes of this call, a payload that turns up is recognised.
		if err := store.PutPayload(ctx, secret, e.blob); err != nil && !errors.Is(err, ErrHasPayload) {
			return "", fmt.Errorf("writing secret %s: %w", v.SecretName, err)
		}
	}
	return "", fmt.Errorf("%w: secret %s keeps losing its payload", ErrBusy, v.SecretName)
}

// ensureVolume records the intent. done is true when a version is active already.
func (b *Broker) ensureVolume(ctx context.Context, v Volume) (done bool, secret string, err error) {
	var state, project, site, name string
	var id *string
	err = b.DB.QueryRow(ctx, `
		WITH ins AS (INSERT INTO broker_volume (workspace, project, site, secret_name, state)
		             VALUES ($1, $2, $3, $4, 'open') ON CONFLICT DO NOTHING RETURNING workspace)
		SELECT 'open', $2, $3, $4, NULL, false FROM ins
		UNION ALL
		SELECT v.state, v.project, v.site, v.secret_name, v.secret_id,
		       EXISTS (SELECT FROM broker_key k WHERE k.workspace = v.workspace AND k.state = 'active')
		FROM broker_volume v WHERE v.workspace = $1`,
		v.Workspace, v.Project, v.Site, v.SecretName).Scan(&state, &project, &site, &name, &id, &done)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, "", fmt.Errorf("%w: another call is preparing it", ErrBusy)
	}
	if err != nil {
		return false, "", fmt.Errorf("recording the volume: %w", err)
	}
	if state != "open" {
		return false, "", ErrShredded
	}
	if project != v.Project || site != v.Site || name != v.SecretName {
		return false, "", fmt.Errorf("%w: it was prepared for another project, site or secret name", ErrState)
	}
	if id != nil {
		secret = *id
	}
	return done, secret, nil
}

func (b *Broker) recordSecret(ctx context.Context, workspace, secret string) error {
	tag, err := b.DB.Exec(ctx, `UPDATE broker_volume SET secret_id = $2
		WHERE workspace = $1 AND state = 'open' AND (secret_id IS NULL OR secret_id = $2)`, workspace, secret)
	if err != nil {
		return fmt.Errorf("recording the secret: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("recording the secret: %w", ErrState)
	}
	return nil
}

// newVersion makes a key and commits everything about it but the blob.
func (b *Broker) newVersion(ctx context.Context, v Volume) (e envelope, err error) {
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		if err := lockOpenVolume(ctx, tx, v.Workspace); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared($1)`, rootGate); err != nil {
			return fmt.Errorf("taking the gate of the roots: %w", err)
		}
		var version int
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) + 1 FROM broker_key WHERE workspace = $1`, v.Workspace).Scan(&version); err != nil {
			return fmt.Errorf("numbering the key: %w", err)
		}
		if e, err = newEnvelope(ctx, b.Keyring, b.scope(v.Site, v.Workspace, version)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO broker_key (workspace, version, state, epoch, kek, blob_hash)
			VALUES ($1, $2, 'prepared', $3, $4, $5)`, v.Workspace, version, e.epoch, e.kek, e.blobHash[:]); err != nil {
			return fmt.Errorf("recording the key: %w", err)
		}
		return nil
	})
	return e, err
}

// activate makes the version whose blob the key store holds the active one, and destroys the others.
func (b *Broker) activate(ctx context.Context, v Volume, blob []byte) error {
	hash := sha256.Sum256(blob)
	var foreign *Refusal
	err := postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		if err := lockOpenVolume(ctx, tx, v.Workspace); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT version, blob_hash FROM broker_key WHERE workspace = $1 AND kek IS NOT NULL`, v.Workspace)
		if err != nil {
			return fmt.Errorf("reading key versions: %w", err)
		}
		var version, found int
		var recorded []byte
		if _, err := pgx.ForEachRow(rows, []any{&version, &recorded}, func() error {
			if subtle.ConstantTimeCompare(recorded, hash[:]) == 1 {
				found = version
			}
			return nil
		}); err != nil {
			return fmt.Errorf("reading key versions: %w", err)
		}
		entry := audit.Entry{
			Actor: systemActor, Action: "key.prepare", Object: object(v.Workspace), Project: v.Project, Outcome: audit.Success,
			Details: map[string]any{"site": v.Site, "version": found},
		}
		if found == 0 {
			foreign = &Refusal{ID: newID(), Code: CodeKeyBlob, Detail: "the secret holds a payload that this broker did not write"}
			entry.Outcome, entry.Code, entry.Details = audit.Refused, CodeKeyBlob, map[string]any{"site": v.Site, "decision": foreign.ID}
		} else if _, err := tx.Exec(ctx, `UPDATE broker_key SET
			state = CASE WHEN version = $2 THEN 'active' ELSE 'destroyed' END,
			kek = CASE WHEN version = $2 THEN kek END
			WHERE workspace = $1 AND state <> 'destroyed'`, v.Workspace, found); err != nil {
			return fmt.Errorf("activating version %d: %w", found, err)
		}
		_, err = b.Log.Append(ctx, tx, entry)
		return err
	})
	if err != nil {
		return err
	}
	if foreign != nil {
		b.Logger.Error("the key store holds a foreign payload", zap.String("workspace", v.Workspace), zap.String("site", v.Site))
		return foreign
	}
	return nil
}

func lockOpenVolume(ctx context.Context, tx pgx.Tx, workspace string) error {
	var state string
	err := tx.QueryRow(ctx, `SELECT state FROM broker_volume WHERE workspace = $1 FOR UPDATE`, workspace).Scan(&state)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case err != nil:
		return fmt.Errorf("locking the volume: %w", err)
	case state != "open":
		return ErrShredded
	}
	return nil
}

var systemActor = audit.Actor{Kind: audit.System, Subject: "keybroker", Name: "key broker"}

func guestActor(workspace string) audit.Actor {
	return audit.Actor{Kind: audit.Guest, Subject: "guest/" + workspace}
}

func object(workspace string) string { return "workspace/" + workspace }

func (b *Broker) scope(site, workspace string, version int) scope {
	return scope{installation: b.Installation, site: site, workspace: workspace, version: version}
}
