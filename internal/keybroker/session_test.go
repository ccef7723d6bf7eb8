package keybroker

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/ear"
	"github.com/eosc-siesta/siestad/internal/kbs"
)

// sheetPlatform makes reports of the right size and layout, unsigned: the broker finds a guest of /kbs/v0 by the launch
// digest in its report.
type sheetPlatform struct{ plainPlatform }

type sheetMachine struct {
	id          [32]byte
	measurement byte
}

func (sheetPlatform) boot(t testing.TB) machine {
	return &sheetMachine{id: plainPlatform{}.boot(t).(*plainMachine).id, measurement: 0x42}
}

func (m *sheetMachine) report(data [64]byte) ([]byte, []byte) {
	b := make([]byte, 1184)
	copy(b[0x50:], data[:])
	copy(b[0x90:], bytes.Repeat([]byte{m.measurement}, 48))
	copy(b[0x140:], m.id[:])
	return b, []byte("certificate")
}

func (sheetPlatform) policy() attest.Policy {
	return attest.Policy{Products: []string{attest.Genoa}, Chips: [][]byte{make([]byte, 64)}, Measurements: [][]byte{bytes.Repeat([]byte{0x42}, 48)}}
}

func (p sheetPlatform) verifier() Verifier { return p }

func (sheetPlatform) Verify(ev attest.Evidence, _ attest.Collateral, pol attest.Policy, _ time.Time) (*attest.Result, error) {
	refuse := func(code string) (*attest.Result, error) {
		return nil, &attest.Refusal{Code: code, Check: code, Checks: []attest.Check{{Name: code, Status: attest.Failed, Code: code, Source: "policy"}}}
	}
	switch {
	case len(ev.Report) != 1184 || string(ev.Certificates) != "certificate":
		return refuse(attest.CodeFormat)
	case !bytes.Equal(ev.Report[0x90:0xc0], pol.Measurements[0]):
		return refuse(attest.CodeMeasurement)
	case [64]byte(ev.Report[0x50:]) != pol.ReportData:
		return refuse(attest.CodeReportData)
	}
	return &attest.Result{TEE: ev.TEE, ReportID: [32]byte(ev.Report[0x140:]), ReportData: pol.ReportData, Measurement: [48]byte(ev.Report[0x90:]), TCBStatus: "at-floor", Sent: ev.Certificates}, nil
}

func newSessionRig(t testing.TB) *rig {
	t.Helper()
	r := newRigOn(t, sheetPlatform{})
	key, err := ear.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if r.broker.Tokens, err = ear.NewSigner(ear.Config{Issuer: "https://siesta.test", Audience: "siesta", Build: "test", Current: key, Now: r.clock.now}); err != nil {
		t.Fatal(err)
	}
	return r
}

// stock is a guest that speaks /kbs/v0, in the form of SVSM, whose report is bytes.
type stock struct {
	r       *rig
	machine machine
	key     *ecdsa.PrivateKey
	session Session
	alter   func(body map[string]any)
}

func (r *rig) stock(m machine) *stock {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	return &stock{r: r, machine: m, key: key}
}

func (s *stock) open() error {
	var err error
	s.session, err = s.r.broker.OpenSession(context.Background(), kbs.Request{TEE: kbs.TEESNP, Hashes: []kbs.Hash{kbs.SHA256}}, "192.0.2.1")
	return err
}

func (s *stock) body() []byte {
	s.r.t.Helper()
	point, err := s.key.PublicKey.Bytes()
	if err != nil {
		s.r.t.Fatal(err)
	}
	nonce, err := base64.StdEncoding.DecodeString(s.session.Challenge.Nonce)
	if err != nil {
		s.r.t.Fatal(err)
	}
	report, certificates := s.machine.report(sha512.Sum512(append(bytes.Clone(point[1:]), nonce...)))
	b64 := base64.RawURLEncoding.EncodeToString
	body := map[string]any{
		"init-data":    nil,
		"runtime-data": map[string]any{"nonce": s.session.Challenge.Nonce, "tee-pubkey": map[string]any{"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": b64(point[1:33]), "y": b64(point[33:])}},
		"tee-evidence": map[string]any{"primary_evidence": map[string]any{"snp-report": report, "certs-buf": certificates}, "additional_evidence": ""},
	}
	if s.alter != nil {
		s.alter(body)
	}
	text, err := json.Marshal(body)
	if err != nil {
		s.r.t.Fatal(err)
	}
	return text
}

func (s *stock) attest() (string, error) {
	s.r.t.Helper()
	if err := s.open(); err != nil {
		return "", err
	}
	return s.r.broker.AttestSession(context.Background(), s.session.Cookie, s.body(), "192.0.2.1")
}

func (s *stock) secret(who Bearer, path string) ([]byte, error) {
	s.r.t.Helper()
	r, err := kbs.ParseResource(path)
	if err != nil {
		s.r.t.Fatal(err)
	}
	sealed, err := s.r.broker.SessionSecret(context.Background(), who, r, "192.0.2.1")
	if err != nil {
		return nil, err
	}
	jwe, err := jose.ParseEncryptedJSON(string(sealed), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		s.r.t.Fatal(err)
	}
	plain, err := jwe.Decrypt(s.key)
	if err != nil {
		s.r.t.Fatal(err)
	}
	return plain, nil
}

// holding is a guest that has its volume's key and a session, with a secret at default/token/one.
func (r *rig) holding() (*guest, *stock, string) {
	r.t.Helper()
	g, _, _ := r.ready(testWorkspace)
	r.secret(newSecret("one"))
	s := r.stock(g.machine)
	token, err := s.attest()
	if err != nil {
		r.t.Fatal(err)
	}
	return g, s, token
}

func TestSessionGetsItsSecret(t *testing.T) {
	r := newSessionRig(t)
	_, s, token := r.holding()
	if s.session.Challenge.Hash != kbs.SHA256 || len(s.session.Cookie) != 32 || time.Until(s.session.ExpiresAt) > sessionLife || time.Until(s.session.ExpiresAt) < sessionLife-time.Minute {
		t.Errorf("session %+v", s.session)
	}
	claims, err := r.broker.Tokens.Verify(token, r.clock.now())
	if err != nil || claims.Nonce != s.session.Challenge.Nonce || claims.TEE != kbs.TEESNP || claims.TCBStatus != "at-floor" || !bytes.Equal(claims.Measurement, bytes.Repeat([]byte{0x42}, 48)) {
		t.Fatalf("%+v, %v", claims, err)
	}
	if v := (ear.Vector{InstanceIdentity: 2, Executables: 3, Hardware: 2, RuntimeOpaque: 2}); claims.Vector != v {
		t.Errorf("vector %+v", claims.Vector)
	}
	if n := r.count(`SELECT count(*) FROM broker_decision WHERE id = $1 AND outcome = 'attested' AND purpose = 'attest' AND lease IS NULL`, claims.ID); n != 1 {
		t.Error("the attestation was not stored")
	}
	for name, who := range map[string]Bearer{"cookie": {Cookie: s.session.Cookie}, "token": {Token: token}} {
		if got, err := s.secret(who, "default/token/one"); err != nil || !bytes.Equal(got, secretPayload) {
			t.Errorf("by %s: %q, %v", name, got, err)
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_decision d JOIN broker_lease l ON l.id = d.lease WHERE d.purpose = 'secret' AND d.outcome = 'released' AND d.secret IS NOT NULL AND l.workspace = $1`, testWorkspace); n != 2 {
		t.Errorf("%d releases are stored under the lease", n)
	}
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'secret.release' AND outcome = 'success' AND convert_from(body, 'UTF8') LIKE '%"secret":"%'`); n != 2 {
		t.Errorf("%d releases in the log", n)
	}
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'guest.attest' AND outcome = 'success'`); n != 1 {
		t.Errorf("%d attestations in the log", n)
	}
	if r.broker.JWKS() == nil || !bytes.Equal(r.broker.JWKS(), r.broker.Tokens.JWKS()) {
		t.Error("the keys of tokens are not shown")
	}
	simulated, err := r.broker.token(&attempt{result: &attest.Result{Simulated: true, TCBStatus: "at-floor", Measurement: [48]byte{1}}, policyHash: [32]byte{1}}, decision{id: newID()}, s.session.Challenge.Nonce, kbs.TEESNP, claims.TEEKey)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := r.broker.Tokens.Verify(simulated, r.clock.now()); err != nil || c.Vector.Hardware != 97 {
		t.Errorf("a simulated guest's token says %+v, %v", c.Vector, err)
	}
}

// A nonce is burnt by the first attempt, whatever it holds, and a session that proved nothing gets nothing.
func TestSessionIsUsedOnce(t *testing.T) {
	r := newSessionRig(t)
	g, s, token := r.holding()
	_, err := r.broker.AttestSession(context.Background(), s.session.Cookie, s.body(), "p")
	wantCode(t, err, CodeNonce)
	fresh := r.stock(g.machine)
	if err := fresh.open(); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.secret(Bearer{Cookie: fresh.session.Cookie}, "default/token/one"); !errors.Is(err, ErrNoSession) {
		t.Errorf("before it attested: %v", err)
	}
	good := fresh.body()
	var wire *kbs.Error
	if _, err := r.broker.AttestSession(context.Background(), fresh.session.Cookie, []byte("{"), "p"); !errors.As(err, &wire) {
		t.Errorf("half a body: %v", err)
	}
	_, err = r.broker.AttestSession(context.Background(), fresh.session.Cookie, good, "p")
	wantCode(t, err, CodeNonce)
	if err := fresh.open(); err != nil {
		t.Fatal(err)
	}
	r.exec(`UPDATE broker_kbs_session SET expires_at = now() WHERE used_at IS NULL`)
	_, err = r.broker.AttestSession(context.Background(), fresh.session.Cookie, fresh.body(), "p")
	wantCode(t, err, CodeNonce)
	for name, who := range map[string]Bearer{
		"no bearer": {}, "another cookie": {Cookie: strings.Repeat("0", 32)}, "no token": {Token: "x"}, "a token that is cut": {Token: token[:len(token)-4]},
	} {
		if _, err := s.secret(who, "default/token/one"); !errors.Is(err, ErrNoSession) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/one"); err != nil {
		t.Error(err)
	}
	r.exec(`UPDATE broker_kbs_session SET expires_at = now()`)
	for name, who := range map[string]Bearer{"cookie": {Cookie: s.session.Cookie}, "token": {Token: token}} {
		if _, err := s.secret(who, "default/token/one"); !errors.Is(err, ErrNoSession) {
			t.Errorf("by %s after the session's end: %v", name, err)
		}
	}
	if r.broker.aggregate.counts[CodeNonce] < 7 {
		t.Errorf("refusals are not counted: %v", r.broker.aggregate.counts)
	}
}

// What of an attestation is refused, and with which code: before the workspace is known nothing is stored.
func TestAttestationIsRefused(t *testing.T) {
	r := newSessionRig(t)
	r.prepareAndArm(testWorkspace)
	evidence := func(b map[string]any) map[string]any {
		return b["tee-evidence"].(map[string]any)["primary_evidence"].(map[string]any)
	}
	anonymous := func(s *stock) { s.machine.(*sheetMachine).measurement = 0x43 }
	for name, c := range map[string]struct {
		change func(s *stock)
		before string // SQL
		after  string
		code   string // empty: an error of the protocol
		stored bool
	}{
		"a launch digest of nobody":     {anonymous, "", "", CodeWorkspace, false},
		"a disarmed generation":         {nil, `UPDATE broker_arm SET state = 'disarmed'`, `UPDATE broker_arm SET state = 'armed'`, CodeWorkspace, false},
		"a suspended generation":        {nil, `UPDATE broker_arm SET state = 'suspended'`, `UPDATE broker_arm SET state = 'armed'`, CodeSuspended, true},
		"a workspace whose key is gone": {nil, `UPDATE broker_volume SET state = 'shredding', shredded_at = now()`, `UPDATE broker_volume SET state = 'open', shredded_at = NULL`, CodeWorkspace, true},
		"report data of another key":    {func(s *stock) { s.alter = func(b map[string]any) { evidence(b)["snp-report"].([]byte)[0x50] ^= 1 } }, "", "", attest.CodeReportData, true},
		"another certificate":           {func(s *stock) { s.alter = func(b map[string]any) { evidence(b)["certs-buf"] = []byte("other") } }, "", "", attest.CodeFormat, true},
		"another nonce": {func(s *stock) {
			s.alter = func(b map[string]any) { b["runtime-data"].(map[string]any)["nonce"] = kbs.NonceText([32]byte{1}) }
		}, "", "", "", false},
		"evidence of no kind": {func(s *stock) {
			s.alter = func(b map[string]any) { b["tee-evidence"].(map[string]any)["primary_evidence"] = map[string]any{} }
		}, "", "", "", false},
		"init-data that was not measured": {func(s *stock) {
			s.alter = func(b map[string]any) {
				b["init-data"] = map[string]any{"format": "toml", "body": "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n"}
			}
		}, "", "", attest.CodeHostData, true},
	} {
		if c.before != "" {
			r.exec(c.before)
		}
		s := r.stock(sheetPlatform{}.boot(t))
		if c.change != nil {
			c.change(s)
		}
		decisions := r.count(`SELECT count(*) FROM broker_decision WHERE outcome = 'refused' AND purpose = 'attest'`)
		token, err := s.attest()
		var wire *kbs.Error
		if c.code != "" {
			_ = refusalOf(t, err, c.code)
		} else if !errors.As(err, &wire) {
			t.Errorf("%s: %v", name, err)
		}
		if token != "" {
			t.Errorf("%s: a token was given", name)
		}
		if got := r.count(`SELECT count(*) FROM broker_decision WHERE outcome = 'refused' AND purpose = 'attest'`) - decisions; got != map[bool]int{true: 1}[c.stored] {
			t.Errorf("%s: %d decisions stored", name, got)
		}
		if n := r.count(`SELECT count(*) FROM broker_kbs_session WHERE attested_at IS NOT NULL`); n != 0 {
			t.Errorf("%s: the session counts as attested", name)
		}
		if c.after != "" {
			r.exec(c.after)
		}
	}
	// A launch digest that two armed generations share decides nothing.
	other := "01jabcdefghjkmnpqrstvwxyz1"
	r.prepareAndArm(other)
	_, err := r.stock(sheetPlatform{}.boot(t)).attest()
	wantCode(t, err, CodeWorkspace)
}

// A secret is released like a key: to the boot that holds the volume, while every fact holds.
func TestSecretIsRefused(t *testing.T) {
	r := newSessionRig(t)
	_, s, _ := r.holding()
	who := Bearer{Cookie: s.session.Cookie}
	get := func(path string) error { _, err := s.secret(who, path); return err }
	for _, path := range []string{"default/token/two", "other/token/one", "default/other/one"} {
		if err := get(path); !errors.Is(err, ErrNoSecret) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'secret.release' AND outcome = 'refused' AND convert_from(body, 'UTF8') LIKE '%"code":"secret"%'`); n != 3 {
		t.Errorf("%d refusals in the log", n)
	}
	elsewhere, mine := newSecret("elsewhere"), newSecret("mine")
	elsewhere.Dataset, mine.Dataset = "other-v1", testDataset
	r.secret(elsewhere)
	r.secret(mine)
	if err := get("default/token/elsewhere"); !errors.Is(err, ErrNoSecret) {
		t.Errorf("a secret of another dataset: %v", err)
	}
	if err := get("default/token/mine"); err != nil {
		t.Errorf("a secret of the guest's dataset: %v", err)
	}
	for name, c := range map[string]struct{ before, after, code string }{
		"frozen":             {freezeSQL("project", testProject), `DELETE FROM freeze_order`, CodeFreeze},
		"permit ended":       {`UPDATE permit SET state = 'ended', ended_by = 'carol'`, `UPDATE permit SET state = 'live', ended_by = NULL`, CodePermit},
		"suspended":          {`UPDATE broker_arm SET state = 'suspended'`, `UPDATE broker_arm SET state = 'released'`, CodeSuspended},
		"armed again":        {`UPDATE broker_arm SET epoch = epoch + 1`, `UPDATE broker_arm SET epoch = epoch - 1`, CodeGeneration},
		"lease ended":        {`UPDATE broker_lease SET until = now() - interval '1 hour'`, `UPDATE broker_lease SET until = now() + interval '1 hour'`, CodeLease},
		"lease of another":   {`UPDATE broker_lease SET report_id = decode(repeat('ee', 32), 'hex')`, `UPDATE broker_lease l SET report_id = a.report_id FROM broker_arm a WHERE a.workspace = l.workspace`, CodeLease},
		"key gone":           {`UPDATE broker_volume SET state = 'shredding', shredded_at = now()`, `UPDATE broker_volume SET state = 'open', shredded_at = NULL`, CodeWorkspace},
		"evidence of before": {`UPDATE broker_kbs_session SET report_data = decode(repeat('ee', 64), 'hex')`, `UPDATE broker_kbs_session s SET report_data = d.report_data FROM broker_decision d WHERE d.id = s.decision`, attest.CodeReportData},
	} {
		r.exec(c.before)
		before := r.count(`SELECT count(*) FROM broker_decision WHERE purpose = 'secret' AND outcome = 'refused'`)
		err := get("default/token/one")
		r.exec(c.after)
		_ = refusalOf(t, err, c.code)
		if n := r.count(`SELECT count(*) FROM broker_decision WHERE purpose = 'secret' AND outcome = 'refused'`); n != before+1 {
			t.Errorf("%s: not stored", name)
		}
		if err := get("default/token/one"); err != nil {
			t.Fatalf("%s, and mended: %v", name, err)
		}
	}
	// Another genuine boot of the generation is a second boot: it suspends, and the holder gets nothing more either.
	second := r.stock(sheetPlatform{}.boot(t))
	if _, err := second.attest(); err != nil {
		t.Fatal(err)
	}
	_, err := second.secret(Bearer{Cookie: second.session.Cookie}, "default/token/one")
	wantCode(t, err, CodeGeneration)
	wantCode(t, get("default/token/one"), CodeSuspended)
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'guest.suspend'`); n != 1 {
		t.Errorf("%d suspensions in the log", n)
	}
}

func TestSecretOfABrokenStore(t *testing.T) {
	r := newSessionRig(t)
	_, s, _ := r.holding()
	get := func() error { _, err := s.secret(Bearer{Cookie: s.session.Cookie}, "default/token/one"); return err }
	forget := func() { r.broker.blobs.drop(func(blobKey) bool { return true }) }
	r.store.fault = func(_ int, verb string, _ bool) error { return failIf(verb == "get") }
	if err := get(); !errors.Is(err, ErrBusy) {
		t.Errorf("a key store that is away: %v", err)
	}
	r.store.fault = nil
	if err := get(); err != nil {
		t.Fatal(err)
	}
	r.store.fault = func(_ int, verb string, _ bool) error { return failIf(verb == "get") }
	if err := get(); err != nil {
		t.Errorf("what was fetched is not kept: %v", err)
	}
	r.store.fault = nil
	r.exec(`UPDATE broker_secret SET kek = decode(repeat('00', 60), 'hex')`)
	wantCode(t, get(), CodeKeyBlob)
	forget()
	for id := range r.store.payloads {
		r.store.payloads[id] = []byte("other")
	}
	wantCode(t, get(), CodeKeyBlob)
	if n := r.count(`SELECT (SELECT count(*) FROM audit_entry WHERE action = 'secret.open' AND outcome = 'refused') + (SELECT count(*) FROM audit_inbox WHERE action = 'secret.open')`); n != 1 {
		t.Errorf("%d entries about a store that lies", n)
	}
	for id := range r.store.payloads {
		delete(r.store.payloads, id)
	}
	wantCode(t, get(), CodeKeyBlob)
	if err := r.broker.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Rates and bounds of the sessions, and a broker that gives no tokens.
func TestSessionLimits(t *testing.T) {
	r := newSessionRig(t)
	g, s, _ := r.holding()
	ctx := context.Background()
	r.exec(`INSERT INTO broker_kbs_session (id, cookie, nonce, tee, hash, peer, expires_at)
		SELECT 's' || n, sha256(('c' || n)::bytea), sha256('x'), 'snp', 'sha384', CASE WHEN n <= 3 THEN 'few' ELSE 'many' END, now() + make_interval(secs => n / 1000.0 + 61)
		FROM generate_series(1, 8400) n`)
	for range 2 {
		if err := s.open(); err != nil {
			t.Fatalf("beyond the number of idle sessions: %v", err)
		}
	}
	if err := r.broker.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`SELECT count(*) FROM broker_kbs_session WHERE attested_at IS NULL`); n != 8192 {
		t.Errorf("%d idle sessions are left", n)
	}
	if n := r.count(`SELECT count(*) FROM broker_kbs_session WHERE peer IN ('few', '192.0.2.1')`); n != 6 {
		t.Errorf("%d sessions of those who hold few are left", n)
	}
	if r.count(`SELECT count(*) FROM broker_kbs_session WHERE id = 's213'`) != 0 || r.count(`SELECT count(*) FROM broker_kbs_session WHERE id = 's214'`) != 1 {
		t.Error("it is not the oldest sessions that go")
	}
	r.exec(`DELETE FROM broker_kbs_session WHERE attested_at IS NULL`)
	for range sessionBurst {
		_ = r.broker.limits.session("192.0.2.1")
	}
	unblock := r.fillLine()
	wantCode(t, s.open(), CodeRate)
	unblock()
	if err := s.open(); err != nil {
		t.Errorf("beyond the rate, with its turn: %v", err)
	}
	r.clock.add(time.Hour)
	fresh := r.stock(g.machine)
	if _, err := fresh.attest(); err != nil {
		t.Fatal(err)
	}
	who := Bearer{Cookie: fresh.session.Cookie}
	for range secretBurst {
		_ = r.broker.limits.secret(testWorkspace)
	}
	_, err := fresh.secret(who, "default/token/one")
	wantCode(t, err, CodeRate)
	r.clock.add(time.Hour)
	for range recordBurst {
		_ = r.broker.limits.record(testWorkspace, proved)
	}
	entries := r.count(`SELECT count(*) FROM audit_entry`)
	if _, err := fresh.secret(who, "default/token/none"); !errors.Is(err, ErrNoSecret) {
		t.Errorf("beyond the rate: %v", err)
	}
	if r.broker.aggregate.counts[CodeSecret] != 1 || r.count(`SELECT count(*) FROM audit_entry`) != entries {
		t.Errorf("beyond the rate an absent secret is counted and leaves no entry: %v", r.broker.aggregate.counts)
	}
	r.clock.add(time.Hour)
	for range peerBurst {
		r.broker.limits.peerRefused("192.0.2.1")
	}
	unblock = r.fillLine()
	_, attestErr := r.broker.AttestSession(ctx, "x", nil, "192.0.2.1")
	_, secretErr := r.broker.SessionSecret(ctx, who, kbs.Resource{}, "192.0.2.1")
	_, nativeErr := r.broker.Attest(ctx, door.GrantRequest{}, "192.0.2.1")
	_, challengeErr := r.broker.Challenge(ctx, door.ChallengeRequest{Workspace: testWorkspace, Generation: 1, Purpose: door.Renew}, "192.0.2.1")
	_, grantErr := r.broker.Grant(ctx, door.GrantRequest{}, "192.0.2.1")
	_, eventErr := r.broker.Event(ctx, "x", door.Event{}, "192.0.2.1")
	for name, err := range map[string]error{"open": fresh.open(), "attest": attestErr, "secret": secretErr, "native": nativeErr, "challenge": challengeErr, "grant": grantErr, "event": eventErr} {
		if refusal := refusalOf(t, err, CodeRate); refusal.ID == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	unblock()
	if got, err := fresh.secret(who, "default/token/one"); err != nil || !bytes.Equal(got, secretPayload) {
		t.Errorf("the secret of a guest whose address owes: %q, %v", got, err)
	}
	if err := fresh.open(); err != nil {
		t.Errorf("a session for an address that owes: %v", err)
	}
	r.broker.Tokens = nil
	_, attestErr = r.broker.AttestSession(ctx, "x", nil, "p")
	_, secretErr = r.broker.SessionSecret(ctx, who, kbs.Resource{}, "p")
	_, nativeErr = r.broker.Attest(ctx, door.GrantRequest{}, "p")
	for name, err := range map[string]error{"open": fresh.open(), "attest": attestErr, "secret": secretErr, "native": nativeErr} {
		if !errors.Is(err, ErrNoTokens) {
			t.Errorf("%s without tokens: %v", name, err)
		}
	}
	if r.broker.JWKS() != nil {
		t.Error("keys of tokens that nobody signs")
	}
}

// fillLine lets as many wait as may, until unblock is called.
func (r *rig) fillLine() (unblock func()) {
	for range lineLength {
		r.broker.line.waiting <- struct{}{}
	}
	return func() {
		for range lineLength {
			<-r.broker.line.waiting
		}
	}
}

// A guest of the native door asks for a token with a challenge of its own.
func TestNativeAttestation(t *testing.T) {
	r := newSessionRig(t)
	g, _, _ := r.holding()
	ctx := context.Background()
	c, req, err := g.challengeFor(door.Attest)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	token, err := r.broker.Attest(ctx, request, "p")
	if err != nil {
		t.Fatal(err)
	}
	claims, err := r.broker.Tokens.Verify(token, r.clock.now())
	if err != nil || claims.Nonce != base64.RawURLEncoding.EncodeToString(c.Nonce) || claims.TEE != kbs.TEESNP ||
		!bytes.Contains(claims.TEEKey, []byte(base64.RawURLEncoding.EncodeToString(request.SigningKey))) || !bytes.Contains(claims.TEEKey, []byte("Ed25519")) {
		t.Errorf("%+v, %v", claims, err)
	}
	_, err = r.broker.Attest(ctx, request, "p")
	wantCode(t, err, CodeNonce)
	if n := r.count(`SELECT count(*) FROM broker_lease`); n != 1 {
		t.Errorf("%d leases after an attestation", n)
	}
	// Of the two doors neither takes the challenge of the other, and both burn it.
	c, req, err = g.challengeFor(door.Attest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.broker.Grant(ctx, g.request(c, req, ""), "p")
	wantCode(t, err, CodeBinding)
	c, req, err = g.challengeFor(door.Renew)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.broker.Attest(ctx, g.request(c, req, ""), "p")
	wantCode(t, err, CodeBinding)
	c, req, err = g.challengeFor(door.Attest)
	if err != nil {
		t.Fatal(err)
	}
	g.machine.(*sheetMachine).measurement++
	_, err = r.broker.Attest(ctx, g.request(c, req, ""), "p")
	wantCode(t, err, attest.CodeMeasurement)
	if n := r.count(`SELECT count(*) FROM broker_decision WHERE purpose = 'attest' AND outcome = 'refused' AND code = 'measurement'`); n != 1 {
		t.Errorf("%d refusals stored", n)
	}
	if _, err := r.broker.Attest(ctx, door.GrantRequest{Challenge: "none"}, "p"); err == nil {
		t.Error("a challenge of nobody")
	}
}
