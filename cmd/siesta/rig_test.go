package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	daemon "github.com/eosc-siesta/siestad/internal/api"
	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/policy"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
	"github.com/eosc-siesta/siestad/internal/quarantine"
)

// What every script finds in the database. The first guest's evidence was accepted; the second has shown none.
const (
	guestOne = "01jabcdefghjkmnpqrstvwxyz0"
	guestTwo = "01jabcdefghjkmnpqrstvwxyz1"
	accepted = "01kabcdefghjkmnpqrstvwxyz0"
	refused  = "01kabcdefghjkmnpqrstvwxyz1"
)

// today is when the service believes that every script happens; the accepted decision is of the day before, at noon.
var today = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// roles of the people who can type here.
var roles = map[string]string{
	"ann": "researcher", "aud": "auditor", "cus": "custodian", "cuz": "custodian", "op": "operator", "oz": "operator",
}

// rig is the real API on a real database with a real audit log. What belongs to guests is absent: nobody types to it.
type rig struct {
	t      testing.TB
	db     *pgxpool.Pool
	server *httptest.Server
	issuer *httptest.Server
	key    *ecdsa.PrivateKey
	chip   string
	floors ed25519.PrivateKey
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, db: pgtest.New(t), floors: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))}
	var err error
	r.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	r.issuer = httptest.NewServer(http.HandlerFunc(r.identify))
	t.Cleanup(r.issuer.Close)

	_, signer, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	log, err := audit.New(t.Context(), audit.Config{DB: r.db, Origin: "test.example/log", Signer: signer})
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = log.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })

	site := attest.NovaPolicy(map[string]attest.TCB{attest.Genoa: {Bootloader: 4, SNP: 20, Microcode: 20}})
	site.Chips = [][]byte{r.decided()}
	host := func(_, chip string) string {
		if chip == r.chip {
			return "node-1"
		}
		return ""
	}
	rules, err := authz.New()
	must(t, err)
	archive := keybroker.NewArchive(r.db, attest.AMDRoots())
	permits := permit.New(r.db, log.Recorder, permit.Site{Name: "ifca", Hosts: []string{"node-1"}, Chips: []string{r.chip}})
	service, err := daemon.New(daemon.Config{
		DB: r.db, Logger: zap.NewNop(), Log: log, Authz: rules, Permits: permits, Images: image.New(r.db, log.Recorder),
		Policies: policy.New(policy.Config{
			DB: r.db, Audit: log.Recorder, Sites: map[string]attest.Policy{"ifca": site}, Archive: archive, Verifier: &attest.Verifier{},
			FloorKeys: []ed25519.PublicKey{r.floors.Public().(ed25519.PublicKey)}, Host: host, Now: clock,
		}),
		Decisions: archive, Quarantines: quarantine.New(r.db, log.Recorder, permits, host),
		Workspaces: struct{ daemon.Workspaces }{}, Broker: struct{ daemon.Broker }{}, Secrets: noSecrets{}, Attestations: struct{ daemon.Attestations }{},
		Issuers:   []daemon.Issuer{{URL: r.issuer.URL, Audience: "siestad", Clients: []string{"siesta-cli"}, HTTP: r.issuer.Client()}},
		CursorKey: make([]byte, 32), Ready: func(context.Context) error { return nil }, Metrics: prometheus.NewRegistry(), Now: clock,
		Sites: []daemon.Site{{Name: "ifca", TEE: "sev-snp"}},
	})
	must(t, err)
	r.server = httptest.NewServer(service.Handler())
	t.Cleanup(r.server.Close)
	return r
}

// noSecrets is embedded under another name: one of its methods has that of the interface.
type (
	secrets   = daemon.Secrets
	noSecrets struct{ secrets }
)

func clock() time.Time { return today }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// identify is the issuer's part: its name and its key.
func (r *rig) identify(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/.well-known/openid-configuration" {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`, r.issuer.URL, r.issuer.URL+"/keys")
		return
	}
	_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: r.key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
}

// token says that somebody is who he or she says.
func (r *rig) token(name string) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: r.key, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": r.issuer.URL, "sub": name, "typ": "Bearer", "azp": "siesta-cli", "aud": []string{"siestad"}, "jti": name, "preferred_username": name,
		"iat": today.Unix() - 5, "exp": today.Unix() + 300, "resource_access": map[string]any{"siestad": map[string]any{"roles": []string{roles[name]}}},
	})
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

func (r *rig) sql(text string, args ...any) {
	r.t.Helper()
	_, err := r.db.Exec(context.Background(), text, args...)
	must(r.t, err)
}

// decided stores what the broker stores of a genuine report that it accepted, and of a refusal without any. It returns the
// chip of the report.
func (r *rig) decided() []byte {
	r.t.Helper()
	read := func(name string) []byte {
		body, err := os.ReadFile(filepath.Join("..", "..", "internal", "attest", "testdata", name))
		must(r.t, err)
		return body
	}
	report, vcek := read("siena-v5-report.bin"), read("siena-v5-vcek.der")
	chip := report[0x1a0:0x1e0]
	r.chip = attest.ChipKey(chip)
	p := attest.NovaPolicy(map[string]attest.TCB{attest.Genoa: {}})
	p.RequirePolicy = uint64(report[8]) | uint64(report[9])<<8 | uint64(report[10])<<16
	p.Chips, p.Measurements = [][]byte{chip}, [][]byte{report[0x90:0xc0]}
	copy(p.ReportData[:], report[0x50:0x90])
	at := today.AddDate(0, 0, -1)
	verdict := attest.Judge(attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: vcek}, attest.Collateral{Roots: attest.AMDRoots()}, p, at)
	if verdict.Outcome != attest.Accepted {
		r.t.Fatalf("the genuine report is refused: %s", verdict.Check)
	}
	checks, err := json.Marshal(append(verdict.Checks, attest.Check{Name: "permit", Status: attest.Passed, Code: "permit", Source: "broker"}))
	must(r.t, err)
	blob := func(body []byte) []byte {
		sum := sha256.Sum256(body)
		r.sql(`INSERT INTO broker_blob (sha256, body) VALUES ($1, $2)`, sum[:], body)
		return sum[:]
	}
	name, none := blob(p.Canonical()), make([]byte, 32)
	for _, w := range []string{guestOne, guestTwo} {
		r.sql(`INSERT INTO broker_volume (workspace, project, site, secret_name, state) VALUES ($1, 'study', 'ifca', $1, 'open')`, w)
		r.sql(`INSERT INTO broker_arm (workspace, generation, epoch, state, dataset, owner, image, volume_id, volume_serial, policy, report_id)
			VALUES ($1, 1, 1, 'released', 'cohort', 'ann', 'img', $1, $1, $2, $3)`, w, name, none)
		r.sql(`INSERT INTO broker_lease (id, workspace, generation, epoch, volume_id, report_id, signing_key, chip, product, state, mode, until, renew_after, stage, challenge, request, entry)
			VALUES ($1, $1, 1, 1, $1, $2, $2, $3, 'Genoa', 'live', 'open', '2999-01-01', '2999-01-01', 'ready', 'c', $2, 1)`, w, none, r.chip)
	}
	r.sql(`INSERT INTO broker_decision (id, workspace, generation, epoch, challenge, purpose, outcome, checks, tee, report, certificates, policy, collateral, report_data, judged_at, lease, entry)
		VALUES ($1, $2, 1, 1, 'c', 'unlock', 'released', $3, 'sev-snp', $4, $5, $6, $7, $8, $9, $2, 1)`,
		accepted, guestOne, checks, blob(report), blob(vcek), name, verdict.Collateral[:], p.ReportData[:], at)
	r.sql(`INSERT INTO broker_decision (id, workspace, generation, epoch, challenge, purpose, outcome, code, checks, tee, judged_at, entry)
		VALUES ($1, $2, 1, 1, 'c', 'unlock', 'refused', 'tcb', $3, 'sev-snp', $4, 1)`,
		refused, guestTwo, `[{"name":"reported TCB","status":"failed","code":"tcb","expected":"9","got":"8","source":"policy","section":"AMD 56860","advice":"update the host"}]`, at.AddDate(0, 0, 1))
	return chip
}

// writeFloorKeys saves the key of floor files as whoever signs them has it, another's, and a file that only looks like one.
func (r *rig) writeFloorKeys(dir string) error {
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	files := map[string][]byte{"noise.pem": []byte("noise")}
	for name, key := range map[string]ed25519.PrivateKey{"floor.pem": r.floors, "other.pem": other} {
		if files[name], err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return err
		}
	}
	for name, der := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return err
		}
	}
	return nil
}
