package keybroker

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
)

// Challenge gives a guest a nonce to put into its report. peer is the address it is asked from.
//
// Anybody who knows a workspace may ask, so nothing is written and nothing is used up: see ticket.
func (b *Broker) Challenge(ctx context.Context, req door.ChallengeRequest, peer string) (door.Challenge, error) {
	turn, err := b.admit(ctx, peer, b.limits.challenge(req.Workspace, peer))
	if err != nil {
		return door.Challenge{}, err
	}
	defer turn.leave()
	ctx, cancel := whole(ctx)
	defer cancel()
	if req.Purpose != door.Unlock && req.Purpose != door.Renew && req.Purpose != door.Attest {
		return door.Challenge{}, b.anonymous(turn, CodeBinding, "purpose is not served")
	}
	t, err := b.target(ctx, req)
	if err != nil {
		return door.Challenge{}, err
	}
	if code, why := t.refusal(req); code != "" {
		return door.Challenge{}, b.anonymous(turn, code, why)
	}
	if req.Purpose == door.Unlock {
		turn.leave() // a key store that is slow holds up nobody else
		// The wrapped key is fetched now, so that the release makes no network call.
		if _, err := b.blob(ctx, t.source); err != nil {
			return door.Challenge{}, err
		}
	}
	var c door.Challenge
	c.Challenge, c.Nonce = b.issue(ticket{
		id: newID(), workspace: req.Workspace, generation: req.Generation, epoch: t.armEpoch, purpose: req.Purpose, expires: t.expires,
	})
	c.ExpiresAt = door.FormatTime(t.expires)
	door.SignChallenge(b.Key, req, &c)
	return c, nil
}

// whole lets a request that was let in come to its end, in bounded time, when its caller hangs up: what a stranger causes
// is counted and charged whether or not he waits for the answer, and a query that is cut off costs a connection.
func whole(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
}

const requestTimeout = 25 * time.Second

// made counts a session, and clears the idle ones away now and then. Whoever happens to be the one to do it does not fail
// with it; the sweep does it again.
func (b *Broker) made(ctx context.Context) {
	if b.opened.Add(1)%clearEvery != 0 {
		return
	}
	if err := b.clearIdle(ctx); err != nil {
		b.Logger.Warn("clearing idle sessions away", zap.Error(err))
	}
}

// clearIdle deletes sessions that were not attested, beyond a number and half a minute after they were opened: the newest
// of each asker is kept before the second newest of any, and so on. An asker that holds few loses none for what others
// hold, unless these are thousands; whoever holds many loses his own oldest. What is deleted is refused like what never
// was, and a stock client opens another session.
func (b *Broker) clearIdle(ctx context.Context) error {
	if _, err := b.DB.Exec(ctx, `DELETE FROM broker_kbs_session WHERE attested_at IS NULL AND expires_at < now() + make_interval(secs => $2)
			AND (used_at IS NULL OR used_at < now() - interval '1 minute') AND id IN (
		SELECT id FROM (SELECT id, expires_at, row_number() OVER (PARTITION BY peer ORDER BY expires_at DESC) AS nth
			FROM broker_kbs_session WHERE attested_at IS NULL) idle
		ORDER BY nth, expires_at DESC OFFSET $1)`, maxIdleSessions, (sessionLife - freshSession).Seconds()); err != nil {
		return fmt.Errorf("deleting idle sessions: %w", err)
	}
	return nil
}

// target is what a challenge is asked for, as the database has it.
type target struct {
	source
	volumeState, armState string
	armEpoch              int
	expires               time.Time // of a challenge that is given now
}

func (t target) refusal(req door.ChallengeRequest) (code, why string) {
	switch {
	case t.volumeState == "":
		return CodeWorkspace, "unknown workspace or generation"
	case t.volumeState != "open":
		return CodeWorkspace, "the workspace's key is shredded"
	case t.armState == stateSuspended:
		return CodeSuspended, "the generation is suspended"
	case t.armState == stateDisarmed:
		return CodeGeneration, "the generation is not armed"
	case req.Purpose == door.Unlock && t.blobHash == nil:
		return CodeWorkspace, "no key is prepared"
	}
	return "", ""
}

func (b *Broker) target(ctx context.Context, req door.ChallengeRequest) (target, error) {
	var t target
	t.workspace = req.Workspace
	var version *int
	var secret *string
	err := b.DB.QueryRow(ctx, `SELECT v.state, v.site, v.secret_id, a.state, a.epoch, k.version, k.blob_hash,
			date_trunc('second', now()) + make_interval(secs => $3)
		FROM broker_arm a JOIN broker_volume v USING (workspace)
		LEFT JOIN broker_key k ON k.workspace = a.workspace AND k.state = 'active'
		WHERE a.workspace = $1 AND a.generation = $2`, req.Workspace, req.Generation, door.ChallengeLife.Seconds()).
		Scan(&t.volumeState, &t.site, &secret, &t.armState, &t.armEpoch, &version, &t.blobHash, &t.expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return target{}, nil
	}
	if err != nil {
		return target{}, fmt.Errorf("looking up workspace %s: %w", req.Workspace, err)
	}
	if secret != nil {
		t.secret = *secret
	}
	t.epoch = t.armEpoch
	return t, nil
}

// source says where a wrapped key is to be found and what it must hash to.
type source struct {
	workspace, site, secret string
	object                  string // of the audit entry about a store that lies; empty for the workspace
	epoch                   int    // arming for which it is fetched: each boot proves anew that the store still has it
	blobHash                []byte
}

// blob returns the wrapped data key, from memory or from the key store. What does not hash to the recorded value is
// refused and never parsed.
func (b *Broker) blob(ctx context.Context, s source) ([]byte, error) {
	key := blobKey{workspace: s.workspace, epoch: s.epoch}
	if blob, ok := b.blobs.get(key); ok && hashMatches(blob, s.blobHash) {
		return blob, nil
	}
	v, err, _ := b.fetches.Do(s.workspace, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		store, err := b.Stores.Store(s.site)
		if err != nil {
			return nil, err
		}
		return store.GetPayload(ctx, s.secret)
	})
	if errors.Is(err, ErrNoPayload) {
		return nil, b.foreignBlob(ctx, s, "the key store has lost the wrapped key")
	}
	if err != nil {
		b.Logger.Warn("the key store does not answer", zap.String("workspace", s.workspace), zap.String("site", s.site), zap.Error(err))
		return nil, fmt.Errorf("%w: the key store of site %s does not answer", ErrBusy, s.site)
	}
	blob, _ := v.([]byte)
	if !hashMatches(blob, s.blobHash) {
		return nil, b.foreignBlob(ctx, s, "the key store holds another blob than was put there")
	}
	b.blobs.put(key, blob)
	return blob, nil
}

func hashMatches(blob, want []byte) bool {
	got := sha256.Sum256(blob)
	return subtle.ConstantTimeCompare(got[:], want) == 1
}

// foreignBlob records that a key store lied. It is nobody's mistake but the store's, and has
// a budget that no guest and no stranger can spend.
func (b *Broker) foreignBlob(ctx context.Context, s source, why string) error {
	b.Logger.Error("the wrapped key is not the recorded one", zap.String("workspace", s.workspace), zap.String("site", s.site))
	r := &Refusal{ID: newID(), Code: CodeKeyBlob, Detail: why}
	if s.object != "" {
		if !b.limits.record(s.workspace, ours) {
			b.aggregate.add(r.Code)
			r.Counted = true
			return r
		}
		_, err := b.Log.Refuse(ctx, audit.Entry{
			Actor: systemActor, Action: "secret.open", Object: s.object, Outcome: audit.Refused, Code: r.Code, Details: map[string]any{"decision": r.ID},
		})
		if err != nil {
			return fmt.Errorf("recording a refusal of %s: %w", s.object, err)
		}
		return r
	}
	if err := b.refuseWithoutEvidence(ctx, s.workspace, r); err != nil {
		return err
	}
	return r
}

// Unreadable counts a request that could not be parsed.
func (b *Broker) Unreadable(peer string) {
	b.limits.peerRefused(peer)
	b.aggregate.add(attest.CodeFormat)
}

// anonymous refuses somebody who has proved nothing: counted, not stored.
func (b *Broker) anonymous(t *turn, code, why string) error {
	t.refused()
	return b.count(code, why)
}

// count refuses without a charge.
func (b *Broker) count(code, why string) error {
	b.aggregate.add(code)
	return &Refusal{ID: newID(), Code: code, Detail: why, Counted: true}
}
