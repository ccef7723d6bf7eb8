package keybroker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// purposeSecret is the purpose of a release through /kbs/v0. No challenge is ever made for it.
const purposeSecret door.Purpose = "secret"

// Bearer is what a guest shows to get a secret: the cookie of its session, or a token, which names its session and is
// worth nothing without it.
type Bearer struct {
	Cookie string
	Token  string
}

// SessionSecret answers GET /kbs/v0/resource/…: the secret, sealed to the key that the session attested.
//
// It is a release like that of a volume key: the evidence is judged anew, the facts are read, and decision and audit
// entry commit, in one transaction; the answer leaves when the entry stands under a checkpoint. What a crash after the
// commit costs is the answer, which the guest asks for again.
func (b *Broker) SessionSecret(ctx context.Context, who Bearer, r kbs.Resource, peer string) ([]byte, error) {
	if b.Tokens == nil {
		return nil, ErrNoTokens
	}
	turn, err := b.admit(ctx, peer, true)
	if err != nil {
		return nil, err
	}
	defer turn.leave()
	ctx, cancel := whole(ctx)
	defer cancel()
	a, key, err := b.resume(ctx, who)
	if err != nil {
		if errors.Is(err, ErrNoSession) {
			turn.refused()
			b.aggregate.add(CodeNonce)
		}
		return nil, err
	}
	turn.leave()
	a.turn = turn
	if !b.limits.secret(a.challenge.Workspace) {
		return nil, b.anonymous(turn, CodeRate, "too many secrets for this workspace")
	}
	answer, err := b.releaseSecret(ctx, a, key, r)
	b.refusedGuest(a, err)
	return answer, err
}

// resume finds the session and makes an attempt of the evidence that it was attested with.
func (b *Broker) resume(ctx context.Context, who Bearer) (*attempt, kbs.TEEKey, error) {
	none := kbs.TEEKey{}
	cookie := sha256.Sum256([]byte(who.Cookie))
	decision := ""
	if who.Token != "" {
		claims, err := b.Tokens.Verify(who.Token, b.Now())
		if err != nil {
			return nil, none, fmt.Errorf("%w: %w", ErrNoSession, err)
		}
		decision = claims.ID
	}
	var id, jwk, tee string
	var data, report, certificates, log []byte
	err := b.DB.QueryRow(ctx, `SELECT s.id, s.tee, s.tee_key, s.report_data, r.body, coalesce(c.body, ''), coalesce(l.body, '')
		FROM broker_kbs_session s JOIN broker_blob r ON r.sha256 = s.report
		LEFT JOIN broker_blob c ON c.sha256 = s.certificates LEFT JOIN broker_blob l ON l.sha256 = s.event_log
		WHERE (s.cookie = $1 AND $2 = '' OR s.decision = $2 AND $2 <> '') AND s.attested_at IS NOT NULL AND s.expires_at > now()`, cookie[:], decision).
		Scan(&id, &tee, &jwk, &data, &report, &certificates, &log)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, none, ErrNoSession
	}
	if err != nil {
		return nil, none, fmt.Errorf("looking up a session: %w", err)
	}
	key, err := kbs.ParseTEEKey([]byte(jwk))
	if err != nil {
		return nil, none, fmt.Errorf("reading the key of session %s: %w", id, err)
	}
	// The epoch is the session's: a later arming is another boot.
	a, err := scanAttempt(b.DB.QueryRow(ctx, `WITH c AS (SELECT nonce, workspace, generation, 'secret'::text AS purpose, epoch
		FROM broker_kbs_session WHERE id = $1) SELECT `+attemptColumns+` FROM c`+attemptJoins, id), door.GrantRequest{Challenge: id})
	if err != nil {
		return nil, none, fmt.Errorf("reading session %s: %w", id, err)
	}
	a.evidence = attest.Evidence{TEE: teeOf(tee), Report: report, Certificates: certificates, EventLog: log}
	a.reportData = [64]byte(data)
	return a, key, nil
}

// teeOf is the name of hardware in decisions for that of the protocol.
func teeOf(tee string) attest.TEE {
	switch tee {
	case kbs.TEESNP:
		return attest.SEVSNP
	case kbs.TEETDX:
		return attest.TDX
	}
	return ""
}

// releaseSecret is decide for a secret.
func (b *Broker) releaseSecret(ctx context.Context, a *attempt, key kbs.TEEKey, r kbs.Resource) ([]byte, error) {
	s, err := scanSecret(b.DB.QueryRow(ctx, `SELECT `+secretColumns+` FROM broker_secret
		WHERE project = $1 AND repository = $2 AND type = $3 AND tag = $4 AND state = 'live' AND dataset IN ('', $5)`,
		a.project, r.Repository, r.Type, r.Tag, a.dataset))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, b.absentSecret(ctx, a, r)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a secret of project %s: %w", a.project, err)
	}
	a.secret = &s
	if err := b.judge(ctx, a); err != nil {
		var verdict *attest.Refusal
		if !errors.As(err, &verdict) {
			return nil, fmt.Errorf("judging a guest of workspace %s: %w", a.challenge.Workspace, err)
		}
		return nil, b.refuseEvidence(ctx, a, verdict)
	}
	payload, err := b.openSecret(ctx, a)
	if err != nil {
		return nil, err
	}
	defer payload.Clear()
	d, err := b.release(ctx, a, volumeKeys{})
	if err != nil {
		return nil, err
	}
	if _, err := b.await(ctx, d.entry); err != nil {
		return nil, fmt.Errorf("%w: waiting for the checkpoint of a decision: %w", ErrBusy, err)
	}
	if d.refusal != nil {
		return nil, d.refusal
	}
	b.remember(a)
	sealed, err := kbs.Seal(key, payload)
	if err != nil {
		return nil, fmt.Errorf("sealing secret %s: %w", s.ID, err)
	}
	return sealed, nil
}

// absentSecret answers for a path under which this guest has nothing: not there, ended, or for another dataset. It is
// the same answer for all three, and audited like any refusal.
func (b *Broker) absentSecret(ctx context.Context, a *attempt, r kbs.Resource) error {
	absent := fmt.Errorf("%w: %s for workspace %s", ErrNoSecret, r, a.challenge.Workspace)
	if !b.limits.record(a.challenge.Workspace, proved) {
		b.aggregate.add(CodeSecret)
		return absent
	}
	_, err := b.Log.Refuse(ctx, audit.Entry{
		Actor: guestActor(a.challenge.Workspace), Action: a.action(), Object: object(a.challenge.Workspace), Project: a.project,
		Outcome: audit.Refused, Code: CodeSecret, Details: map[string]any{"path": r.String()},
	})
	if err != nil {
		return fmt.Errorf("%w: recording a refusal of workspace %s: %w", ErrBusy, a.challenge.Workspace, err)
	}
	return absent
}

// openSecret fetches the wrapped payload, from memory or the key store, and opens it. Whoever gets it clears it.
func (b *Broker) openSecret(ctx context.Context, a *attempt) (door.Secret, error) {
	s := a.secret
	blob, err := b.blob(ctx, source{workspace: secretObject(s.ID), object: secretObject(s.ID), site: s.Site, secret: s.secretID, blobHash: s.blobHash})
	if err != nil {
		return nil, err
	}
	e := envelope{epoch: s.epoch, kek: s.kek, blob: blob, blobHash: [32]byte(s.blobHash)}
	payload, err := e.unwrap(ctx, b.Keyring, secretCustody, b.secretScope(s))
	if err != nil {
		b.Logger.Error("the secret does not open", zap.String("secret", s.ID), zap.Error(err))
		r := &Refusal{ID: newID(), Code: CodeKeyBlob, Detail: "the wrapped secret does not open"}
		return nil, errors.Join(r, b.refuseWithoutEvidence(ctx, a.challenge.Workspace, r))
	}
	return payload, nil
}

// judgeSecretsGuest: a secret goes to the boot that the volume's key was released to, and to no other. Another genuine
// boot of that generation is what the native door would find it to be. Which boot of a trust domain a session is nothing says
// (see boot), so it gets no secret, and suspends nothing: it may well be the guest itself.
func judgeSecretsGuest(a *attempt, s standing, same bool) (code, why string) {
	switch {
	case s.armState == stateArmed:
		return CodeGeneration, "the volume's key has not been released to this boot"
	case same:
		return "", "the guest that the volume's key was released to"
	case a.result.TEE == attest.TDX:
		return CodeGeneration, "a trust domain cannot show through this door that it is the guest that the volume's key was released to"
	case s.headerHash != "":
		return codeSecondBoot, "a second boot that nobody asked for"
	}
	return CodeGeneration, "not the guest that the volume's key was released to"
}

// judgeSecretsLease: the boot that asks holds its workspace's volume now, so it has passed every check of its renewals.
func judgeSecretsLease(a *attempt, s standing) (bool, string) {
	switch {
	case s.lease == nil:
		return false, "no live lease of the workspace's volume"
	case s.lease.workspace != a.challenge.Workspace || s.lease.generation != a.challenge.Generation || s.lease.epoch != a.epoch ||
		string(s.lease.reportID) != string(a.boot()):
		return false, "the live lease belongs to another boot"
	}
	return true, "held by this guest"
}

// giveSecret writes a release of a secret, under the lease of the guest's own volume.
func (b *Broker) giveSecret(ctx context.Context, tx *postgres.Batches, a *attempt, d *decision, s standing, checks []attest.Check) error {
	d.lease = s.lease.id
	batch := &pgx.Batch{}
	var err error
	if d.entry, err = b.Log.Queue(batch, b.entry(a, d, a.action(), audit.Success, "")); err != nil {
		return err
	}
	return b.writeDecision(ctx, tx, a, d, batch, "released", "", checks)
}

// action is that of the audit entry about an attempt.
func (a *attempt) action() string {
	switch a.challenge.Purpose {
	case door.Renew:
		return "lease.renew"
	case door.Attest:
		return "guest.attest"
	case purposeSecret:
		return "secret.release"
	}
	return "key.release"
}
