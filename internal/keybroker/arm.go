package keybroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
)

// Arm is the guest that one generation of a workspace must turn out to be.
type Arm struct {
	Workspace    string
	Project      string
	Dataset      string
	Owner        string // the person for whom the key is released
	Image        string
	Site         string
	Generation   int
	VolumeID     string
	VolumeSerial string
	Policy       attest.Policy
}

// Arm allows one release to one generation and forbids every earlier one. It is idempotent: the same arm again, whatever
// has become of it since, changes nothing.
func (b *Broker) Arm(ctx context.Context, tx pgx.Tx, a Arm) error {
	if err := b.arm(ctx, tx, a); err != nil {
		return fmt.Errorf("arming generation %d of workspace %s: %w", a.Generation, a.Workspace, err)
	}
	return nil
}

func (b *Broker) arm(ctx context.Context, tx pgx.Tx, a Arm) error {
	switch {
	case a.Workspace == "" || a.Project == "" || a.Dataset == "" || a.Owner == "" || a.Image == "" || a.Site == "" || a.VolumeID == "" || a.VolumeSerial == "":
		return errors.New("a name is missing")
	case a.Generation < 1:
		return errors.New("generations begin at 1")
	}
	if err := armable(a.Policy); err != nil {
		return err
	}
	arms, err := lockArms(ctx, tx, a.Workspace)
	if err != nil {
		return err
	}
	if err := lockOpenVolume(ctx, tx, a.Workspace); err != nil {
		return err
	}
	asked, err := json.Marshal(a.Policy)
	if err != nil {
		return fmt.Errorf("encoding the policy: %w", err)
	}
	askedHash := a.Policy.Hash()
	for _, old := range arms {
		if old.generation > a.Generation {
			return fmt.Errorf("%w: generation %d was armed before", ErrState, old.generation)
		}
		if old.generation == a.Generation {
			if old.same(a, askedHash) && old.state != stateDisarmed {
				return nil
			}
			return fmt.Errorf("%w: this generation was armed as another guest, or disarmed", ErrState)
		}
	}
	var site, project string
	var active bool
	if err := tx.QueryRow(ctx, `SELECT site, project, EXISTS (SELECT FROM broker_key WHERE workspace = $1 AND state = 'active')
		FROM broker_volume WHERE workspace = $1`, a.Workspace).Scan(&site, &project, &active); err != nil {
		return fmt.Errorf("reading the volume: %w", err)
	}
	if !active || site != a.Site || project != a.Project {
		return fmt.Errorf("%w: no key is prepared for this project and site", ErrState)
	}
	armed, err := b.narrow(ctx, tx, a)
	if err != nil {
		return err
	}
	policy, err := json.Marshal(armed)
	if err != nil {
		return fmt.Errorf("encoding the policy: %w", err)
	}
	hash := armed.Hash()
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO broker_blob (sha256, body) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING`, hash[:], policy, askedHash[:], asked)
	batch.Queue(`UPDATE broker_arm SET state = 'disarmed', reason = 'a later generation was armed', changed_at = now()
		WHERE workspace = $1 AND state <> 'disarmed'`, a.Workspace)
	batch.Queue(`INSERT INTO broker_arm (workspace, generation, epoch, state, dataset, owner, image, volume_id, volume_serial, policy, asked)
		VALUES ($1, $2, 1, 'armed', $3, $4, $5, $6, $7, $8, $9)`,
		a.Workspace, a.Generation, a.Dataset, a.Owner, a.Image, a.VolumeID, a.VolumeSerial, hash[:], askedHash[:])
	batch.Queue(`DELETE FROM broker_measurement WHERE workspace = $1`, a.Workspace)
	for _, m := range findable(armed) {
		batch.Queue(`INSERT INTO broker_measurement (measurement, workspace, generation) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, m, a.Workspace, a.Generation)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("recording the arm: %w", err)
	}
	_, err = b.Log.Append(ctx, tx, audit.Entry{
		Actor: systemActor, Action: "guest.arm", Object: object(a.Workspace), Project: a.Project,
		Outcome: audit.Success, Details: map[string]any{"generation": a.Generation, "epoch": 1, "policy": hexOf(hash[:]), "volume": a.VolumeID},
	})
	return err
}

// Rearm allows a released generation one more release: a reboot that siestad itself carries out. One that is armed still
// begins anew: what was asked for under the arming that nobody took back is worth nothing. A suspended generation needs a
// person, see AllowReboot.
func (b *Broker) Rearm(ctx context.Context, tx pgx.Tx, workspace string, generation int, why string) error {
	doing := func(err error) error {
		return fmt.Errorf("arming generation %d of workspace %s again: %w", generation, workspace, err)
	}
	a, err := lockCurrent(ctx, tx, workspace)
	if err != nil {
		return doing(err)
	}
	switch {
	case a.generation != generation:
		return doing(fmt.Errorf("%w: the armed generation is %d", ErrState, a.generation))
	case a.state != stateReleased && a.state != stateArmed:
		return doing(fmt.Errorf("%w: it is %s", ErrState, a.state))
	}
	if err := free(ctx, tx, workspace); err != nil {
		return doing(err)
	}
	if _, err = b.rearm(ctx, tx, a, systemActor, "guest.rearm", why); err != nil {
		return doing(err)
	}
	return nil
}

// heldQuery finds until when a guest may still use the key. A lease that was ended from our side counts until it runs out
// all the same: the guest opened its disk under the time that the broker signed, and that the cloud shows its server as
// stopped is only the cloud's word. Its own signed word, sent once its disk is closed, frees the volume at once.
const heldQuery = `SELECT max(until) FROM broker_lease WHERE workspace = $1 AND until > now() AND (state = 'live' OR stage NOT IN ('failed', 'stopping'))`

// HeldUntil is when the volume of a workspace is free at the latest; the zero time if it is free now.
func (b *Broker) HeldUntil(ctx context.Context, workspace string) (time.Time, error) {
	var until *time.Time
	if err := b.DB.QueryRow(ctx, heldQuery, workspace).Scan(&until); err != nil {
		return time.Time{}, fmt.Errorf("looking for a holder of the key of workspace %s: %w", workspace, err)
	}
	return value(until), nil
}

// free makes sure that nobody holds the key. The arms are locked, so nobody begins to.
func free(ctx context.Context, tx pgx.Tx, workspace string) error {
	var until *time.Time
	if err := tx.QueryRow(ctx, heldQuery, workspace).Scan(&until); err != nil {
		return fmt.Errorf("looking for a holder of the key: %w", err)
	}
	if until != nil {
		return fmt.Errorf("%w: a guest may still use the key, until %s", ErrState, until.UTC().Format(time.RFC3339))
	}
	return nil
}

// AllowReboot lets a suspended or released generation boot once more. The caller has made sure that the old guest is
// stopped; the lease must have run out, or the guest have given it up.
func (b *Broker) AllowReboot(ctx context.Context, tx pgx.Tx, who audit.Actor, workspace string) (audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("allowing a reboot of workspace %s: %w", workspace, err) }
	a, err := lockCurrent(ctx, tx, workspace)
	if err != nil {
		return 0, doing(err)
	}
	if a.state != stateSuspended && a.state != stateReleased {
		return 0, doing(fmt.Errorf("%w: it is %s", ErrState, a.state))
	}
	if err := free(ctx, tx, workspace); err != nil {
		return 0, doing(err)
	}
	id, err := b.rearm(ctx, tx, a, who, "guest.allow_reboot", "a reboot was allowed")
	if err != nil {
		return 0, doing(err)
	}
	return id, nil
}

// rearm moves the epoch on: challenges of the earlier epoch are worth nothing from the commit on.
func (b *Broker) rearm(ctx context.Context, tx pgx.Tx, a armRow, who audit.Actor, action, why string) (audit.ID, error) {
	tag, err := tx.Exec(ctx, `UPDATE broker_arm SET state = 'armed', epoch = epoch + 1, report_id = NULL, reason = $4, changed_at = now()
		WHERE workspace = $1 AND generation = $2 AND epoch = $3`, a.workspace, a.generation, a.epoch, bound(why))
	if err != nil {
		return 0, fmt.Errorf("recording the arm: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return 0, fmt.Errorf("recording the arm: %w", ErrState)
	}
	return b.Log.Append(ctx, tx, audit.Entry{
		Actor: who, Action: action, Object: object(a.workspace), Project: a.project, Outcome: audit.Success,
		Details: map[string]any{"generation": a.generation, "epoch": a.epoch + 1},
	})
}

// Unarm takes back an arming that no guest has used. The generation stands as before it, released to its last guest; it is
// suspended if a person had allowed the boot, whose word was for that one, or if nobody ever had the key. A guest that boots
// late after all is one that nobody asked for. It changes nothing in any other state, and Rearm and AllowReboot arm again.
func (b *Broker) Unarm(ctx context.Context, tx pgx.Tx, workspace string, generation int, allowed bool, why string) error {
	doing := func(err error) error {
		return fmt.Errorf("taking back the arming of generation %d of workspace %s: %w", generation, workspace, err)
	}
	a, err := lockCurrent(ctx, tx, workspace)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return doing(err)
	case a.generation != generation || a.state != stateArmed:
		return nil
	}
	// A challenge that was asked for under the arming is worth nothing from the commit on.
	var state string
	if err := tx.QueryRow(ctx, `UPDATE broker_arm a SET state = CASE WHEN $4 OR last.report_id IS NULL THEN 'suspended' ELSE 'released' END,
			report_id = last.report_id, epoch = a.epoch + 1, reason = $5, changed_at = now()
		FROM (SELECT (SELECT report_id FROM broker_lease WHERE workspace = $1 AND generation = $2 ORDER BY id DESC LIMIT 1) AS report_id) last
		WHERE a.workspace = $1 AND a.generation = $2 AND a.epoch = $3 AND a.state = 'armed' RETURNING a.state`,
		workspace, generation, a.epoch, allowed, bound(why)).Scan(&state); err != nil {
		return doing(err)
	}
	if _, err := b.Log.Append(ctx, tx, audit.Entry{
		Actor: systemActor, Action: "guest.unarm", Object: object(workspace), Project: a.project, Outcome: audit.Success,
		Details: map[string]any{"generation": generation, "epoch": a.epoch + 1, "state": state},
	}); err != nil {
		return doing(err)
	}
	return nil
}

// Disarm refuses every further release and renewal of the workspace. What is disarmed stays so; a new generation may be armed.
func (b *Broker) Disarm(ctx context.Context, tx pgx.Tx, workspace string) error {
	if _, err := lockArms(ctx, tx, workspace); err != nil {
		return fmt.Errorf("disarming workspace %s: %w", workspace, err)
	}
	if _, err := tx.Exec(ctx, `UPDATE broker_arm SET state = 'disarmed', reason = 'disarmed', changed_at = now()
		WHERE workspace = $1 AND state <> 'disarmed'`, workspace); err != nil {
		return fmt.Errorf("disarming workspace %s: %w", workspace, err)
	}
	return nil
}

// EndLease ends the live lease, if there is one: its holder can renew no more, and nothing is delivered again. Until the
// lease runs out or its holder says that it has stopped, the volume is not free (see heldQuery).
func (b *Broker) EndLease(ctx context.Context, tx pgx.Tx, workspace, why string) error {
	if _, err := lockArms(ctx, tx, workspace); err != nil {
		return fmt.Errorf("ending the lease of workspace %s: %w", workspace, err)
	}
	if why == "" {
		why = "ended"
	}
	if _, err := tx.Exec(ctx, `UPDATE broker_lease SET state = 'ended', ended_why = $2, sealed_enc = NULL, sealed_text = NULL
		WHERE workspace = $1 AND state = 'live'`, workspace, bound(why)); err != nil {
		return fmt.Errorf("ending the lease of workspace %s: %w", workspace, err)
	}
	return nil
}

// States of an arm.
const (
	stateArmed     = "armed"
	stateReleased  = "released"
	stateSuspended = "suspended"
	stateDisarmed  = "disarmed"
)

type armRow struct {
	workspace, project, state, dataset, owner, image, volumeID, volumeSerial string
	generation, epoch                                                        int
	asked                                                                    []byte // as Arm was asked, before documents narrowed it
}

func (r armRow) same(a Arm, asked [32]byte) bool {
	return r.dataset == a.Dataset && r.owner == a.Owner && r.image == a.Image && r.volumeID == a.VolumeID &&
		r.volumeSerial == a.VolumeSerial && [32]byte(r.asked) == asked
}

// lockArms locks all generations of a workspace: the first lock of every transaction here.
func lockArms(ctx context.Context, tx pgx.Tx, workspace string) ([]armRow, error) {
	rows, err := tx.Query(ctx, `SELECT a.workspace, v.project, a.state, a.dataset, a.owner, a.image, a.volume_id, a.volume_serial, a.generation, a.epoch, coalesce(a.asked, a.policy)
		FROM broker_arm a JOIN broker_volume v USING (workspace) WHERE a.workspace = $1 ORDER BY a.generation FOR UPDATE OF a`, workspace)
	if err != nil {
		return nil, fmt.Errorf("locking the arms: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r armRow, err error) {
		err = row.Scan(&r.workspace, &r.project, &r.state, &r.dataset, &r.owner, &r.image, &r.volumeID, &r.volumeSerial, &r.generation, &r.epoch, &r.asked)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("locking the arms: %w", err)
	}
	return list, nil
}

func lockCurrent(ctx context.Context, tx pgx.Tx, workspace string) (armRow, error) {
	list, err := lockArms(ctx, tx, workspace)
	if err != nil {
		return armRow{}, err
	}
	for _, a := range list {
		if a.state != stateDisarmed {
			return a, nil
		}
	}
	return armRow{}, ErrNotFound
}

// bound keeps free text from callers within what a row should hold.
func bound(s string) string {
	const limit = 500
	if len(s) > limit {
		return s[:limit]
	}
	return s
}
