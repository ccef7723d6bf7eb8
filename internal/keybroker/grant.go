package keybroker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// attempt is one grant request with all that was read for it before the transaction.
type attempt struct {
	req        door.GrantRequest
	sealTo     door.PublicKey
	nonce      []byte
	challenge  door.ChallengeRequest
	epoch      int // of the arming that the challenge belongs to
	project    string
	site       string
	dataset    string
	owner      string
	image      string
	volumeID   string
	serial     string
	secret     *Secret   // of a release through /kbs/v0, nil otherwise
	initData   *initData // that a guest of /kbs/v0 says it was launched with, nil for none
	armed      [32]byte  // hash of the policy that the generation was armed with
	policyHash [32]byte  // of the policy that the evidence is judged under: armed, or armed with floor
	policyBody []byte    // of policyHash, where it is not stored yet
	floor      []byte    // digest of the floor file in force, nil for none
	source     source
	key        envelope
	version    int

	evidence   attest.Evidence
	judged     attest.Evidence // of evidence, what the verdict rests on: all that is kept
	reportData [64]byte
	turn       *turn // ends when the evidence is judged
	collateral heldCollateral
	judgedAt   time.Time
	result     *attest.Result
}

// Grant judges a guest's evidence and, if every fact holds, hands it the key of its volume, or, for a renewal, more time.
//
// Order: the nonce is consumed; the evidence is judged; one transaction reads the facts and writes decision, lease and
// audit entry; the entry comes under a signed checkpoint; then the answer is signed and leaves.
func (b *Broker) Grant(ctx context.Context, req door.GrantRequest, peer string) (door.Grant, error) {
	turn, err := b.admit(ctx, peer, true)
	if err != nil {
		return door.Grant{}, err
	}
	defer turn.leave()
	ctx, cancel := whole(ctx)
	defer cancel()
	t, nonce, ok := b.ticket(req.Challenge)
	if !ok {
		return door.Grant{}, b.anonymous(turn, CodeNonce, "the challenge is unknown")
	}
	sealTo, err := door.ParseKey(req.HPKE)
	if err != nil {
		return door.Grant{}, b.anonymous(turn, CodeBinding, "the HPKE key is not valid")
	}
	a, err := b.consume(ctx, req, t, nonce)
	if errors.Is(err, pgx.ErrNoRows) {
		return b.redeliver(ctx, req, turn)
	}
	if err != nil {
		return door.Grant{}, fmt.Errorf("consuming a challenge: %w", err)
	}
	// From here on the nonce is burnt, whatever happens.
	a.turn = turn
	if err := b.fits(ctx, a, door.Unlock, door.Renew); err != nil {
		return door.Grant{}, err
	}
	a.sealTo = sealTo
	g, err := b.decide(ctx, a)
	if errors.Is(err, errFloorMoved) {
		g, err = b.decide(ctx, a) // floors are raised by two people: not twice in a moment
	}
	b.refusedGuest(a, err)
	return g, err
}

// fits refuses, once the nonce is burnt, what nothing would judge: a challenge that was made for something else, and
// evidence that holds more than its kind can. It is counted, and not a byte of it is kept.
func (b *Broker) fits(ctx context.Context, a *attempt, purposes ...door.Purpose) error {
	code, why := "", ""
	switch {
	case !slices.Contains(purposes, a.challenge.Purpose):
		code, why = CodeBinding, "the challenge is for something else"
	case a.evidence.TEE != attest.SEVSNP && a.evidence.TEE != attest.TDX:
		code, why = attest.CodeFormat, "this kind of evidence is not known"
	case a.evidence.TEE == attest.SEVSNP && len(a.evidence.EventLog) > 0:
		code, why = attest.CodeEventLog, "an SEV-SNP report has no event log"
	default:
		return nil
	}
	return b.refuseUnkept(ctx, a, code, why)
}

// refuseUnkept refuses a grant whose nonce is burnt and of which nothing is kept but a count. The address pays first, as in
// refuseEvidence: a database that fails makes nothing free.
func (b *Broker) refuseUnkept(ctx context.Context, a *attempt, code, why string) error {
	a.turn.refused()
	if _, err := b.DB.Exec(ctx, `UPDATE broker_challenge SET outcome = 'refused' WHERE id = $1`, a.req.Challenge); err != nil {
		return fmt.Errorf("closing a challenge: %w", err)
	}
	return b.count(code, why)
}

const attemptColumns = `c.nonce, c.workspace, c.generation, c.purpose, c.epoch, v.project, v.site, coalesce(v.secret_id, ''),
	a.dataset, a.owner, a.image, a.volume_id, a.volume_serial, a.policy, coalesce(k.version, 0), coalesce(k.epoch, 0), k.kek, k.blob_hash,
	(SELECT sha256 FROM security_floor WHERE state = 'active')`

const attemptJoins = ` JOIN broker_arm a ON a.workspace = c.workspace AND a.generation = c.generation
	JOIN broker_volume v ON v.workspace = c.workspace
	LEFT JOIN broker_key k ON k.workspace = c.workspace AND k.state = 'active'`

// consumeQuery is a statement and a transaction of its own: that the nonce is used is durable before the evidence is looked
// at. The row stays until after the challenge has run out, and from then on broker_swept stands for it, whatever the clock
// says: so it cannot be written twice.
const consumeQuery = `WITH c AS (INSERT INTO broker_challenge (id, nonce, workspace, generation, epoch, purpose, expires_at, used_at)
	SELECT $1, $2, workspace, generation, $5, $6, $7, now() FROM broker_arm WHERE workspace = $3 AND generation = $4
		AND $7 > now() AND $7 > (SELECT until FROM broker_swept)
	ON CONFLICT DO NOTHING RETURNING nonce, workspace, generation, purpose, epoch)
	SELECT ` + attemptColumns + ` FROM c` + attemptJoins

func (b *Broker) consume(ctx context.Context, req door.GrantRequest, t ticket, nonce []byte) (*attempt, error) {
	return scanAttempt(b.DB.QueryRow(ctx, consumeQuery, req.Challenge, nonce, t.workspace, t.generation, t.epoch, string(t.purpose), t.expires), req)
}

func scanAttempt(row pgx.Row, req door.GrantRequest) (*attempt, error) {
	a := &attempt{req: req, evidence: attest.Evidence{
		TEE: attest.TEE(req.Evidence.TEE), Report: req.Evidence.Report,
		Certificates: req.Evidence.Certificates, EventLog: req.Evidence.EventLog,
	}}
	var policy, blobHash []byte
	var purpose string
	if err := row.Scan(&a.nonce, &a.challenge.Workspace, &a.challenge.Generation, &purpose, &a.epoch, &a.project, &a.site, &a.source.secret,
		&a.dataset, &a.owner, &a.image, &a.volumeID, &a.serial, &policy, &a.version, &a.key.epoch, &a.key.kek, &blobHash, &a.floor); err != nil {
		return nil, err
	}
	if len(policy) != len(a.policyHash) {
		return nil, errors.New("the policy's hash is malformed")
	}
	a.challenge.Purpose = door.Purpose(purpose)
	a.armed = [32]byte(policy)
	a.policyHash = a.armed
	a.source.workspace, a.source.site, a.source.epoch, a.source.blobHash = a.challenge.Workspace, a.site, a.epoch, blobHash
	if len(blobHash) == len(a.key.blobHash) {
		a.key.blobHash = [32]byte(blobHash)
	}
	a.reportData = door.ReportData(door.Binding{
		Challenge: req.Challenge, Nonce: a.nonce, Workspace: a.challenge.Workspace,
		Generation: a.challenge.Generation, Purpose: a.challenge.Purpose, KEM: req.HPKE.KEM, HPKEKey: req.HPKE.PublicKey,
		SigningKey: req.SigningKey, HeaderHash: req.HeaderHash,
	})
	return a, nil
}

// judge verifies the evidence. A *attest.Refusal is a verdict, any other error is not.
func (b *Broker) judge(ctx context.Context, a *attempt) error {
	policy, err := b.policy(ctx, a.armed)
	if err != nil {
		return err
	}
	if policy, err = b.raise(ctx, a, policy); err != nil {
		return err
	}
	collateral, err := b.Collateral(ctx, CollateralQuery{Site: a.site, Project: a.project, Evidence: a.evidence})
	if err != nil {
		return fmt.Errorf("collecting collateral of site %s: %w", a.site, err)
	}
	policy.ReportData = a.reportData
	a.collateral = b.hold(a.evidence, collateral)
	a.judgedAt = b.Now().UTC().Truncate(time.Microsecond) // as it is stored: a replay judges at the very same time
	a.result, err = b.Verifier.Verify(a.evidence, collateral, policy, a.judgedAt)
	a.judged = attest.Judged(a.evidence, a.result, err)
	if err == nil {
		a.turn.leave() // refused evidence pays with what it holds: see refuseEvidence
	}
	return err
}

func (b *Broker) policy(ctx context.Context, hash [32]byte) (attest.Policy, error) {
	if p, ok := b.policies.get(hash); ok {
		return p, nil
	}
	var body []byte
	if err := b.DB.QueryRow(ctx, `SELECT body FROM broker_blob WHERE sha256 = $1`, hash[:]).Scan(&body); err != nil {
		return attest.Policy{}, fmt.Errorf("reading policy %x: %w", hash[:8], err)
	}
	var p attest.Policy
	if err := json.Unmarshal(body, &p); err != nil {
		return attest.Policy{}, fmt.Errorf("reading policy %x: %w", hash[:8], err)
	}
	if p.Hash() != hash {
		return attest.Policy{}, fmt.Errorf("reading policy %x: the stored bytes are of another policy", hash[:8])
	}
	b.policies.put(hash, p)
	return p, nil
}

func (b *Broker) decide(ctx context.Context, a *attempt) (door.Grant, error) {
	if err := b.judge(ctx, a); err != nil {
		var verdict *attest.Refusal
		if !errors.As(err, &verdict) {
			return door.Grant{}, fmt.Errorf("judging a guest of workspace %s: %w", a.challenge.Workspace, err)
		}
		return door.Grant{}, b.refuseEvidence(ctx, a, verdict)
	}
	var keys volumeKeys
	if a.challenge.Purpose == door.Unlock && a.version > 0 {
		var err error
		if a.key.blob, err = b.blob(ctx, a.source); err != nil {
			return door.Grant{}, err
		}
		if keys, err = a.key.open(ctx, b.Keyring, b.scope(a.site, a.challenge.Workspace, a.version)); err != nil {
			// The hash was right, so it is the KEK that does not fit: destroyed root, or a row from elsewhere.
			b.Logger.Error("the volume key does not open", zap.String("workspace", a.challenge.Workspace), zap.Error(err))
			r := &Refusal{ID: newID(), Code: CodeKeyBlob, Detail: "the wrapped key does not open"}
			return door.Grant{}, errors.Join(r, b.refuseWithoutEvidence(ctx, a.challenge.Workspace, r))
		}
		defer keys.clear()
	}
	d, err := b.release(ctx, a, keys)
	if err != nil {
		return door.Grant{}, err
	}
	receipt, err := b.await(ctx, d.entry)
	if err != nil {
		// The release is committed and the answer has not left: the same request will be answered.
		return door.Grant{}, fmt.Errorf("%w: waiting for the checkpoint of a decision: %w", ErrBusy, err)
	}
	if d.refusal != nil {
		return door.Grant{}, d.refusal
	}
	b.remember(a)
	return b.answer(a, d, receipt), nil
}

// await waits for the checkpoint over an entry, but not for ever: a guest that is told to ask again gets the same answer
// later. A refusal that is only counted has no entry, and is not waited for.
func (b *Broker) await(ctx context.Context, of audit.Ref) (audit.Receipt, error) {
	if of == (audit.Ref{}) {
		return audit.Receipt{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	return b.Log.Wait(ctx, of)
}

// awaitGrant is await for a grant that was written before. Which entry belongs to it only the database says, so the entry
// itself must say that it is about this lease and this challenge: otherwise whoever writes to the database could have a key
// leave whose own entry he has deleted.
func (b *Broker) awaitGrant(ctx context.Context, a *attempt, id audit.ID, lease string) (audit.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	receipt, body, err := b.Log.WaitID(ctx, id)
	if err != nil {
		return audit.Receipt{}, fmt.Errorf("%w: waiting for the checkpoint of a release: %w", ErrBusy, err)
	}
	var entry struct {
		Action  string        `json:"action"`
		Outcome audit.Outcome `json:"outcome"`
		Details struct {
			Lease     string `json:"lease"`
			Challenge string `json:"challenge"`
		} `json:"details"`
	}
	if err := json.Unmarshal(body, &entry); err != nil {
		return audit.Receipt{}, fmt.Errorf("reading the audit entry of lease %s: %w", lease, err)
	}
	if entry.Action != a.action() || entry.Outcome != audit.Success || entry.Details.Lease != lease || entry.Details.Challenge != a.challengeID() {
		b.Logger.Error("the database names another audit entry for a lease than its own", zap.String("workspace", a.challenge.Workspace), zap.String("lease", lease))
		return audit.Receipt{}, fmt.Errorf("the audit entry that the database names for lease %s is about something else", lease)
	}
	return receipt, nil
}

// challengeID names the challenge in the log, without the code that makes it good.
func (a *attempt) challengeID() string {
	id, _, _ := strings.Cut(a.req.Challenge, ".")
	return id
}

// answer signs what may leave. It is called only after the checkpoint.
func (b *Broker) answer(a *attempt, d decision, receipt audit.Receipt) door.Grant {
	g := door.Grant{
		Lease:   door.Lease{ID: d.lease, Until: door.FormatTime(d.until), RenewAfter: door.FormatTime(d.renewAfter)},
		Sealed:  d.sealed,
		Context: a.context(),
		Receipt: receipt.Proof,
	}
	door.SignGrant(b.Key, a.req.Challenge, a.nonce, &g)
	return g
}

func (a *attempt) context() door.Context {
	return door.Context{Project: a.project, Volume: a.volumeID, PolicyHash: hexOf(a.policyHash[:])}
}

// boot names the boot that asks, the same in all its evidence and another in any other's. The processor of SEV-SNP gives each
// launch an id, REPORT_ID. A trust domain has none: there the key with which the guest signs stands for it, which the report
// data prove and the agent makes anew whenever it starts. A session of /kbs/v0 proves no such key, so that on TDX it is never
// the boot that has the volume.
func (a *attempt) boot() []byte {
	if a.result.TEE != attest.TDX {
		return a.result.ReportID[:]
	}
	h := sha256.Sum256(door.LP([]byte("siesta/td-boot/v1"), a.req.SigningKey))
	return h[:]
}

// requestHash names the guest that asks: its keys and its boot, all of them proved by the report.
func (a *attempt) requestHash() []byte {
	h := sha256.Sum256(door.LP([]byte("siesta/request/v1"), []byte(a.req.Challenge), a.boot(), []byte(a.req.HPKE.KEM),
		a.req.HPKE.PublicKey, a.req.SigningKey))
	return h[:]
}

func (b *Broker) query(a *attempt) permit.FactQuery {
	q := permit.FactQuery{Workspace: a.challenge.Workspace, Project: a.project, Dataset: a.dataset, Person: a.owner, Image: a.image, Site: a.site}
	if a.version > 0 {
		q.Key = a.challenge.Workspace + "/" + strconv.Itoa(a.version)
	}
	if a.result != nil {
		q.Chip, q.Product = hexOf(a.result.ChipID[:]), a.result.Product
		q.Host = b.host(a.site, q.Chip)
	}
	return q
}

// host is the machine of a chip as freezes name it; "" when it is not known.
func (b *Broker) host(site, chip string) string {
	if b.Host == nil {
		return ""
	}
	return hostName(site, b.Host(site, chip))
}

// redeliver answers a challenge that is used: the same guest with the same keys gets the same bytes until it has said
// that it has them, and for as long as every fact holds. The evidence is judged again, for it is the evidence that says
// who asks.
func (b *Broker) redeliver(ctx context.Context, req door.GrantRequest, turn *turn) (door.Grant, error) {
	var busy bool
	var d decision
	var entry audit.ID
	var request, policy []byte
	row := b.DB.QueryRow(ctx, `SELECT c.outcome IS NULL AND c.expires_at > now() - interval '1 minute',
		coalesce(l.id, ''), coalesce(l.until, now()), coalesce(l.renew_after, now()), coalesce(l.sealed_enc, ''), coalesce(l.sealed_text, ''), coalesce(l.entry, 0), l.request, l.policy
		FROM broker_challenge c LEFT JOIN broker_lease l ON l.challenge = c.id AND l.state = 'live' AND l.until > now()
			AND (c.purpose = 'renew' OR l.sealed_text IS NOT NULL)
		WHERE c.id = $1`, req.Challenge)
	err := row.Scan(&busy, &d.lease, &d.until, &d.renewAfter, &d.sealed.Enc, &d.sealed.Ciphertext, &entry, &request, &policy)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return door.Grant{}, fmt.Errorf("looking for an earlier answer: %w", err)
	}
	if err == nil && busy && d.lease == "" {
		// Being answered, or never: whoever burnt the nonce may have died before it decided. That is not the guest's doing,
		// and it takes another challenge when this one has run out.
		return door.Grant{}, fmt.Errorf("%w: this request is being answered", ErrBusy)
	}
	if err != nil || d.lease == "" {
		return door.Grant{}, b.anonymous(turn, CodeNonce, "the challenge is unknown, used or expired")
	}
	a, err := scanAttempt(b.DB.QueryRow(ctx, `SELECT `+attemptColumns+` FROM broker_challenge c`+attemptJoins+` WHERE c.id = $1`, req.Challenge), req)
	if err != nil {
		return door.Grant{}, fmt.Errorf("reading a used challenge: %w", err)
	}
	a.turn = turn
	var verdict *attest.Refusal
	if err := b.judge(ctx, a); err != nil && !errors.As(err, &verdict) {
		return door.Grant{}, fmt.Errorf("judging a guest of workspace %s again: %w", a.challenge.Workspace, err)
	}
	if verdict != nil || string(a.requestHash()) != string(request) {
		return door.Grant{}, b.anonymous(turn, CodeNonce, "the challenge is used, by another guest or with other keys")
	}
	receipt, err := b.awaitGrant(ctx, a, entry, d.lease)
	if err != nil {
		return door.Grant{}, err
	}
	if err := b.mayLeaveAgain(ctx, a, d.lease); err != nil {
		b.refusedGuest(a, err)
		return door.Grant{}, err
	}
	if len(policy) == len(a.policyHash) {
		a.policyHash = [32]byte(policy) // of the answer that is given again, not of today's floor
	}
	return b.answer(a, d, receipt), nil
}

// mayLeaveAgain reads, in one transaction, whether every fact of a release still holds: what people have stopped since
// does not leave a second time. Nothing is written but a refusal; the lease is as it was, and so is the challenge.
func (b *Broker) mayLeaveAgain(ctx context.Context, a *attempt, lease string) error {
	var d decision
	err := postgres.InBatches(ctx, b.DB, func(tx *postgres.Batches) error {
		d = decision{id: newID()}
		s, facts, err := b.readStanding(ctx, tx, a)
		if err != nil {
			return err
		}
		f := judgePeople(a, s, facts)
		f.add("not suspended", CodeSuspended, s.armState != stateSuspended, s.armState)
		f.add("guest", CodeGeneration, s.armState == stateReleased && s.armEpoch == a.epoch && bytes.Equal(s.reportID, a.boot()),
			"the boot that the release was for")
		f.add("lease", CodeLease, s.lease != nil && s.lease.id == lease, "the lease of the release")
		if f.code != "" {
			return b.refuse(ctx, tx, a, &d, s, f.checks, f.code)
		}
		return tx.Commit(ctx, &pgx.Batch{})
	})
	if err != nil {
		return fmt.Errorf("deciding again about a guest of workspace %s: %w", a.challenge.Workspace, err)
	}
	if d.refusal == nil {
		return nil
	}
	if _, err := b.await(ctx, d.entry); err != nil {
		return fmt.Errorf("%w: waiting for the checkpoint of a refusal: %w", ErrBusy, err)
	}
	return d.refusal
}

// remember notes which blobs are stored, so that the next decision does not send them again.
func (b *Broker) remember(a *attempt) {
	if n := len(a.judged.Certificates); n > 0 {
		b.stored.put(sha256.Sum256(a.judged.Certificates), true)
	}
	b.stored.put(a.collateral.digest, true)
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
