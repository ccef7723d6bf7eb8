package policy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// tdxRig is a rig with another site, iisas, that admits the platform of a genuine quote of June 2025.
type tdxRig struct {
	rig
	iisas attest.Policy
	col   attest.Collateral
	raw   []byte
}

var (
	june          = time.Date(2025, 6, 25, 0, 0, 0, 0, time.UTC)
	otherPlatform = bytes.Repeat([]byte{0xee}, 16)
)

func newTDXRig(t *testing.T) tdxRig {
	t.Helper()
	r := tdxRig{rig: newRig(t), raw: read(t, "../attest/testdata/tdx/v4-quote-uptodate.dat")}
	col, err := attest.ParseTDXCollateral(read(t, "../attest/testdata/tdx/v4-quote-uptodate-collateral.json"))
	if err != nil {
		t.Fatal(err)
	}
	r.col = attest.Collateral{Roots: attest.AMDRoots(), TDX: col}
	tdx := attest.NovaTDXPolicy()
	tdx.XFAM = attest.MaskedBits{Mask: ^uint64(0), Value: binary.LittleEndian.Uint64(r.raw[48+128:])}
	tdx.RTMRs[0].Any = true
	tdx.RTMRs[3].Values = [][]byte{r.register(3)}
	tdx.Platforms = [][]byte{r.platform(), otherPlatform}
	r.iisas = attest.Policy{TDX: &tdx}
	r.Sites["iisas"] = r.iisas
	return r
}

func (r tdxRig) register(i int) []byte { return r.raw[48+328+48*i:][:48] }

// platform is the PPID, which stands in the certificate that came with the quote.
func (r tdxRig) platform() []byte {
	r.t.Helper()
	_, err := attest.Verify(attest.Evidence{TEE: attest.TDX, Report: r.raw}, r.col, attest.Policy{}, june)
	var refusal *attest.Refusal
	if !errors.As(err, &refusal) {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(refusal.Checks, func(c attest.Check) bool { return c.Name == "registered platform" })
	ppid, err := hex.DecodeString(refusal.Checks[i].Got)
	if err != nil {
		r.t.Fatal(err)
	}
	return ppid
}

// askedTDX is what a workspace at iisas asks for. The genuine quote has no line, and its registers stand for one.
func (r tdxRig) askedTDX() attest.Policy {
	tdx := *r.iisas.TDX
	tdx.MRTDs = [][]byte{r.raw[48+136:][:48]}
	tdx.RTMRs[1].Values, tdx.RTMRs[2].Values = [][]byte{r.register(1)}, [][]byte{r.register(2)}
	return attest.Policy{TDX: &tdx}
}

func (r tdxRig) narrowTDX() (p attest.Policy, err error) {
	err = r.tx(func(tx pgx.Tx) error {
		p, err = r.Narrow(context.Background(), tx, "iisas", "study", r.askedTDX())
		return err
	})
	return p, err
}

func domain(change func(*attest.TDXPolicy)) attest.Policy {
	var tdx attest.TDXPolicy
	change(&tdx)
	return attest.Policy{Revocation: attest.RevocationNotJudged, TDX: &tdx}
}

var iisas, study = Scope{"site", "iisas"}, Scope{"project", "study"}

func TestDocumentsOnTDX(t *testing.T) {
	t.Parallel()
	r := newTDXRig(t)
	measured := [][]byte{bytes.Repeat([]byte{0xd1}, 48)}
	for name, row := range map[string]struct {
		scope Scope
		doc   attest.Policy
		says  string // empty: accepted
	}{
		"firmware, kernel and machine": {iisas, domain(func(p *attest.TDXPolicy) {
			p.MRTDs, p.RTMRs[0].Values, p.RTMRs[1].Values, p.Platforms = measured, measured, measured, [][]byte{otherPlatform}
		}), ""},
		"nothing but a floor": {iisas, domain(func(p *attest.TDXPolicy) { p.MinEvaluationNumber = 18 }), ""},
		"another machine":     {iisas, domain(func(p *attest.TDXPolicy) { p.Platforms = [][]byte{make([]byte, 16)} }), "a platform is not one of the parent's"},
		"another status":      {iisas, domain(func(p *attest.TDXPolicy) { p.TCBStatuses = []string{"OutOfDate"} }), "a TCB status is not one of the parent's"},
		"another attribute":   {iisas, domain(func(p *attest.TDXPolicy) { p.Attributes = attest.MaskedBits{Mask: 1 << 30, Value: 1 << 30} }), "other attributes"},
		"any RTMR3":           {iisas, domain(func(p *attest.TDXPolicy) { p.RTMRs[3].Any = true }), "RTMR3"},
		"a line": {study, domain(func(p *attest.TDXPolicy) {
			p.CommandLine, p.Initrds, p.RTMRs[1].Values = "siesta.ws=w", measured, measured
		}), "a workspace's own"},
		"SEV-SNP at a site of TDX":   {iisas, document(func(p *attest.Policy) { p.RequireAliasCheck = true }), "site iisas has no SEV-SNP hardware"},
		"a product line there":       {iisas, document(func(p *attest.Policy) { p.Products = []string{attest.Genoa} }), "site iisas has no SEV-SNP hardware"},
		"TDX at a site of SEV-SNP":   {site, domain(func(*attest.TDXPolicy) {}), "site ifca has no TDX hardware"},
		"a project's, of TDX":        {study, domain(func(p *attest.TDXPolicy) { p.Platforms = [][]byte{otherPlatform} }), ""},
		"a project's, of no machine": {study, domain(func(p *attest.TDXPolicy) { p.Platforms = [][]byte{make([]byte, 16)} }), "no configured site has TDX hardware that it admits"},
		"a project's, of both": {study, document(func(p *attest.Policy) {
			p.TDX, p.Products, p.RequireAliasCheck = &attest.TDXPolicy{MinEvaluationNumber: 18}, []string{attest.Genoa}, true
		}), ""},
		"a project's, of a line that is nowhere": {study, document(func(p *attest.Policy) {
			p.TDX, p.Products = &attest.TDXPolicy{}, []string{attest.Milan}
		}), "no configured site has hardware that it admits"},
		"a project's, wider": {study, document(func(p *attest.Policy) {
			p.TDX, p.RequireAliasCheck = &attest.TDXPolicy{TCBStatuses: []string{"SWHardeningNeeded"}}, true
		}), "a TCB status is not one of the parent's"},
	} {
		_, err := r.create(row.scope, row.doc)
		if row.says == "" && err != nil || row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A guest of TDX is armed under the part for TDX alone, and one of SEV-SNP under the other.
func TestArmingOnTDXUnderDocuments(t *testing.T) {
	t.Parallel()
	r := newTDXRig(t)
	r.inForce(iisas, domain(func(p *attest.TDXPolicy) { p.RTMRs[0].Values = [][]byte{r.register(0)} }))
	r.inForce(study, document(func(p *attest.Policy) {
		p.TDX = &attest.TDXPolicy{Platforms: [][]byte{r.platform()}, MinEvaluationNumber: 17}
		p.Products, p.RequirePolicy, p.RequireAliasCheck = []string{attest.Genoa}, r.site.RequirePolicy, true
	}))
	got, err := r.narrowTDX()
	if err != nil {
		t.Fatal(err)
	}
	want := r.askedTDX()
	want.TDX.RTMRs[0] = attest.RTMRRule{Values: [][]byte{r.register(0)}}
	want.TDX.Platforms, want.TDX.MinEvaluationNumber = [][]byte{r.platform()}, 17
	if got.Hash() != want.Hash() {
		t.Errorf("armed\n%s\nwant\n%s", got.Canonical(), want.Canonical())
	}
	got, err = r.narrow(r.asked())
	if err != nil || got.TDX != nil || !got.RequireAliasCheck || len(got.Measurements) != 1 {
		t.Errorf("on SEV-SNP: %s, %v", got.Canonical(), err)
	}
	// Firmware that the document does not know leaves nothing, which the broker does not arm.
	r.inForce(iisas, domain(func(p *attest.TDXPolicy) { p.MRTDs = [][]byte{make([]byte, 48)} }))
	if got, err = r.narrowTDX(); err != nil || len(got.TDX.MRTDs) != 0 {
		t.Errorf("%v, %v", got.TDX.MRTDs, err)
	}
}

// A document that names machines of one kind alone leaves nothing at a site of the other.
func TestDocumentOfOneKind(t *testing.T) {
	t.Parallel()
	r := newTDXRig(t)
	for _, row := range []struct {
		doc      attest.Policy
		tdx, snp string
	}{
		{document(func(p *attest.Policy) { p.Chips = r.site.Chips[:1] }), "SEV-SNP alone", ""},
		{document(func(p *attest.Policy) { p.RequireAliasCheck = true }), "SEV-SNP alone", ""},
		{domain(func(p *attest.TDXPolicy) { p.Platforms = [][]byte{otherPlatform} }), "", "TDX alone"},
	} {
		r.inForce(study, row.doc)
		_, tdx := r.narrowTDX()
		_, snp := r.narrow(r.asked())
		for _, got := range []struct {
			err  error
			says string
		}{{tdx, row.tdx}, {snp, row.snp}} {
			if got.says == "" && got.err != nil || got.says != "" && (!errors.Is(got.err, keybroker.ErrDocuments) || !strings.Contains(got.err.Error(), got.says)) {
				t.Errorf("%s: %v, want %q", row.doc.Canonical(), got.err, got.says)
			}
		}
	}
}

// decidedTDX stores what the broker stores of a verdict on the genuine quote, with the lease of its guest.
func (r tdxRig) decidedTDX(workspace string) {
	r.t.Helper()
	asked := r.askedTDX()
	judged := asked
	copy(judged.ReportData[:], r.raw[48+520:])
	ev := attest.Evidence{TEE: attest.TDX, Report: r.raw}
	verdict := attest.Judge(ev, r.col, judged, june)
	if verdict.Outcome != attest.Accepted {
		r.t.Fatalf("the genuine quote is refused: %s %s", verdict.Code, verdict.Check)
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
	about := r.col.About(ev)
	digest := about.Digest()
	for _, o := range about.Objects() {
		r.exec(`INSERT INTO broker_collateral (digest, object, kind) VALUES ($1, $2, $3)`, digest[:], blob(o.Bytes), o.Kind)
	}
	policy, report := blob(asked.Canonical()), blob(r.raw)
	r.exec(`INSERT INTO broker_volume (workspace, project, site, secret_name, state) VALUES ($1, 'study', 'iisas', $1, 'open')`, workspace)
	r.exec(`INSERT INTO broker_arm (workspace, generation, epoch, state, dataset, owner, image, volume_id, volume_serial, policy, asked, report_id)
		VALUES ($1, 1, 1, 'released', 'cohort', 'ann', 'img', $1, $1, $2, $2, $3)`, workspace, policy, make([]byte, 32))
	r.exec(`INSERT INTO broker_lease (id, workspace, generation, epoch, volume_id, report_id, signing_key, chip, product, state, mode, until, renew_after, stage, challenge, request, entry)
		VALUES ('lease-of-' || $1, $1, 1, 1, $1, $2, $2, $3, 'b0c06f000000', 'live', 'open', '2999-01-01', '2999-01-01', 'ready', 'c', $2, 1)`,
		workspace, make([]byte, 32), hex.EncodeToString(r.platform())+strings.Repeat("0", 96))
	r.exec(`INSERT INTO broker_decision (id, workspace, generation, epoch, challenge, purpose, outcome, checks, tee, report, policy, collateral, report_data, judged_at, lease, entry)
		VALUES ('decision-of-' || $1, $1, 1, 1, 'c', 'unlock', 'released', $2, 'tdx', $3, $4, $5, $6, $7, 'lease-of-' || $1, 1)`,
		workspace, checks, report, policy, digest[:], judged.ReportData[:], june)
}

func TestFloorOnTDX(t *testing.T) {
	t.Parallel()
	r := newTDXRig(t)
	r.decidedTDX("ws1")
	file := func(number string) []byte {
		return signedFile(t, key, `{"version":1,"issued":"2026-11-23T12:00:00Z","advisories":[
			{"id":"INTEL-SA-00001","date":"2026-10-13","products":[{"product":"TDX","min_tcb_evaluation":1}]},
			{"id":"INTEL-SA-01036","date":"2026-10-13","products":[{"product":"TDX","min_tcb_evaluation":`+number+`}]}]}`)
	}
	report, err := r.CheckFloor(t.Context(), file("2"))
	if err != nil || report.Judged != 1 || len(report.Failing) != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	report, err = r.CheckFloor(t.Context(), file("99"))
	if err != nil || len(report.Failing) != 1 || len(report.Hosts) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	f := report.Failing[0]
	if f.Site != "iisas" || f.Lease != "lease-of-ws1" || f.Code != attest.CodeTCBStatus || f.Expected != "at least 99" || len(f.Advisories) != 2 {
		t.Errorf("%+v", f)
	}
	r.iisas.TDX.MinEvaluationNumber = 1
	r.exec(`TRUNCATE broker_decision, broker_lease, broker_arm, broker_volume, broker_collateral CASCADE`)
	r.decidedTDX("ws1")
	if report, err = r.CheckFloor(t.Context(), file("99")); err != nil || !slices.Equal(report.Failing[0].Advisories, []string{"INTEL-SA-01036"}) {
		t.Errorf("an advisory that asks for no more than the site does is a reason: %+v, %v", report, err)
	}
}
