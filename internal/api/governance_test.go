package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/floor"
)

func policyBody(microcode int) map[string]any {
	return map[string]any{"kind": "site", "scope": "ifca", "note": "AMD-SB-3019", "document": map[string]any{
		"version": 1, "products": []string{"Genoa"}, "chips": []string{}, "measurements": []string{}, "require_policy": "0x0",
		"min_tcb":             map[string]any{"Genoa": map[string]int{"bootloader": 4, "snp": 20, "microcode": microcode}},
		"require_alias_check": false, "revocation": "not-judged", "simulated": false,
	}}
}

// own wants an operation refused to who for being his or her own, and that the log says so.
func (r *rig) own(who person, op, path string) {
	r.t.Helper()
	p := r.want(403, who, "POST", path, nil).problem(r.t)
	if p.Type != problemType+"self-approval" || p.Next != "Ask somebody else who may do it." || strings.Contains(p.Detail, "role") {
		r.t.Errorf("%s of one's own: %+v", op, p)
	}
	if n := r.audited(op, audit.Refused, "self-approval"); n != 1 {
		r.t.Errorf("%d refusals of %s in the log", n, op)
	}
}

func TestPoliciesOverTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cus, cuz, op, aud, ann := r.person("cus", "custodian"), r.person("cuz", "custodian"), r.person("op", "operator"), r.person("aud", "auditor"), r.person("ann", "researcher")

	if p := r.want(422, cus, "POST", "/v1/policies", policyBody(69)).problem(t); p.Type != "urn:siestad:problem:wider-than-site" {
		t.Errorf("a lower floor: %+v", p)
	}
	for kind, want := range map[string]string{
		"site":    "Writing a policy of site nowhere: its site is not configured; these are: ifca.",
		"project": "Writing a policy of project nowhere: there is no project of this name; write its id as the lists show it.",
	} {
		body := policyBody(80)
		body["kind"], body["scope"] = kind, "nowhere"
		if p := r.want(422, cus, "POST", "/v1/policies", body).problem(t); p.Detail != want || p.Type != problemType+"invalid" {
			t.Errorf("%s: %q, want %q", kind, p.Detail, want)
		}
	}
	for _, who := range []person{op, aud, ann} {
		r.want(403, who, "POST", "/v1/policies", policyBody(80))
	}
	if n := r.audited("policy.create", audit.Refused, "policy"); n != 3 {
		t.Errorf("%d refusals in the log", n)
	}
	key := with("Idempotency-Key", "policy-once")
	created := r.want(201, cus, "POST", "/v1/policies", policyBody(80), key)
	var v, again gen.Policy
	created.into(t, &v)
	r.want(201, cus, "POST", "/v1/policies", policyBody(80), key).into(t, &again)
	if v.ID != again.ID || v.State != "draft" || v.Version != 1 || created.header.Get("Location") != "/v1/policies/"+v.ID {
		t.Fatalf("%+v", v)
	}
	// The name is that of the canonical bytes, which anybody can make from the document.
	var p attest.Policy
	text, _ := json.Marshal(v.Document)
	must(t, p.UnmarshalJSON(text))
	if hash := p.Hash(); v.Sha256 != attest.Digest(hash).String() {
		t.Error("the document does not hash to its name")
	}
	path := "/v1/policies/" + v.ID
	r.want(200, aud, "GET", path, nil)
	r.want(404, ann, "GET", path, nil)
	r.want(409, cuz, "POST", path+"/activate", nil)
	r.want(403, op, "POST", path+"/propose", nil)
	r.want(200, cus, "POST", path+"/propose", nil)
	r.own(cus, "policy.activate", path+"/activate") // wrote and proposed it
	r.want(200, cuz, "POST", path+"/activate", nil).into(t, &v)
	if v.State != "active" || *v.ActivatedBy != cuz.subject {
		t.Errorf("%+v", v)
	}
	var report gen.PolicyTest
	since := map[string]any{"since": start.AddDate(0, 0, -30)}
	r.want(200, op, "POST", path+"/test", since).into(t, &report)
	if report.Judged != 0 || report.Changes == nil {
		t.Errorf("%+v", report)
	}
	r.want(404, ann, "POST", path+"/test", since)
	r.want(200, cus, "POST", path+"/retire", nil).into(t, &v)
	if v.State != "active" || v.RetiringBy == nil {
		t.Errorf("one person ended a policy in force: %+v", v)
	}
	if p := r.want(403, cus, "POST", path+"/retire", nil).problem(t); p.Type != "urn:siestad:problem:self-approval" {
		t.Errorf("%+v", p)
	}
	if n := r.audited("policy.retire", audit.Refused, "self-approval"); n != 1 {
		t.Errorf("%d refusals in the log", n)
	}
	r.want(200, cuz, "POST", path+"/retire", nil)

	for range 2 {
		r.want(201, cus, "POST", "/v1/policies", policyBody(81))
	}
	var page gen.PolicyPage
	r.want(200, aud, "GET", "/v1/policies?kind=site&scope=ifca&limit=2", nil).into(t, &page)
	if len(page.Items) != 2 || page.Items[0].Version != 3 || page.Next == nil {
		t.Fatalf("%+v", page)
	}
	next := *page.Next
	r.want(400, aud, "GET", "/v1/policies?limit=2&cursor="+next, nil)
	r.want(200, aud, "GET", "/v1/policies?kind=site&scope=ifca&limit=2&cursor="+next, nil).into(t, &page)
	if len(page.Items) != 1 || page.Items[0].ID != v.ID {
		t.Errorf("%+v", page)
	}
	r.want(400, cus, "POST", "/v1/policies", map[string]any{"kind": "person", "scope": "ann", "note": "x", "document": map[string]any{}})
	r.want(422, cus, "POST", "/v1/policies", map[string]any{"kind": "site", "scope": "ifca", "note": "x", "document": map[string]any{"version": 1}})
}

func (r *rig) sql(text string, args ...any) {
	r.t.Helper()
	_, err := r.db.Exec(context.Background(), text, args...)
	must(r.t, err)
}

const (
	guestOne = "01jabcdefghjkmnpqrstvwxyz0"
	guestTwo = "01jabcdefghjkmnpqrstvwxyz1"
	taken    = "01kabcdefghjkmnpqrstvwxyz0"
	refused  = "01kabcdefghjkmnpqrstvwxyz1"
)

// decided stores what the broker stores of a genuine report that it accepted, and of one that it refused without.
func (r *rig) decided() {
	r.t.Helper()
	read := func(name string) []byte {
		body, err := os.ReadFile("../attest/testdata/" + name)
		must(r.t, err)
		return body
	}
	report, vcek := read("siena-v5-report.bin"), read("siena-v5-vcek.der")
	policy := attest.NovaPolicy(map[string]attest.TCB{attest.Genoa: {}})
	policy.RequirePolicy = uint64(report[8]) | uint64(report[9])<<8 | uint64(report[10])<<16
	policy.Chips, policy.Measurements = [][]byte{report[0x1a0:0x1e0]}, [][]byte{report[0x90:0xc0]}
	copy(policy.ReportData[:], report[0x50:0x90])
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	verdict := attest.Judge(attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: vcek}, attest.Collateral{Roots: attest.AMDRoots()}, policy, at)
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
	name := blob(policy.Canonical())
	for _, w := range []string{guestOne, guestTwo} {
		r.sql(`INSERT INTO broker_volume (workspace, project, site, secret_name, state) VALUES ($1, 'study', 'ifca', $1, 'open')`, w)
		r.sql(`INSERT INTO broker_arm (workspace, generation, epoch, state, dataset, owner, image, volume_id, volume_serial, policy, report_id)
			VALUES ($1, 1, 1, 'released', 'cohort', 'ann', 'img', $1, $1, $2, $3)`, w, name, make([]byte, 32))
		r.sql(`INSERT INTO broker_lease (id, workspace, generation, epoch, volume_id, report_id, signing_key, chip, product, state, mode, until, renew_after, stage, challenge, request, entry)
			VALUES ($1, $1, 1, 1, $1, $2, $2, $3, 'Genoa', 'live', 'open', '2999-01-01', '2999-01-01', 'ready', 'c', $2, 1)`, w, make([]byte, 32), attest.ChipKey(make([]byte, 64)))
	}
	r.sql(`INSERT INTO broker_decision (id, workspace, generation, epoch, challenge, purpose, outcome, checks, tee, report, certificates, policy, collateral, report_data, judged_at, lease, entry)
		VALUES ($1, $2, 1, 1, 'c', 'unlock', 'released', $3, 'sev-snp', $4, $5, $6, $7, $8, $9, $2, 1)`,
		taken, guestOne, checks, blob(report), blob(vcek), name, verdict.Collateral[:], policy.ReportData[:], at)
	r.sql(`INSERT INTO broker_decision (id, workspace, generation, epoch, challenge, purpose, outcome, code, checks, tee, judged_at, entry)
		VALUES ($1, $2, 1, 1, 'c', 'unlock', 'refused', 'tcb', $3, 'sev-snp', $4, 1)`,
		refused, guestTwo, `[{"name":"reported TCB","status":"failed","code":"tcb","expected":"9","got":"8","source":"policy","section":"AMD 56860","advice":"update"}]`, at.AddDate(0, 0, 1))
}

func TestDecisionsOverTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.decided()
	op, aud, ann, cus := r.person("op", "operator"), r.person("aud", "auditor"), r.person("ann", "researcher"), r.person("cus", "custodian")
	for query, want := range map[string]int{
		"": 2, "?workspace=" + guestOne: 1, "?code=tcb": 1, "?outcome=released": 1, "?outcome=renewed": 0,
		"?since=2026-11-23T12:00:00Z": 1, "?until=2026-11-23T12:00:00Z": 1, "?since=2026-11-25T00:00:00Z": 0,
	} {
		var page gen.DecisionPage
		r.want(200, aud, "GET", "/v1/decisions"+query, nil).into(t, &page)
		if len(page.Items) != want || page.Next != nil {
			t.Errorf("%q: %d items", query, len(page.Items))
		}
	}
	var page gen.DecisionPage
	r.want(200, op, "GET", "/v1/decisions?limit=1", nil).into(t, &page)
	if len(page.Items) != 1 || page.Items[0].ID != refused || page.Next == nil {
		t.Fatalf("%+v", page)
	}
	var last gen.DecisionPage
	r.want(200, op, "GET", "/v1/decisions?limit=1&cursor="+*page.Next, nil).into(t, &last)
	if len(last.Items) != 1 || last.Items[0].ID != taken || last.Next != nil {
		t.Fatalf("%+v", last)
	}
	for _, who := range []person{ann, cus} {
		r.want(403, who, "GET", "/v1/decisions", nil)
		r.want(404, who, "GET", "/v1/decisions/"+taken, nil)
		r.want(404, who, "GET", "/v1/decisions/"+taken+"/bundle", nil)
	}
	var d gen.Decision
	r.want(200, op, "GET", "/v1/decisions/"+refused, nil).into(t, &d)
	if len(*d.Checks) != 1 || *(*d.Checks)[0].Advice != "update" || *(*d.Checks)[0].Section != "AMD 56860" || *(*d.Checks)[0].Got != "8" {
		t.Errorf("%+v", d)
	}
	r.want(404, op, "GET", "/v1/decisions/"+anyULID, nil)
	if p := r.want(409, op, "GET", "/v1/decisions/"+refused+"/bundle", nil).problem(t); p.Type != "urn:siestad:problem:not-replayable" {
		t.Errorf("%+v", p)
	}
	var bundle attest.Bundle
	must(t, bundle.UnmarshalJSON(bytes.TrimSpace(r.want(200, aud, "GET", "/v1/decisions/"+taken+"/bundle", nil).body)))
	if got, err := bundle.Replay(); err != nil || got.ID != taken || got.Outcome != attest.Accepted {
		t.Errorf("%s, %v", got.Outcome, err)
	}
}

func TestQuarantinesOverTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.decided()
	op, oz, cus, aud, ann := r.person("op", "operator"), r.person("oz", "operator"), r.person("cus", "custodian"), r.person("aud", "auditor"), r.person("ann", "researcher")
	body := map[string]any{"kind": "host", "value": "ifca/node-1", "reason": "its firmware is not trusted"}
	for _, who := range []person{cus, aud, ann} {
		r.want(403, who, "POST", "/v1/quarantines", body)
	}
	r.sql(`INSERT INTO image (id, name, state, created_by) VALUES ('img', 'guest', 'draft', 'op')`)
	for value, row := range map[string]struct{ kind, says string }{
		"no slash": {"host", "site/name"}, "ifca/node-9": {"host", "ifca/node-1"}, "abc": {"chip", "128 hexadecimal digits"}, "img-9": {"image", "there is no image"},
		"Siena": {"product", "Milan, Genoa, Turin"}, guestOne + "/9": {"key", "there is no key version"},
	} {
		p := r.want(422, op, "POST", "/v1/quarantines", map[string]any{"kind": row.kind, "value": value, "reason": "x"}).problem(t)
		if !strings.Contains(p.Detail, row.says) {
			t.Errorf("%s %s: %q does not say %q", row.kind, value, p.Detail, row.says)
		}
	}
	for path, want := range map[string]string{
		"quarantines": "Placing a quarantine on host ifca/node-9: no registered chip is in a host of this name, so quarantine the chip; these hosts have one: ifca/node-1.",
		"freezes":     "Freezing host ifca/node-9: no registered chip is in a host of this name, so freeze the chip; these hosts have one: ifca/node-1.",
	} {
		if p := r.want(422, op, "POST", "/v1/"+path, map[string]any{"kind": "host", "value": "ifca/node-9", "reason": "x"}).problem(t); p.Detail != want {
			t.Errorf("%q, want %q", p.Detail, want)
		}
	}
	r.want(400, op, "POST", "/v1/quarantines", map[string]any{"kind": "person", "value": "ann", "reason": "x"})
	var q gen.Quarantine
	r.want(201, op, "POST", "/v1/quarantines", body).into(t, &q)
	if q.State != "live" || len(*q.Hits) != 2 || *(*q.Hits)[0].Lease != guestOne || *(*q.Hits)[0].Host != "node-1" {
		t.Fatalf("%+v", q)
	}
	var live int
	must(t, r.db.QueryRow(context.Background(), `SELECT count(*) FROM broker_lease WHERE state = 'live'`).Scan(&live))
	if live != 0 {
		t.Errorf("%d leases live on", live)
	}
	if n := r.audited("quarantine.place", audit.Success, ""); n != 1 {
		t.Errorf("%d entries of one quarantine", n)
	}
	path := "/v1/quarantines/" + q.ID
	r.want(200, aud, "GET", path, nil)
	r.want(404, ann, "GET", path, nil)
	r.want(409, cus, "POST", "/v1/freezes/"+q.ID+"/lift", nil) // a quarantine is no freeze to lift
	r.own(op, "quarantine.lift", path+"/lift")
	if p := r.want(403, aud, "POST", path+"/lift", nil).problem(t); p.Type != problemType+"forbidden" {
		t.Errorf("without the role: %+v", p)
	}
	if n := r.audited("quarantine.lift", audit.Refused, "policy"); n != 1 {
		t.Errorf("%d refusals for want of a role", n)
	}
	// The roles that it took, and the sight of it, can be lost: then it is as for everybody else.
	unseen := r.want(404, r.person("op", "researcher"), "POST", path+"/lift", nil).problem(t)
	if p := r.want(404, ann, "POST", path+"/lift", nil).problem(t); p.Type != unseen.Type || p.Detail != unseen.Detail || p.Next != unseen.Next || p.Code != nil || unseen.Code != nil {
		t.Errorf("hidden from whoever placed it %+v, from others %+v", unseen, p)
	}
	r.want(200, oz, "POST", path+"/lift", nil).into(t, &q)
	if q.State != "lifted" || *q.LiftedBy != oz.subject || len(*q.Hits) != 2 {
		t.Errorf("%+v", q)
	}
	r.want(409, cus, "POST", path+"/lift", nil)
	var armed gen.Quarantine
	r.want(201, op, "POST", "/v1/quarantines", map[string]any{"kind": "image", "value": "img", "reason": "x"}).into(t, &armed)
	if len(*armed.Hits) != 2 || (*armed.Hits)[0].Lease != nil {
		t.Errorf("armed guests without a lease: %+v", armed)
	}
	var page gen.QuarantinePage
	r.want(200, cus, "GET", "/v1/quarantines?limit=1", nil).into(t, &page)
	if len(page.Items) != 1 || page.Items[0].ID != armed.ID || page.Next == nil {
		t.Fatalf("%+v", page)
	}
	r.want(200, cus, "GET", "/v1/quarantines?limit=1&cursor="+*page.Next, nil)
	r.want(404, op, "GET", "/v1/quarantines/"+anyULID, nil)
}

// signedByHand is a file that package floor would not sign.
func signedByHand(t *testing.T, payload string) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"payload": []byte(payload), "key": floor.KeyID(floorKey.Public().(ed25519.PublicKey)),
		"signature": ed25519.Sign(floorKey, []byte("siesta/floor/v1\n"+payload)),
	})
	must(t, err)
	return string(body)
}

func TestFloorsOverTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	op, oz, cus, ann := r.person("op", "operator"), r.person("oz", "operator"), r.person("cus", "custodian"), r.person("ann", "researcher")
	file := func(issued string) string {
		body, err := floor.Sign([]byte(`{"version":1,"issued":"`+issued+`","advisories":[{"id":"AMD-SB-3019","date":"2026-10-13","products":[{"product":"Genoa","min_tcb":{"microcode":80}}]}]}`), floorKey)
		must(t, err)
		return string(body)
	}
	newest := file("2026-11-02T00:00:00Z")
	r.decided()
	var check gen.FloorCheck
	r.want(200, op, "POST", "/v1/floor-checks", newest).into(t, &check)
	if check.NotReplayable+check.Judged != 1 || check.Unseen != 1 {
		t.Errorf("%+v", check)
	}
	r.want(403, ann, "POST", "/v1/floor-checks", newest)
	r.want(422, op, "POST", "/v1/floors", strings.Replace(newest, `"signature":"`, `"signature":"AAAA`, 1))
	r.want(403, cus, "POST", "/v1/floors", newest)
	siena := signedByHand(t, `{"version":1,"issued":"2026-11-02T00:00:00Z","advisories":[{"id":"AMD-SB-3019","date":"2026-10-13","products":[{"product":"Siena","min_tcb":{"microcode":80}}]}]}`)
	for _, path := range []string{"/v1/floors", "/v1/floor-checks"} {
		if p := r.want(422, op, "POST", path, siena).problem(t); !strings.Contains(p.Detail, "Genoa for Bergamo and Siena") {
			t.Errorf("%s: %q does not say what would be right", path, p.Detail)
		}
	}
	var f gen.Floor
	r.want(201, op, "POST", "/v1/floors", newest).into(t, &f)
	if f.State != "proposed" || len(f.Advisories) != 1 || f.Advisories[0].ID != "AMD-SB-3019" {
		t.Fatalf("%+v", f)
	}
	path := "/v1/floors/" + f.ID
	r.own(op, "floor.activate", path+"/activate")
	r.want(404, ann, "POST", path+"/activate", nil)
	r.want(200, oz, "POST", path+"/activate", nil).into(t, &f)
	if f.State != "active" || *f.ActivatedBy != oz.subject {
		t.Errorf("%+v", f)
	}
	r.want(409, op, "POST", "/v1/floors", file("2026-11-01T00:00:00Z"))
	r.want(200, cus, "GET", path, nil)
	r.want(404, ann, "GET", path, nil)
	r.want(404, op, "GET", "/v1/floors/"+anyULID, nil)
	var page gen.FloorPage
	r.want(200, cus, "GET", "/v1/floors", nil).into(t, &page)
	if len(page.Items) != 1 {
		t.Errorf("%+v", page)
	}
}
