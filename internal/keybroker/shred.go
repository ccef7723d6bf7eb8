package keybroker

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// Shred makes the workspace's key unreachable for good. First one transaction refuses everything and destroys the
// wrapped KEK: from its commit on no path leads to the key, whatever becomes of the rest. Then the secret is deleted from
// the key store, which is tidiness, not security. A repeated call goes on where the last one stopped.
//
// Backups of the database still hold the wrapped KEK. They are worth nothing once the epoch root is destroyed, and
// State says "pending" until then.
func (b *Broker) Shred(ctx context.Context, workspace string) error {
	site, name, secret, done, err := b.destroyKey(ctx, workspace)
	if err != nil {
		return fmt.Errorf("shredding the key of workspace %s: %w", workspace, err)
	}
	b.blobs.drop(func(k blobKey) bool { return k.workspace == workspace })
	if done {
		return nil
	}
	store, err := b.Stores.Store(site)
	if err != nil {
		return fmt.Errorf("finding the key store of site %s: %w", site, err)
	}
	if secret == "" {
		// Prepare died between making the secret and recording it, or before. Only the name finds it.
		if secret, err = store.EnsureSecret(ctx, name); err != nil {
			return fmt.Errorf("finding secret %s: %w", name, err)
		}
	}
	if err := store.DeleteSecret(ctx, secret); err != nil {
		return fmt.Errorf("deleting secret %s: %w", name, err)
	}
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE broker_volume SET state = 'shredded' WHERE workspace = $1 AND state = 'shredding'`, workspace)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = b.Log.Append(ctx, tx, audit.Entry{
			Actor: systemActor, Action: "key.shredded", Object: object(workspace), Outcome: audit.Success,
			Details: map[string]any{"site": site, "secret": name},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("recording the end of secret %s: %w", name, err)
	}
	return nil
}

func (b *Broker) destroyKey(ctx context.Context, workspace string) (site, name, secret string, done bool, err error) {
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		if _, err := lockArms(ctx, tx, workspace); err != nil {
			return err
		}
		var state, project string
		err := tx.QueryRow(ctx, `SELECT state, project, site, secret_name, coalesce(secret_id, '') FROM broker_volume WHERE workspace = $1 FOR UPDATE`, workspace).
			Scan(&state, &project, &site, &name, &secret)
		if errors.Is(err, pgx.ErrNoRows) {
			// Nothing was ever prepared; the row keeps it so.
			done = true
			_, err := tx.Exec(ctx, `INSERT INTO broker_volume (workspace, project, site, secret_name, state, shredded_at)
				VALUES ($1, '', '', '', 'shredded', now())`, workspace)
			return err
		}
		if err != nil {
			return fmt.Errorf("locking the volume: %w", err)
		}
		if state != "open" {
			done = state == "shredded"
			return nil
		}
		batch := &pgx.Batch{}
		batch.Queue(`UPDATE broker_volume SET state = 'shredding', shredded_at = now() WHERE workspace = $1`, workspace)
		batch.Queue(`UPDATE broker_key SET state = 'destroyed', kek = NULL WHERE workspace = $1`, workspace)
		batch.Queue(`UPDATE broker_arm SET state = 'disarmed', reason = 'the key is shredded', changed_at = now() WHERE workspace = $1 AND state <> 'disarmed'`, workspace)
		batch.Queue(`UPDATE broker_lease SET state = 'ended', ended_why = 'the key is shredded' WHERE workspace = $1 AND state = 'live'`, workspace)
		batch.Queue(`UPDATE broker_lease SET sealed_enc = NULL, sealed_text = NULL WHERE workspace = $1 AND sealed_text IS NOT NULL`, workspace)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("destroying the KEK: %w", err)
		}
		_, err = b.Log.Append(ctx, tx, audit.Entry{
			Actor: systemActor, Action: "key.destroy", Object: object(workspace), Project: project,
			Outcome: audit.Success, Details: map[string]any{"site": site},
		})
		return err
	})
	return site, name, secret, done, err
}

// RotateRoot makes a new epoch root and moves every living KEK under it. A crash in between leaves some under the old
// root; calling it again, or the next rotation, moves them.
func (b *Broker) RotateRoot(ctx context.Context) (int, error) {
	epoch, err := b.Keyring.Rotate(ctx)
	if err != nil {
		return 0, fmt.Errorf("rotating the epoch root: %w", err)
	}
	return epoch, b.MoveKeys(ctx)
}

// MoveKeys wraps every living KEK under the newest root.
func (b *Broker) MoveKeys(ctx context.Context) error {
	epochs, err := b.Keyring.Epochs(ctx)
	if err != nil || len(epochs) == 0 {
		return fmt.Errorf("listing epoch roots: %w", errors.Join(err, errors.New("the keyring is empty or not there")))
	}
	newest := epochs[len(epochs)-1]
	for {
		var moved bool
		err := postgres.InTx(ctx, b.DB, func(tx pgx.Tx) (err error) {
			if moved, err = b.moveOne(ctx, tx, newest); moved || err != nil {
				return err
			}
			moved, err = b.moveSecret(ctx, tx, newest)
			return err
		})
		if err != nil {
			return fmt.Errorf("moving keys to the root of epoch %d: %w", newest, err)
		}
		if !moved {
			return nil
		}
	}
}

func (b *Broker) moveOne(ctx context.Context, tx pgx.Tx, newest int) (bool, error) {
	var s scope
	var epoch int
	var wrapped []byte
	s.installation = b.Installation
	err := tx.QueryRow(ctx, `SELECT k.workspace, k.version, k.epoch, k.kek, v.site FROM broker_key k JOIN broker_volume v USING (workspace)
		WHERE k.kek IS NOT NULL AND k.epoch < $1 ORDER BY k.workspace, k.version LIMIT 1 FOR UPDATE OF v, k`, newest).
		Scan(&s.workspace, &s.version, &epoch, &wrapped, &s.site)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading a key: %w", err)
	}
	kek, err := b.Keyring.Unwrap(ctx, epoch, s.aad(labelKEK), wrapped)
	if err != nil {
		return false, fmt.Errorf("moving the KEK of workspace %s: %w", s.workspace, err)
	}
	defer clear(kek)
	again, err := b.Keyring.Wrap(ctx, newest, s.aad(labelKEK), kek)
	if err != nil {
		return false, fmt.Errorf("moving the KEK of workspace %s: %w", s.workspace, err)
	}
	_, err = tx.Exec(ctx, `UPDATE broker_key SET epoch = $3, kek = $4 WHERE workspace = $1 AND version = $2`, s.workspace, s.version, newest, again)
	return err == nil, err
}

// rootGate orders the making of keys against the destruction of roots: a KEK is never committed under a root that went
// away in the meantime.
const rootGate = 0x73726f6f // "sroo"

// DestroyRoot destroys an epoch root, and with it every backup of what was wrapped under it. It refuses while a living
// key is. The entry commits before the root goes: a crash between the two leaves a root that can be destroyed again.
func (b *Broker) DestroyRoot(ctx context.Context, epoch int) error {
	doing := func(err error) error { return fmt.Errorf("destroying the root of epoch %d: %w", epoch, err) }
	err := postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, rootGate); err != nil {
			return doing(err)
		}
		// Whoever makes a key after this commit sees a newer root, for the newest is never destroyed.
		epochs, err := b.Keyring.Epochs(ctx)
		if err != nil {
			return doing(err)
		}
		if len(epochs) == 0 || epochs[len(epochs)-1] == epoch {
			return doing(fmt.Errorf("%w: it is the newest, rotate first", ErrRootInUse))
		}
		var used bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM broker_key WHERE kek IS NOT NULL AND epoch = $1)
			OR EXISTS (SELECT FROM broker_secret WHERE kek IS NOT NULL AND epoch = $1)`, epoch).Scan(&used); err != nil {
			return doing(err)
		}
		if used {
			return doing(ErrRootInUse)
		}
		_, err = b.Log.Append(ctx, tx, audit.Entry{Actor: systemActor, Action: "root.destroy", Object: fmt.Sprintf("root/%d", epoch), Outcome: audit.Success})
		return err
	})
	if err != nil {
		return err
	}
	return b.Keyring.Destroy(ctx, epoch)
}
