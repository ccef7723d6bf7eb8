package keybroker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/ear"
	"github.com/eosc-siesta/siestad/internal/kbs"
)

func newDomainRig(t *testing.T) *rig {
	t.Helper()
	r := newRigOn(t, newDomains(t))
	key, err := ear.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if r.broker.Tokens, err = ear.NewSigner(ear.Config{Issuer: "https://siesta.test", Audience: "siesta", Build: "test", Current: key, Now: r.clock.now}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) armState() (state string) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), `SELECT state FROM broker_arm WHERE workspace = $1`, testWorkspace).Scan(&state); err != nil {
		r.t.Fatal(err)
	}
	return state
}

// A trust domain is known again by its signing key, and only by it.
func TestDomainRenewsWithItsKey(t *testing.T) {
	r := newDomainRig(t)
	g, _, sealed := r.ready(testWorkspace)
	if sealed.Mode != door.Initialise || len(sealed.LUKSKey) != door.LUKSKeySize {
		t.Errorf("sealed %+v", sealed)
	}
	for range 2 {
		if _, _, err := g.grant(door.Renew); err != nil {
			t.Fatal(err)
		}
	}
	_, own, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := *g
	other.sign = own
	_, _, err = other.grant(door.Renew)
	wantCode(t, err, CodeGeneration)
	_, _, err = g.grant(door.Unlock)
	wantCode(t, err, CodeGeneration)
	if s := r.armState(); s != stateReleased {
		t.Errorf("the generation is %s after a renewal by another and an unlock by its own guest", s)
	}
	if _, _, err := g.grant(door.Renew); err != nil {
		t.Errorf("the guest itself: %v", err)
	}
	chip := hexOf(r.platform.policy().TDX.Platforms[0]) + strings.Repeat("0", 96)
	if n := r.count(`SELECT count(*) FROM broker_lease WHERE chip = $1 AND length(product) = 12`, chip); n != 1 {
		t.Error("the lease does not name the platform as freezes do")
	}
}

func TestSecondDomainSuspends(t *testing.T) {
	r := newDomainRig(t)
	g, _, _ := r.ready(testWorkspace)
	r.exec(`UPDATE broker_lease SET until = now()`)
	_, _, err := r.boot(testWorkspace, 1).grant(door.Unlock)
	wantCode(t, err, CodeGeneration)
	if s := r.armState(); s != stateSuspended {
		t.Errorf("the generation is %s", s)
	}
	_, _, err = g.grant(door.Renew)
	wantCode(t, err, CodeSuspended)
}

func TestDomainReboots(t *testing.T) {
	r := newDomainRig(t)
	g, grant, first := r.ready(testWorkspace)
	if _, err := g.event(grant.Lease.ID, 4, door.Stopping, ""); err != nil {
		t.Fatal(err)
	}
	if err := r.tx(func(tx pgx.Tx) error {
		if err := r.broker.EndLease(t.Context(), tx, testWorkspace, "a reboot"); err != nil {
			return err
		}
		return r.broker.Rearm(t.Context(), tx, testWorkspace, 1, "a reboot")
	}); err != nil {
		t.Fatal(err)
	}
	again := r.boot(testWorkspace, 1)
	_, sealed, err := again.grant(door.Unlock)
	if err != nil || sealed.Mode != door.Open || !bytes.Equal(sealed.LUKSKey, first.LUKSKey) {
		t.Fatalf("%+v, %v", sealed, err)
	}
	if _, _, err := again.grant(door.Renew); err != nil {
		t.Error(err)
	}
	_, _, err = g.grant(door.Renew)
	wantCode(t, err, CodeGeneration)
}

func TestLostAnswerOfADomain(t *testing.T) {
	r := newDomainRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	for _, purpose := range []door.Purpose{door.Unlock, door.Renew} {
		c, req, err := g.challengeFor(purpose)
		if err != nil {
			t.Fatal(err)
		}
		request := g.request(c, req, "")
		first, err := r.broker.Grant(context.Background(), request, "p")
		if err != nil {
			t.Fatal(err)
		}
		r.broker = r.start(r.broker.Logger) // the process that answered is gone
		again, err := r.broker.Grant(context.Background(), request, "p")
		if err != nil {
			t.Fatalf("%s: %v", purpose, err)
		}
		first.Receipt, again.Receipt = "", "" // under a newer checkpoint, perhaps
		if diff := cmp.Diff(first, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: another answer (-first +again):\n%s", purpose, diff)
		}
		thief := r.boot(testWorkspace, 1)
		thief.hpke = g.hpke
		_, err = r.broker.Grant(context.Background(), thief.request(c, req, ""), "p")
		wantCode(t, err, CodeNonce)
	}
}

func TestArmIsForOneKindOfHardware(t *testing.T) {
	r := newDomainRig(t)
	if _, err := r.broker.Prepare(t.Context(), volumeOf(testWorkspace)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(p *attest.Policy, tdx *attest.TDXPolicy)
		word   string
	}{
		"neither":          {func(p *attest.Policy, _ *attest.TDXPolicy) { p.TDX = nil }, "one of them"},
		"both":             {func(p *attest.Policy, _ *attest.TDXPolicy) { p.Measurements = [][]byte{make([]byte, 48)} }, "one of them"},
		"a product line":   {func(p *attest.Policy, _ *attest.TDXPolicy) { p.Products = []string{attest.Genoa} }, "one of them"},
		"report data":      {func(p *attest.Policy, _ *attest.TDXPolicy) { p.ReportData[0] = 1 }, "report data"},
		"no platform":      {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.Platforms = nil }, "no platform"},
		"no firmware":      {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.MRTDs = nil }, "no firmware"},
		"no line":          {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.CommandLine = "" }, "no command line"},
		"no initrd":        {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.Initrds = nil }, "no initrd"},
		"no kernel":        {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.RTMRs[1] = attest.RTMRRule{} }, "rtmr 1"},
		"any kernel":       {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.RTMRs[1] = attest.RTMRRule{Any: true} }, "any kernel"},
		"any line":         {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.RTMRs[2] = attest.RTMRRule{Any: true} }, "any kernel or line"},
		"no RTMR0":         {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.RTMRs[0] = attest.RTMRRule{} }, "rtmr 0"},
		"no form":          {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.Quotes = nil }, "no form"},
		"no status":        {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.TCBStatuses = nil }, "no TCB status"},
		"no attributes":    {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.Attributes = attest.MaskedBits{} }, "no attributes"},
		"no features":      {func(_ *attest.Policy, tdx *attest.TDXPolicy) { tdx.XFAM = attest.MaskedBits{} }, "processor features"},
		"nothing is wrong": {func(*attest.Policy, *attest.TDXPolicy) {}, ""},
	} {
		a := r.armOf(testWorkspace, 1)
		c.change(&a.Policy, a.Policy.TDX)
		err := r.tx(func(tx pgx.Tx) error { return r.broker.Arm(t.Context(), tx, a) })
		if c.word == "" && err != nil || c.word != "" && (err == nil || !strings.Contains(err.Error(), c.word)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// attestDomain is attest of a trust domain, in the stock form, with a key of the client's own.
func (s *stock) attestDomain() (string, error) {
	s.r.t.Helper()
	var err error
	if s.session, err = s.r.broker.OpenSession(s.r.t.Context(), kbs.Request{TEE: kbs.TEETDX}, "192.0.2.1"); err != nil {
		return "", err
	}
	point, err := s.key.PublicKey.Bytes()
	if err != nil {
		s.r.t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	jwk, err := json.Marshal(map[string]any{"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": b64(point[1:33]), "y": b64(point[33:])})
	if err != nil {
		s.r.t.Fatal(err)
	}
	key, err := kbs.ParseTEEKey(jwk)
	if err != nil {
		s.r.t.Fatal(err)
	}
	data, err := kbs.Binding(s.session.Challenge.Nonce, key, "", s.session.Challenge.Hash)
	if err != nil {
		s.r.t.Fatal(err)
	}
	quote, _ := s.machine.report(data)
	body, err := json.Marshal(map[string]any{
		"init-data": nil, "runtime-data": map[string]any{"nonce": s.session.Challenge.Nonce, "tee-pubkey": json.RawMessage(jwk)},
		"tee-evidence": map[string]any{"primary_evidence": map[string]any{"quote": quote, "cc_eventlog": eventLog(s.machine)}, "additional_evidence": ""},
	})
	if err != nil {
		s.r.t.Fatal(err)
	}
	return s.r.broker.AttestSession(s.r.t.Context(), s.session.Cookie, body, "192.0.2.1")
}

// loggingFor says another log than its machine's.
type loggingFor struct {
	machine
	log []byte
}

func (m loggingFor) eventLog() []byte { return m.log }

// A stock client in a trust domain is found by its line and gets a token. Nothing ties it to the boot that holds the volume, so
// it gets no secret; that it asks suspends nothing.
func TestSessionOfADomain(t *testing.T) {
	r := newDomainRig(t)
	g, _, _ := r.ready(testWorkspace)
	r.secret(newSecret("one"))
	s := r.stock(g.machine)
	token, err := s.attestDomain()
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.secret(Bearer{Token: token}, "default/token/one")
	refused := refusalOf(t, err, CodeGeneration)
	if !strings.Contains(refused.Detail, "guest") {
		t.Errorf("refused for %q", refused.Detail)
	}
	if state := r.armState(); state != stateReleased {
		t.Errorf("the generation is %s", state)
	}
	if _, _, err := g.grant(door.Renew); err != nil {
		t.Error(err)
	}
	long := r.stock(loggingFor{g.machine, bytes.Repeat([]byte{1}, door.MaxEventLog+1)})
	_, err = long.attestDomain()
	wantCode(t, err, attest.CodeEventLog)
	for range attestBurst - 1 {
		if _, err := r.stock(g.machine).attestDomain(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = r.stock(g.machine).attestDomain() // with a new key, as those before
	wantCode(t, err, CodeRate)
}
