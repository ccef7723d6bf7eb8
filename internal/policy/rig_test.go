package policy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/audit/audittest"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

var (
	carla = audit.Actor{Kind: audit.Person, Subject: "https://id.test|carla", Name: "carla"}
	carlo = audit.Actor{Kind: audit.Person, Subject: "https://id.test|carlo", Name: "carlo"}
	judge = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	key   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	other = bytes.Repeat([]byte{0xee}, 64) // a second chip that is registered at the site
)

// rig is the service over a site that admits the machine of a genuine report, and another one.
type rig struct {
	t *testing.T
	*Service
	site     attest.Policy
	evidence attest.Evidence
}

func newRig(t *testing.T) rig {
	t.Helper()
	report, vcek := read(t, "../attest/testdata/siena-v5-report.bin"), read(t, "../attest/testdata/siena-v5-vcek.der")
	site := attest.NovaPolicy(map[string]attest.TCB{attest.Genoa: {Bootloader: report[0x180], TEE: report[0x181], SNP: report[0x186], Microcode: report[0x187]}})
	site.RequirePolicy = uint64(report[8]) | uint64(report[9])<<8 | uint64(report[10])<<16
	site.Chips = [][]byte{report[0x1a0:0x1e0], other}
	db := pgtest.New(t)
	s := New(Config{
		DB: db, Audit: audittest.Recorder(t), Sites: map[string]attest.Policy{"ifca": site}, Archive: keybroker.NewArchive(db, attest.AMDRoots()), Verifier: &attest.Verifier{},
		FloorKeys: []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}, Now: func() time.Time { return judge.Add(24 * time.Hour) },
		Host: func(site, chip string) string { return map[bool]string{true: "node-1"}[site == "ifca" && chip != ""] },
	})
	r := rig{t, s, site, attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: vcek}}
	r.exec(`INSERT INTO project (id, name, state, valid_until) VALUES ('study', 'Study', 'active', '2999-01-01')`)
	return r
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func (r rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.DB.Exec(context.Background(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r rig) tx(fn func(tx pgx.Tx) error) error { return inTx(r.DB, fn) }

func inTx(db *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	return postgres.InTx(context.Background(), db, fn)
}

// asked is what a workspace on this machine asks for.
func (r rig) asked() attest.Policy {
	p := r.site
	p.Measurements = [][]byte{r.evidence.Report[0x90:0xc0]}
	return p
}

// decided stores a decision about the genuine report, as the broker does, with its guest armed and holding a lease.
func (r rig) decided(workspace string) string {
	r.t.Helper()
	asked := r.asked()
	judged := asked
	copy(judged.ReportData[:], r.evidence.Report[0x50:0x90])
	verdict := attest.Judge(r.evidence, attest.Collateral{Roots: attest.AMDRoots()}, judged, judge)
	if verdict.Outcome != attest.Accepted {
		r.t.Fatalf("the genuine report is refused: %s %s", verdict.Code, verdict.Check)
	}
	checks, err := json.Marshal(verdict.Checks)
	if err != nil {
		r.t.Fatal(err)
	}
	blob := func(body []byte) []byte {
		sum := sha256.Sum256(body)
		r.exec(`INSERT INTO broker_blob (sha256, body) VALUES ($1, $2) ON CONFLICT DO NOTHING`, sum[:], body)
		return sum[:]
	}
	policy, report, certificates := blob(asked.Canonical()), blob(r.evidence.Report), blob(r.evidence.Certificates)
	id := "decision-of-" + workspace
	r.exec(`INSERT INTO broker_volume (workspace, project, site, secret_name, state) VALUES ($1, 'study', 'ifca', $1, 'open')`, workspace)
	r.exec(`INSERT INTO broker_arm (workspace, generation, epoch, state, dataset, owner, image, volume_id, volume_serial, policy, asked, report_id)
		VALUES ($1, 1, 1, 'released', 'cohort', 'ann', 'img', $1, $1, $2, $2, $3)`, workspace, policy, make([]byte, 32))
	r.exec(`INSERT INTO broker_lease (id, workspace, generation, epoch, volume_id, report_id, signing_key, chip, product, state, mode, until, renew_after, stage, challenge, request, entry)
		VALUES ('lease-of-' || $1, $1, 1, 1, $1, $2, $2, $3, 'Genoa', 'live', 'open', '2999-01-01', '2999-01-01', 'ready', 'c', $2, 1)`,
		workspace, make([]byte, 32), attest.ChipKey(r.evidence.Report[0x1a0:0x1e0]))
	r.exec(`INSERT INTO broker_decision (id, workspace, generation, epoch, challenge, purpose, outcome, checks, tee, report, certificates, policy, collateral, report_data, judged_at, lease, entry)
		VALUES ($1, $2, 1, 1, 'c', 'unlock', 'released', $3, 'sev-snp', $4, $5, $6, $7, $8, $9, 'lease-of-' || $2, 1)`,
		id, workspace, checks, report, certificates, policy, verdict.Collateral[:], judged.ReportData[:], judge)
	return id
}

func (r rig) create(scope Scope, p attest.Policy) (v Version, err error) {
	err = r.tx(func(tx pgx.Tx) error {
		v, _, err = r.Create(context.Background(), tx, carla, scope, p.Canonical(), "because")
		return err
	})
	return v, err
}

type move func(context.Context, pgx.Tx, audit.Actor, string) (Version, audit.ID, error)

func (r rig) move(m move, who audit.Actor, id string) (v Version, err error) {
	err = r.tx(func(tx pgx.Tx) error {
		v, _, err = m(context.Background(), tx, who, id)
		return err
	})
	return v, err
}

// inForce brings a document into force with two people.
func (r rig) inForce(scope Scope, p attest.Policy) Version {
	r.t.Helper()
	v, err := r.create(scope, p)
	if err == nil {
		_, err = r.move(r.Propose, carla, v.ID)
	}
	if err == nil {
		v, err = r.move(r.Activate, carlo, v.ID)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r rig) narrow(asked attest.Policy) (p attest.Policy, err error) {
	err = r.tx(func(tx pgx.Tx) error {
		p, err = r.Narrow(context.Background(), tx, "ifca", "study", asked)
		return err
	})
	return p, err
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

// floorFile asks for a microcode level of Genoa.
func floorFile(t *testing.T, issued time.Time, microcode uint8) []byte {
	t.Helper()
	return signedFile(t, key, fmt.Sprintf(`{"version":1,"issued":%q,"advisories":[{"id":"AMD-SB-3019","date":"2026-10-13","products":[{"product":"Genoa","min_tcb":{"microcode":%d}}]}]}`,
		issued.Format(time.RFC3339), microcode))
}
