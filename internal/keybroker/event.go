package keybroker

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// holder is a lease as an event sees it.
type holder struct {
	workspace, project, stage, mode, headerHash string
	generation, seq                             int
	live                                        bool
	signingKey, eventHash                       []byte
}

// Event records what a guest says about itself, signed with the key of its lease. Numbers only grow; the same event
// again gets the same answer, and no number is above maxEvents: a guest has few stages. The answer to `formatted` is the
// broker's word that the header's hash is on record.
func (b *Broker) Event(ctx context.Context, lease string, e door.Event, peer string) (door.EventAnswer, error) {
	turn, err := b.admit(ctx, peer, true)
	if err != nil {
		return door.EventAnswer{}, err
	}
	defer turn.leave()
	ctx, cancel := whole(ctx)
	defer cancel()
	var h holder
	err = b.DB.QueryRow(ctx, `SELECT workspace, signing_key FROM broker_lease WHERE id = $1`, lease).Scan(&h.workspace, &h.signingKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return door.EventAnswer{}, b.anonymous(turn, CodeLease, "no such lease")
	}
	if err != nil {
		return door.EventAnswer{}, fmt.Errorf("looking up lease %s: %w", lease, err)
	}
	if door.VerifyEvent(ed25519.PublicKey(h.signingKey), lease, e) != nil {
		return door.EventAnswer{}, b.anonymous(turn, CodeBinding, "the event is not signed by the holder of the lease")
	}
	turn.leave()
	var refused *Refusal
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		refused = nil
		if _, err := lockArms(ctx, tx, h.workspace); err != nil {
			return err
		}
		var err error
		refused, err = b.event(ctx, tx, lease, e)
		return err
	})
	if err != nil {
		return door.EventAnswer{}, fmt.Errorf("recording event %d of lease %s: %w", e.Seq, lease, err)
	}
	if refused != nil {
		turn.refused()
		if refused.Counted {
			return door.EventAnswer{}, refused
		}
		b.Logger.Warn("event refused", zap.String("workspace", h.workspace), zap.String("code", refused.Code), zap.String("lease", lease))
		return door.EventAnswer{}, refused
	}
	if e.Stage != door.Formatted {
		return door.EventAnswer{Seq: e.Seq}, nil
	}
	// The hash is committed. A guest that never hears this asks again with the same number.
	return door.SignAck(b.Key, lease, e), nil
}

func (b *Broker) event(ctx context.Context, tx pgx.Tx, lease string, e door.Event) (*Refusal, error) {
	var h holder
	if err := tx.QueryRow(ctx, `SELECT v.workspace, v.project, l.stage, l.mode, coalesce(v.header_hash, ''), l.generation, l.seq,
			l.state = 'live' AND l.until > now(), l.event_hash
		FROM broker_volume v JOIN broker_lease l USING (workspace) WHERE l.id = $1 FOR UPDATE OF v, l`, lease).
		Scan(&h.workspace, &h.project, &h.stage, &h.mode, &h.headerHash, &h.generation, &h.seq, &h.live, &h.eventHash); err != nil {
		return nil, fmt.Errorf("locking the lease: %w", err)
	}
	hash := sha256.Sum256(door.LP(door.Decimal(e.Seq), []byte(e.Stage), []byte(e.HeaderHash), []byte(e.Detail)))
	if e.Seq == h.seq && string(h.eventHash) == string(hash[:]) {
		return nil, nil // heard before
	}
	ending := gaveUp(e.Stage)
	code, why := "", ""
	switch {
	case e.Seq > maxEvents && !ending: // the lease ends with that one
		code, why = CodeRate, "too many events of one lease"
	case e.Seq <= h.seq:
		code, why = CodeBinding, "the event's number is not above the last"
	case gaveUp(door.Stage(h.stage)) || !h.live && !ending: // that it stopped is good to know even of a lease that we ended
		code, why = CodeLease, "the lease has ended"
	case e.Stage == door.Formatted && h.headerHash != "" && h.headerHash != e.HeaderHash:
		code, why = CodeBinding, "another header is on record"
	case e.Stage == door.Formatted && h.headerHash == "" && h.mode != door.Initialise:
		code, why = CodeBinding, "the grant did not say initialise"
	case (e.Stage == door.Unlocked || e.Stage == door.Ready) && h.headerHash == "":
		code, why = CodeBinding, "no header is on record"
	}
	outcome := audit.Success
	details := map[string]any{"lease": lease, "generation": h.generation, "seq": e.Seq}
	var refused *Refusal
	if code != "" {
		refused, outcome = &Refusal{ID: newID(), Code: code, Detail: why}, audit.Refused
		if !b.limits.record(h.workspace, proved) {
			b.aggregate.add(code)
			refused.Counted = true
			return refused, nil
		}
		details["decision"] = refused.ID
	} else if err := applyEvent(ctx, tx, lease, h, e, hash[:], ending); err != nil {
		return nil, err
	}
	if e.Stage == door.Formatted {
		details["header"] = e.HeaderHash
	}
	_, err := b.Log.Append(ctx, tx, audit.Entry{
		Actor: guestActor(h.workspace), Action: "guest." + string(e.Stage), Object: object(h.workspace),
		Project: h.project, Outcome: outcome, Code: code, Details: details,
	})
	return refused, err
}

// maxEvents is how many entries of the audit log the events of one lease can make. An honest guest has four or five.
const maxEvents = 64

// gaveUp: the guest has closed its disk and forgets the key.
func gaveUp(s door.Stage) bool { return s == door.Failed || s == door.Stopping }

// applyEvent writes an accepted event. Any event acknowledges the grant: its ciphertext is needed no more.
func applyEvent(ctx context.Context, tx pgx.Tx, lease string, h holder, e door.Event, hash []byte, ending bool) error {
	batch := &pgx.Batch{}
	if e.Stage == door.Formatted && h.headerHash == "" {
		batch.Queue(`UPDATE broker_volume SET header_hash = $2 WHERE workspace = $1 AND header_hash IS NULL`, h.workspace, e.HeaderHash)
	}
	batch.Queue(`UPDATE broker_lease SET seq = $2, event_hash = $3, stage = $4, detail = $5, sealed_enc = NULL, sealed_text = NULL,
		state = CASE WHEN $6 THEN 'ended' ELSE state END, ended_why = CASE WHEN $6 AND state = 'live' THEN $4 ELSE ended_why END
		WHERE id = $1`, lease, e.Seq, hash, string(e.Stage), e.Detail, ending)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("writing the event: %w", err)
	}
	return nil
}
