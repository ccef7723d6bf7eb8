package keybroker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// decision is what a release transaction came to.
type decision struct {
	id                string
	refusal           *Refusal
	lease             string
	until, renewAfter time.Time
	sealed            door.Box
	entry             audit.Ref
}

// standing is what the transaction reads, with everything locked that it rests on.
type standing struct {
	armState   string
	armEpoch   int
	reportID   []byte // of the boot that it was released to; see boot
	volume     string
	headerHash string
	keyActive  bool
	lease      *leaseRow // the live one of the volume, if it has not run out
	lapsed     bool      // there is one that has run out and still counts as live
	held       bool      // an earlier guest may still use the key, though its lease was ended; for an unlock
	secretLive bool      // where the release is of a secret
}

type leaseRow struct {
	id, workspace        string
	generation, epoch    int
	reportID, signingKey []byte
}

// release is the one transaction of design invariant: facts, decision, lease and audit entry, or none of them. keys is
// empty for a renewal. A refusal commits, too, with what it changes (a suspension).
func (b *Broker) release(ctx context.Context, a *attempt, keys volumeKeys) (decision, error) {
	var d decision
	err := postgres.InBatches(ctx, b.DB, func(tx *postgres.Batches) error {
		d = decision{id: newID()}
		s, facts, err := b.readStanding(ctx, tx, a)
		if err != nil {
			return err
		}
		checks, code := judgeFacts(a, s, facts)
		// Only the guest that everything is right with spends what its workspace is granted.
		if code == "" && a.secret == nil && !b.limits.lease(a.challenge.Workspace, b.InitialiseLease) {
			code = CodeRate
			checks = append(checks, attest.Check{Name: "rate", Status: attest.Failed, Code: code, Source: fromBroker, Got: "more grants than a guest needs"})
		}
		if code != "" {
			return b.refuse(ctx, tx, a, &d, s, checks, code)
		}
		switch a.challenge.Purpose {
		case door.Unlock:
			return b.unlock(ctx, tx, a, &d, s, checks, keys)
		case door.Renew:
			return b.renew(ctx, tx, a, &d, s, checks)
		case purposeSecret:
			return b.giveSecret(ctx, tx, a, &d, s, checks)
		}
		return fmt.Errorf("nothing is released for purpose %q", a.challenge.Purpose)
	})
	if err != nil {
		if d.refusal != nil && !d.refusal.Counted {
			b.aggregate.add(d.refusal.Code) // it may not have been written
		}
		return decision{}, fmt.Errorf("deciding about a guest of workspace %s: %w", a.challenge.Workspace, err)
	}
	return d, nil
}

// readStanding locks arm, volume and key, then reads the lease in a statement of its own: it must be seen as it is once
// the locks are held, not as it was when the first statement began. The facts follow. All of it is one round trip. Where
// there is no such arm, volume or key, the zero value stays, in which nothing is open or active.
func (b *Broker) readStanding(ctx context.Context, tx *postgres.Batches, a *attempt) (s standing, facts permit.FactSet, err error) {
	batch := &pgx.Batch{}
	batch.Queue(`SELECT a.state, a.epoch, a.report_id, v.state, coalesce(v.header_hash, ''), k.state = 'active'
		FROM broker_arm a JOIN broker_volume v USING (workspace) JOIN broker_key k USING (workspace)
		WHERE a.workspace = $1 AND a.generation = $2 AND k.version = $3 FOR UPDATE OF a FOR SHARE OF v, k`,
		a.challenge.Workspace, a.challenge.Generation, a.version).
		Query(func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&s.armState, &s.armEpoch, &s.reportID, &s.volume, &s.headerHash, &s.keyActive}, func() error { return nil })
			return err
		})
	batch.Queue(`SELECT id, workspace, generation, epoch, report_id, signing_key, until <= now() FROM broker_lease
		WHERE volume_id = $1 AND state = 'live' FOR UPDATE`, a.volumeID).
		Query(func(rows pgx.Rows) error {
			var l leaseRow
			_, err := pgx.ForEachRow(rows, []any{&l.id, &l.workspace, &l.generation, &l.epoch, &l.reportID, &l.signingKey, &s.lapsed}, func() error {
				if !s.lapsed {
					s.lease = &l
				}
				return nil
			})
			return err
		})
	if a.challenge.Purpose == door.Unlock {
		batch.Queue(heldQuery, a.challenge.Workspace).QueryRow(func(row pgx.Row) error {
			var until *time.Time
			err := row.Scan(&until)
			s.held = until != nil
			return err
		})
	}
	if a.secret != nil {
		batch.Queue(`SELECT true FROM broker_secret WHERE id = $1 AND state = 'live' FOR SHARE`, a.secret.ID).
			Query(func(rows pgx.Rows) error {
				_, err := pgx.ForEachRow(rows, []any{&s.secretLive}, func() error { return nil })
				return err
			})
	}
	b.Facts.QueueFacts(batch, b.query(a), &facts)
	if err := tx.Send(ctx, batch); err != nil {
		return standing{}, permit.FactSet{}, fmt.Errorf("locking the guest and reading the facts: %w", err)
	}
	if !bytes.Equal(facts.Floor, a.floor) {
		a.floor = facts.Floor
		return standing{}, permit.FactSet{}, errFloorMoved
	}
	return s, facts, nil
}

// errFloorMoved: the evidence was judged under a floor that is not the one in force. Judged again, it may be refused.
var errFloorMoved = fmt.Errorf("%w: the security floor has just changed", ErrBusy)

// findings are checks as they are made; the code is that of the first that failed.
type findings struct {
	checks []attest.Check
	code   string
}

func (f *findings) add(name, failure string, holds bool, got string) {
	c := attest.Check{Name: name, Status: attest.Passed, Code: failure, Source: fromBroker, Got: got}
	if !holds {
		c.Status = attest.Failed
		if f.code == "" {
			f.code = failure
		}
	}
	f.checks = append(f.checks, c)
}

// judgePeople lists the facts that people decide, behind the checks of the evidence.
func judgePeople(a *attempt, s standing, facts permit.FactSet) *findings {
	f := &findings{checks: make([]attest.Check, 0, len(a.result.Checks)+9)}
	f.checks = append(f.checks, a.result.Checks...)
	f.add("key not shredded", CodeWorkspace, s.volume == "open" && s.keyActive, s.volume)
	if a.secret != nil {
		f.add("secret not ended", CodeSecret, s.secretLive, a.secret.Path())
	}
	f.add("permit", CodePermit, facts.Permit.Holds, facts.Permit.Why)
	f.add("project", CodeProject, facts.Project.Holds, facts.Project.Why)
	f.add("image", CodeImage, facts.Image.Holds, facts.Image.Why)
	f.add("no freeze", CodeFreeze, facts.NoFreeze.Holds, facts.NoFreeze.Why)
	return f
}

// judgeFacts lists every fact with its outcome; the code is that of the first that failed, in this order. It changes nothing.
func judgeFacts(a *attempt, s standing, facts permit.FactSet) (checks []attest.Check, code string) {
	f := judgePeople(a, s, facts)
	guestCode, guestWhy := judgeGuest(a, s)
	if guestCode == "" {
		f.add("guest", CodeGeneration, true, guestWhy)
	} else {
		f.add("guest", guestCode, false, guestWhy)
	}
	holds, why := judgeLease(a, s)
	f.add("lease", CodeLease, holds, why)
	f.add("header", CodeBinding, a.req.HeaderHash == "" || s.headerHash == "" || a.req.HeaderHash == s.headerHash, "")
	return f.checks, f.code
}

// judgeGuest decides whether this is the boot that was armed. Until the header of the volume is on record there is
// nothing on the disk to protect, and a guest that died while formatting may begin again once its lease has run out.
func judgeGuest(a *attempt, s standing) (code, why string) {
	same := s.reportID != nil && string(s.reportID) == string(a.boot())
	switch {
	case s.armState == stateSuspended:
		return CodeSuspended, "the generation is suspended"
	case s.armState != stateArmed && s.armState != stateReleased:
		return CodeGeneration, "the generation is " + s.armState
	case s.armEpoch != a.epoch:
		return CodeGeneration, "the challenge is of an earlier arming"
	case a.challenge.Purpose == purposeSecret:
		return judgeSecretsGuest(a, s, same)
	case a.challenge.Purpose == door.Renew:
		if s.armState != stateReleased || !same {
			return CodeGeneration, "not the guest that the key was released to"
		}
		return "", "the guest that the key was released to"
	case s.armState == stateArmed:
		return "", "armed and not yet released"
	case s.headerHash == "":
		return "", "released, and not yet formatted"
	case same:
		return CodeGeneration, "the key was released to this boot before"
	}
	return codeSecondBoot, "a second boot that nobody asked for"
}

// codeSecondBoot is generation with a consequence; see refuse.
const codeSecondBoot = "second_boot"

func judgeLease(a *attempt, s standing) (bool, string) {
	if a.challenge.Purpose == purposeSecret {
		return judgeSecretsLease(a, s)
	}
	if a.challenge.Purpose == door.Renew {
		if s.lease == nil {
			return false, "there is no live lease to renew"
		}
		ok := s.lease.workspace == a.challenge.Workspace && s.lease.generation == a.challenge.Generation &&
			string(s.lease.reportID) == string(a.boot()) && string(s.lease.signingKey) == string(a.req.SigningKey)
		if !ok {
			return false, "the live lease belongs to another boot or another signing key"
		}
		return true, "held by this guest"
	}
	if s.lease != nil || s.held {
		return false, "another holder is live"
	}
	return true, "free"
}

// unlock writes a release. The key is sealed inside the transaction, so that the ciphertext for redelivery commits with
// everything else; without the broker's signature, which is made after the checkpoint, no guest acts on it.
func (b *Broker) unlock(ctx context.Context, tx *postgres.Batches, a *attempt, d *decision, s standing, checks []attest.Check, keys volumeKeys) error {
	mode, life := door.Open, b.Lease
	if s.headerHash == "" {
		mode, life = door.Initialise, b.InitialiseLease
	}
	var err error
	d.sealed, err = a.sealTo.Seal(door.GrantInfo(a.context(), a.challenge, a.nonce),
		door.Sealed{Mode: mode, VolumeSerial: a.serial, LUKSKey: keys.luks, HeaderMACKey: keys.headerMAC, HeaderHash: s.headerHash})
	if err != nil {
		return err
	}
	d.lease = newID()
	batch := &pgx.Batch{}
	if d.entry, err = b.Log.Queue(batch, b.entry(a, d, "key.release", audit.Success, "")); err != nil {
		return err
	}
	if s.lapsed {
		batch.Queue(`UPDATE broker_lease SET state = 'ended', ended_why = 'expired', sealed_enc = NULL, sealed_text = NULL
			WHERE volume_id = $1 AND state = 'live' AND until <= now()`, a.volumeID)
	}
	batch.Queue(`WITH armed AS (UPDATE broker_arm SET state = 'released', report_id = $6, reason = '', changed_at = now()
		WHERE workspace = $2 AND generation = $3 AND epoch = $4 AND state IN ('armed', 'released'))
		INSERT INTO broker_lease (id, workspace, generation, epoch, volume_id, report_id, signing_key, chip, product, policy, state, mode, until, renew_after,
			stage, challenge, request, sealed_enc, sealed_text, entry)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $15, $16, 'live', $9, now() + make_interval(secs => $10), now() + make_interval(secs => $10 / 2),
			'attested', $11, $12, $13, $14, $17) RETURNING until, renew_after`,
		d.lease, a.challenge.Workspace, a.challenge.Generation, a.epoch, a.volumeID, a.boot(), a.req.SigningKey,
		hexOf(a.result.ChipID[:]), mode, life.Seconds(), a.req.Challenge, a.requestHash(), d.sealed.Enc, d.sealed.Ciphertext, a.result.Product, a.policyHash[:], d.entry.ID).
		QueryRow(func(row pgx.Row) error { return row.Scan(&d.until, &d.renewAfter) })
	return b.writeDecision(ctx, tx, a, d, batch, "released", "", checks)
}

// renew gives the holder more time. It also acknowledges the grant: who renews has the key.
func (b *Broker) renew(ctx context.Context, tx *postgres.Batches, a *attempt, d *decision, s standing, checks []attest.Check) error {
	d.lease = s.lease.id
	batch := &pgx.Batch{}
	var err error
	if d.entry, err = b.Log.Queue(batch, b.entry(a, d, "lease.renew", audit.Success, "")); err != nil {
		return err
	}
	life := b.Lease
	if s.headerHash == "" {
		life = b.InitialiseLease
	}
	batch.Queue(`UPDATE broker_lease SET until = now() + make_interval(secs => $2), renew_after = now() + make_interval(secs => $2 / 2),
			challenge = $3, request = $4, policy = $5, entry = $6, sealed_enc = NULL, sealed_text = NULL
		WHERE id = $1 AND state = 'live' RETURNING until, renew_after`, d.lease, life.Seconds(), a.req.Challenge, a.requestHash(), a.policyHash[:], d.entry.ID).
		QueryRow(func(row pgx.Row) error { return row.Scan(&d.until, &d.renewAfter) })
	return b.writeDecision(ctx, tx, a, d, batch, "renewed", "", checks)
}

// refuse writes a refusal of genuine evidence, beyond a rate only into the count of refusals. A second boot, always
// written, suspends the generation: renewals of the first are refused from then on, so that its lease dies and a person can
// look.
func (b *Broker) refuse(ctx context.Context, tx *postgres.Batches, a *attempt, d *decision, s standing, checks []attest.Check, code string) error {
	second := false
	for i := range checks {
		if checks[i].Code == codeSecondBoot {
			second, checks[i].Code = true, CodeGeneration
		}
	}
	if code == codeSecondBoot {
		code = CodeGeneration
	}
	d.refusal = &Refusal{ID: d.id, Code: code, Detail: failedNames(checks), Checks: checks}
	batch := &pgx.Batch{}
	if !second && !b.limits.record(a.challenge.Workspace, proved) {
		b.aggregate.add(code)
		d.refusal.Counted = true
		batch.Queue(`UPDATE broker_challenge SET outcome = 'refused' WHERE id = $1 AND outcome IS NULL`, a.req.Challenge)
		return tx.Commit(ctx, batch)
	}
	if second {
		b.Logger.Error("generation suspended after a second boot", zap.String("workspace", a.challenge.Workspace), zap.Int("generation", a.challenge.Generation))
		batch.Queue(`UPDATE broker_arm SET state = 'suspended', reason = 'a second guest booted that nobody had asked for', changed_at = now()
			WHERE workspace = $1 AND generation = $2 AND epoch = $3 AND state = 'released'`, a.challenge.Workspace, a.challenge.Generation, s.armEpoch)
		if _, err := b.Log.Queue(batch, audit.Entry{
			Actor: systemActor, Action: "guest.suspend", Object: object(a.challenge.Workspace), Project: a.project,
			Outcome: audit.Success, Details: map[string]any{"generation": a.challenge.Generation, "decision": d.id},
		}); err != nil {
			return err
		}
	}
	var err error
	if d.entry, err = b.Log.Queue(batch, b.entry(a, d, a.action(), audit.Refused, code)); err != nil {
		return err
	}
	return b.writeDecision(ctx, tx, a, d, batch, "refused", code, checks)
}

// refuseEvidence records a refusal by the verifier. Somebody who only knows an id can cause these, so beyond a rate they
// are counted and not stored; and the address pays before anything is written, for a log that stalls makes nothing free.
func (b *Broker) refuseEvidence(ctx context.Context, a *attempt, verdict *attest.Refusal) error {
	a.turn.refused()
	d := decision{id: newID()}
	r := &Refusal{ID: d.id, Code: verdict.Code, Detail: verdict.Detail, Checks: verdict.Checks}
	if !b.limits.record(a.challenge.Workspace, unproved) {
		b.aggregate.add(r.Code)
		r.Counted = true
		if _, err := b.DB.Exec(ctx, `UPDATE broker_challenge SET outcome = 'refused' WHERE id = $1`, a.req.Challenge); err != nil {
			return fmt.Errorf("closing a challenge: %w", err)
		}
		return r
	}
	err := postgres.InBatches(ctx, b.DB, func(tx *postgres.Batches) error {
		batch := &pgx.Batch{}
		var err error
		if d.entry, err = b.Log.Queue(batch, b.entry(a, &d, a.action(), audit.Refused, r.Code)); err != nil {
			return err
		}
		return b.writeDecision(ctx, tx, a, &d, batch, "refused", r.Code, verdict.Checks)
	})
	if err != nil {
		b.aggregate.add(r.Code)
		return fmt.Errorf("recording a refusal of workspace %s: %w", a.challenge.Workspace, err)
	}
	if _, err := b.await(ctx, d.entry); err != nil {
		return fmt.Errorf("%w: waiting for the checkpoint of a refusal: %w", ErrBusy, err)
	}
	return r
}

// refuseWithoutEvidence records a refusal whose cause is on our side of the door, at a bounded rate.
func (b *Broker) refuseWithoutEvidence(ctx context.Context, workspace string, r *Refusal) error {
	if !b.limits.record(workspace, ours) {
		b.aggregate.add(r.Code)
		return nil
	}
	_, err := b.Log.Refuse(ctx, audit.Entry{
		Actor: guestActor(workspace), Action: "key.release", Object: object(workspace),
		Outcome: audit.Refused, Code: r.Code, Details: map[string]any{"decision": r.ID},
	})
	if err != nil {
		return fmt.Errorf("recording a refusal of workspace %s: %w", workspace, err)
	}
	return nil
}

func (b *Broker) entry(a *attempt, d *decision, action string, outcome audit.Outcome, code string) audit.Entry {
	details := map[string]any{
		"decision": d.id, "generation": a.challenge.Generation, "epoch": a.epoch,
		"evidence": hexOf(evidenceDigest(a.judged)), "policy": hexOf(a.policyHash[:]), "collateral": a.collateral.digest.String(),
	}
	if d.lease != "" {
		details["lease"], details["challenge"] = d.lease, a.challengeID()
	}
	if a.secret != nil {
		details["secret"] = a.secret.ID
	}
	if a.result != nil {
		details["measurement"] = hexOf(a.result.Measurement[:])
		if t := a.result.TDX; t != nil { // of a trust domain the measurement is of its firmware alone
			details["rtmr1"], details["rtmr2"] = hexOf(t.RTMRs[1][:]), hexOf(t.RTMRs[2][:])
		}
		if a.result.Simulated {
			details["simulated"] = true
		}
	}
	return audit.Entry{
		Actor: guestActor(a.challenge.Workspace), Action: action, Object: object(a.challenge.Workspace), Project: a.project,
		Outcome: outcome, Code: code, Details: details,
	}
}

func evidenceDigest(ev attest.Evidence) []byte {
	h := sha256.Sum256(door.LP([]byte("siesta/stored-evidence/v1"), []byte(ev.TEE), ev.Report, ev.Certificates, ev.EventLog))
	return h[:]
}

// writeDecision is queueDecision, sent and committed in one round trip.
//
// Nothing in it needs a look before it commits: what its rows rest on was locked by readStanding, a refusal of evidence
// rests on no row, and a second live lease breaks a unique index.
func (b *Broker) writeDecision(ctx context.Context, tx *postgres.Batches, a *attempt, d *decision, batch *pgx.Batch, outcome, code string, checks []attest.Check) error {
	b.queueDecision(a, d, batch, outcome, code, checks)
	if err := tx.Commit(ctx, batch); err != nil {
		return fmt.Errorf("writing the decision: %w", err)
	}
	return nil
}

// queueDecision adds the decision and the bytes that it rests on to a batch in which its audit entry is the last of all
// entries.
func (b *Broker) queueDecision(a *attempt, d *decision, batch *pgx.Batch, outcome, code string, checks []attest.Check) {
	name := func(body []byte) []byte {
		if len(body) == 0 {
			return nil
		}
		h := sha256.Sum256(body)
		return h[:]
	}
	keep := func(body []byte) []byte {
		h := name(body)
		if h == nil {
			return nil
		}
		if _, known := b.stored.get([32]byte(h)); !known {
			batch.Queue(`INSERT INTO broker_blob (sha256, body) VALUES ($1, $2) ON CONFLICT DO NOTHING`, h, body)
		}
		return h
	}
	keep(a.policyBody)
	a.collateral.keep(b, batch)
	certificates, log := keep(a.judged.Certificates), keep(a.judged.EventLog)
	var lease, secret *string
	challengeOutcome := "refused"
	if outcome != "refused" {
		challengeOutcome = "granted"
	}
	if d.lease != "" {
		lease = &d.lease
	}
	if a.secret != nil {
		secret = &a.secret.ID
	}
	// One statement, for it is written with every release; unlike the rest, no report was stored before.
	batch.Queue(`WITH report AS (INSERT INTO broker_blob (sha256, body) SELECT $11::bytea, $21::bytea WHERE $11::bytea IS NOT NULL ON CONFLICT DO NOTHING),
		closed AS (UPDATE broker_challenge SET outcome = $22 WHERE id = $5 AND outcome IS NULL)
		INSERT INTO broker_decision (id, workspace, generation, epoch, challenge, purpose, outcome, code, checks, tee, report, certificates,
			event_log, policy, collateral, report_data, judged_at, lease, secret, entry)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)`,
		d.id, a.challenge.Workspace, a.challenge.Generation, a.epoch, a.req.Challenge, string(a.challenge.Purpose), outcome, code, attest.AppendChecks(nil, checks),
		string(a.judged.TEE), name(a.judged.Report), certificates, log, a.policyHash[:], a.collateral.digest[:], a.reportData[:], a.judgedAt, lease, secret, d.entry.ID,
		a.judged.Report, challengeOutcome)
}

func failedNames(checks []attest.Check) string {
	var out string
	for _, c := range checks {
		if c.Status == attest.Failed {
			if out != "" {
				out += ", "
			}
			out += c.Name
		}
	}
	return out
}
