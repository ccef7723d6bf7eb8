package keybroker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/ear"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// sessionLife is that of a session from its challenge on, and once more from its attestation on: how old evidence may be
// when a secret is released on it.
const sessionLife = ear.Life

// Session is an opened handshake of /kbs/v0.
type Session struct {
	// Cookie names it, and whoever has it is the guest until it has proved who it is.
	Cookie    string
	ExpiresAt time.Time
	Challenge kbs.Challenge
}

// OpenSession answers POST /kbs/v0/auth. Nobody is known yet, and nobody is refused: what is not put to use is cleared
// away, see clearIdle.
func (b *Broker) OpenSession(ctx context.Context, req kbs.Request, peer string) (Session, error) {
	if b.Tokens == nil {
		return Session{}, ErrNoTokens
	}
	turn, err := b.admit(ctx, peer, b.limits.session(peer))
	if err != nil {
		return Session{}, err
	}
	defer turn.leave()
	ctx, cancel := whole(ctx)
	defer cancel()
	var nonce [32]byte
	_, _ = rand.Read(nonce[:])
	s := Session{Cookie: newCookie(), Challenge: kbs.Challenge{Nonce: kbs.NonceText(nonce), Hash: choose(req.Hashes)}}
	cookie := sha256.Sum256([]byte(s.Cookie))
	if err := b.DB.QueryRow(ctx, `INSERT INTO broker_kbs_session (id, cookie, nonce, tee, hash, peer, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7)) RETURNING expires_at`,
		newID(), cookie[:], nonce[:], req.TEE, string(s.Challenge.Hash), peer, sessionLife.Seconds()).Scan(&s.ExpiresAt); err != nil {
		return Session{}, fmt.Errorf("storing a session: %w", err)
	}
	b.made(ctx)
	return s, nil
}

// newCookie is a random UUID without hyphens, as stock servers write it (RFC 9562, section 5.4).
func newCookie() string {
	var u [16]byte
	_, _ = rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return hex.EncodeToString(u[:])
}

// choose takes SHA-384 wherever it is offered or nothing is: it is what a client does that is told nothing.
func choose(offered []kbs.Hash) kbs.Hash {
	for _, h := range []kbs.Hash{kbs.SHA384, kbs.SHA512, kbs.SHA256} {
		if len(offered) == 0 || slices.Contains(offered, h) {
			return h
		}
	}
	return kbs.SHA384
}

// handshake is a session whose nonce was just burnt.
type handshake struct {
	id, tee string
	nonce   [32]byte
	hash    kbs.Hash
}

// AttestSession answers POST /kbs/v0/attest with a token. body is what the guest sent, within its limit.
//
// The nonce is burnt before the body is looked at, in a statement and a transaction of its own: of several attempts on
// one session one is judged, and none after it.
func (b *Broker) AttestSession(ctx context.Context, cookie string, body []byte, peer string) (string, error) {
	if b.Tokens == nil {
		return "", ErrNoTokens
	}
	turn, err := b.admit(ctx, peer, true)
	if err != nil {
		return "", err
	}
	defer turn.leave()
	ctx, cancel := whole(ctx)
	defer cancel()
	h := handshake{}
	hash := sha256.Sum256([]byte(cookie))
	var nonce []byte
	err = b.DB.QueryRow(ctx, `UPDATE broker_kbs_session SET used_at = now()
		WHERE cookie = $1 AND used_at IS NULL AND expires_at > now() RETURNING id, tee, nonce, hash`, hash[:]).Scan(&h.id, &h.tee, &nonce, &h.hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", b.anonymous(turn, CodeNonce, "the session is unknown, used or expired")
	}
	if err != nil {
		return "", fmt.Errorf("burning the nonce of a session: %w", err)
	}
	h.nonce = [32]byte(nonce)
	a, key, err := b.readAttestation(ctx, h, body, turn)
	if err != nil {
		if errors.As(err, new(*kbs.Error)) {
			turn.refused()
			b.aggregate.add(attest.CodeFormat)
		}
		return "", err
	}
	a.turn = turn
	d, err := b.attest(ctx, a, func(batch *pgx.Batch, d decision) {
		digest := func(body []byte) []byte {
			if len(body) == 0 {
				return nil
			}
			sum := sha256.Sum256(body)
			return sum[:]
		}
		// Only the attempt that burnt the nonce comes here, and it comes once.
		batch.Queue(`UPDATE broker_kbs_session SET attested_at = now(), expires_at = now() + make_interval(secs => $2), workspace = $3, generation = $4, epoch = $5,
				tee_key = $6, decision = $7, report_data = $8, report = $9, certificates = $10, event_log = $11 WHERE id = $1`,
			h.id, sessionLife.Seconds(), a.challenge.Workspace, a.challenge.Generation, a.epoch,
			string(key.JSON()), d.id, a.reportData[:], digest(a.judged.Report), digest(a.judged.Certificates), digest(a.judged.EventLog)).
			Exec(func(tag pgconn.CommandTag) error {
				if tag.RowsAffected() != 1 {
					return ErrNoSession // a token would name nothing; the decision is rolled back with it
				}
				return nil
			})
	})
	if err != nil {
		b.refusedGuest(a, err)
		return "", err
	}
	return b.token(a, d, kbs.NonceText(h.nonce), h.tee, key.JSON())
}

// refusedGuest notes a refusal that its own decision has recorded.
func (b *Broker) refusedGuest(a *attempt, err error) {
	var refused *Refusal
	if errors.As(err, &refused) {
		a.turn.refused()
		if refused.Counted {
			return
		}
		b.Logger.Warn("guest refused", zap.String("workspace", a.challenge.Workspace), zap.String("code", refused.Code), zap.String("decision", refused.ID))
	}
}

// readAttestation makes an attempt of what a guest sent. The evidence names no workspace: the launch digest in it says
// for which armed generation it has to be genuine, of a trust domain RTMR2. One that two of them share decides nothing and
// is refused.
func (b *Broker) readAttestation(ctx context.Context, h handshake, body []byte, turn *turn) (*attempt, kbs.TEEKey, error) {
	none := kbs.TEEKey{}
	sent, err := kbs.ParseAttest(body)
	if err != nil {
		return nil, none, err
	}
	ev, err := sent.Evidence(h.tee)
	if err != nil {
		return nil, none, err
	}
	data, err := sent.ReportData(kbs.NonceText(h.nonce), ev, h.hash)
	if err != nil {
		return nil, none, err
	}
	evidence := attest.Evidence{TEE: attest.TEE(ev.TEE), Report: ev.Report, Certificates: ev.Certificates, EventLog: attest.EventLog(ev.EventLog)}
	// Stock clients send the whole area that firmware has for its log. What is kept is what the native door takes.
	if len(evidence.EventLog) > door.MaxEventLog {
		return nil, none, b.anonymous(turn, attest.CodeEventLog, "the event log is longer than any of a directly booted guest")
	}
	rows, err := b.DB.Query(ctx, `WITH c AS (SELECT $1::bytea AS nonce, a.workspace, a.generation, 'attest'::text AS purpose, a.epoch
		FROM broker_measurement m JOIN broker_arm a USING (workspace, generation) WHERE m.measurement = $2 AND a.state <> 'disarmed' LIMIT 2)
		SELECT `+attemptColumns+` FROM c`+attemptJoins, h.nonce[:], attest.UnverifiedMeasurement(evidence))
	if err != nil {
		return nil, none, fmt.Errorf("looking for the guest: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*attempt, error) {
		return scanAttempt(row, door.GrantRequest{Challenge: h.id})
	})
	if err != nil {
		return nil, none, fmt.Errorf("looking for the guest: %w", err)
	}
	if len(found) != 1 {
		return nil, none, b.anonymous(turn, CodeWorkspace, "no armed generation, or more than one, has this launch digest or RTMR2")
	}
	a := found[0]
	a.evidence, a.reportData = evidence, data
	if sent.InitData != nil {
		a.initData = &initData{host: sent.InitData.HostData(), config: sent.InitData.MRConfigID()}
	}
	return a, sent.Key, nil
}

// token says what was accepted. Whoever shows it is asked for the session behind it.
func (b *Broker) token(a *attempt, d decision, nonce, tee string, key json.RawMessage) (string, error) {
	v := ear.Vector{InstanceIdentity: 2, Executables: 3, Hardware: 2, RuntimeOpaque: 2} // draft-ietf-rats-ar4si, "trustworthiness claims"
	if a.result.Simulated {
		v.Hardware = 97 // "not able to recognise genuine hardware"
	}
	token, err := b.Tokens.Sign(ear.Claims{
		ID: d.id, Nonce: nonce, TEE: tee, Vector: v, PolicyHash: a.policyHash, TCBStatus: a.result.TCBStatus, Advisories: a.result.Advisories,
		Measurement: a.result.Measurement[:], ReportData: a.reportData[:], TEEKey: key,
	})
	if err != nil {
		return "", fmt.Errorf("making a token for workspace %s: %w", a.challenge.Workspace, err)
	}
	return token, nil
}

// attest judges evidence and writes the decision, with what more queues, in one transaction. Nothing is released: the
// facts about people are not asked, and hold no token back.
func (b *Broker) attest(ctx context.Context, a *attempt, more func(batch *pgx.Batch, d decision)) (decision, error) {
	if err := b.judge(ctx, a); err != nil {
		var verdict *attest.Refusal
		if !errors.As(err, &verdict) {
			return decision{}, fmt.Errorf("judging a guest of workspace %s: %w", a.challenge.Workspace, err)
		}
		return decision{}, b.refuseEvidence(ctx, a, verdict)
	}
	if !b.limits.attest(a.challenge.Workspace, a.spender()) {
		return decision{}, b.refuseUnkept(ctx, a, CodeRate, "too many attestations of this boot")
	}
	var d decision
	err := postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		d = decision{id: newID()}
		var state, volume string
		var epoch int
		if err := tx.QueryRow(ctx, `SELECT a.state, a.epoch, v.state FROM broker_arm a JOIN broker_volume v USING (workspace)
			WHERE a.workspace = $1 AND a.generation = $2 FOR SHARE`, a.challenge.Workspace, a.challenge.Generation).Scan(&state, &epoch, &volume); err != nil {
			return fmt.Errorf("locking the guest: %w", err)
		}
		checks, code := judgeStanding(a, state, epoch, volume)
		outcome, action := "attested", audit.Success
		if code != "" {
			outcome, action = "refused", audit.Refused
			d.refusal = &Refusal{ID: d.id, Code: code, Detail: failedNames(checks), Checks: checks}
		}
		batch := &pgx.Batch{}
		var err error
		if d.entry, err = b.Log.Queue(batch, b.entry(a, &d, a.action(), action, code)); err != nil {
			return err
		}
		b.queueDecision(a, &d, batch, outcome, code, checks)
		if code == "" && more != nil {
			// After the decision, for what the session points to is stored with it.
			more(batch, d)
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return decision{}, fmt.Errorf("deciding about a guest of workspace %s: %w", a.challenge.Workspace, err)
	}
	if _, err := b.await(ctx, d.entry); err != nil {
		return decision{}, fmt.Errorf("%w: waiting for the checkpoint of a decision: %w", ErrBusy, err)
	}
	if d.refusal != nil {
		return decision{}, d.refusal
	}
	b.remember(a)
	return d, nil
}

// spender is whose budget an attestation is paid from: a boot's, so that a clone spends its own. A trust domain can make a
// new key for each, so there its platform pays.
func (a *attempt) spender() []byte {
	if a.result.TEE == attest.TDX {
		return a.result.ChipID[:]
	}
	return a.boot()
}

// judgeStanding is what of the fact "guest" an attestation rests on: a generation that may run, of a workspace that lives.
func judgeStanding(a *attempt, state string, epoch int, volume string) (checks []attest.Check, code string) {
	f := findings{checks: slices.Clone(a.result.Checks)}
	f.add("key not shredded", CodeWorkspace, volume == "open", volume)
	f.add("not suspended", CodeSuspended, state != stateSuspended, state)
	f.add("guest", CodeGeneration, (state == stateArmed || state == stateReleased) && epoch == a.epoch, state)
	if a.initData != nil {
		f.add("init-data", attest.CodeHostData, a.initData.measured(a.evidence), "the digest that was measured at launch")
	}
	return f.checks, f.code
}

// initData holds the digest of what a guest calls its init-data, as either kind of hardware would carry it.
type initData struct {
	host   [32]byte
	config [48]byte
}

// measured compares with HOST_DATA of the report (AMD 56860, table ATTESTATION_REPORT: 0C0h, 32 bytes). Evidence of
// another kind is not compared here, and so does not pass.
func (d *initData) measured(ev attest.Evidence) bool {
	const offset = 0xC0
	return ev.TEE == attest.SEVSNP && len(ev.Report) >= offset+len(d.host) && [32]byte(ev.Report[offset:offset+len(d.host)]) == d.host
}

// JWKS is the set of keys under which tokens can be verified; nil if this broker gives none.
func (b *Broker) JWKS() []byte {
	if b.Tokens == nil {
		return nil
	}
	return b.Tokens.JWKS()
}
