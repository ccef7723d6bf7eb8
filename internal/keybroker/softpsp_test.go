//go:build devtee

package keybroker

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
)

// pspPlatform makes reports with the soft PSP: real bytes, real signatures, made-up roots.
type pspPlatform struct {
	psp   *softpsp.PSP
	roots *attest.Roots
	judge *attest.Verifier
}

type pspMachine struct {
	t           testing.TB
	psp         *softpsp.PSP
	id          [32]byte
	measurement [48]byte
	alter       func([]byte)
}

var goodMeasurement = [48]byte(bytes.Repeat([]byte{0x42}, 48))

func newPSP(t testing.TB) *softpsp.PSP {
	t.Helper()
	p, err := softpsp.New(softpsp.Config{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newPSPRig(t testing.TB) (*rig, *pspPlatform) {
	t.Helper()
	p := &pspPlatform{psp: newPSP(t), judge: &attest.Verifier{}}
	roots, err := attest.AMDRoots().WithSimulated(softpsp.Line, p.psp.Roots())
	if err != nil {
		t.Fatal(err)
	}
	p.roots = roots
	return newRigOn(t, p), p
}

func (p *pspPlatform) boot(t testing.TB) machine {
	m := plainPlatform{}.boot(t).(*plainMachine)
	return &pspMachine{t: t, psp: p.psp, id: m.id, measurement: goodMeasurement}
}

func (m *pspMachine) report(data [64]byte) ([]byte, []byte) {
	report, err := m.psp.Sign(softpsp.Report{Measurement: m.measurement, ReportData: data, ReportID: m.id, Alter: m.alter})
	if err != nil {
		m.t.Fatal(err)
	}
	return report, m.psp.Certificates()
}

func (p *pspPlatform) policy() attest.Policy {
	pol := attest.NovaPolicy(map[string]attest.TCB{softpsp.Line: p.psp.TCB()})
	chip := p.psp.ChipID()
	pol.Chips, pol.Measurements, pol.Simulated = [][]byte{chip[:]}, [][]byte{goodMeasurement[:]}, true
	return pol
}

func (p *pspPlatform) collateral() attest.Collateral { return attest.Collateral{Roots: p.roots} }
func (p *pspPlatform) verifier() Verifier            { return p.judge }

// serve puts the broker behind HTTP as the guests' door does.
func serve(r *rig) *httptest.Server {
	answer := func(w http.ResponseWriter, v any, err error) {
		var refused *Refusal
		switch {
		case errors.As(err, &refused):
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]string{"decision": refused.ID})
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/challenges", func(w http.ResponseWriter, req *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(http.MaxBytesReader(w, req.Body, door.MaxChallengeRequest))
		m, err := door.DecodeChallengeRequest(body.Bytes())
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c, err := r.broker.Challenge(req.Context(), m, req.RemoteAddr)
		answer(w, c, err)
	})
	mux.HandleFunc("POST /v1/grants", func(w http.ResponseWriter, req *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(http.MaxBytesReader(w, req.Body, door.MaxGrantRequest))
		m, err := door.DecodeGrantRequest(body.Bytes())
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		g, err := r.broker.Grant(req.Context(), m, req.RemoteAddr)
		answer(w, g, err)
	})
	server := httptest.NewServer(mux)
	r.t.Cleanup(server.Close)
	return server
}

func post(t testing.TB, server *httptest.Server, path string, v any) (int, []byte) {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, server.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out.Bytes()
}

func TestReleaseOnTheWire(t *testing.T) {
	r, _ := newPSPRig(t)
	r.prepareAndArm(testWorkspace)
	server := serve(r)
	g := r.boot(testWorkspace, 1)
	req := door.ChallengeRequest{Workspace: testWorkspace, Generation: 1, Purpose: door.Unlock}
	status, body := post(t, server, "/v1/challenges", req)
	c, err := door.DecodeChallenge(body)
	if status != http.StatusOK || err != nil {
		t.Fatalf("%d %v", status, err)
	}
	request := g.request(c, req, "")
	status, body = post(t, server, "/v1/grants", request)
	answer, err := door.DecodeGrant(body)
	if status != http.StatusOK || err != nil {
		t.Fatalf("%d %v", status, err)
	}
	if s := g.open(c, req, answer); s.Mode != door.Initialise || len(s.LUKSKey) != door.LUKSKeySize {
		t.Errorf("sealed %+v", s)
	}
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'key.release' AND convert_from(body, 'UTF8') LIKE '%"simulated":true%'`); n != 1 {
		t.Error("the appraisal is not marked simulated")
	}
	again := request
	again.HPKE = r.boot(testWorkspace, 1).hpke.Public() // the evidence is replayed for another key
	status, body = post(t, server, "/v1/grants", again)
	if status != http.StatusForbidden || bytes.Contains(body, []byte("nonce")) {
		t.Errorf("replay: %d %s", status, body)
	}
}

func TestRefusedEvidence(t *testing.T) {
	stranger := newPSP(t)
	for name, row := range map[string]struct {
		code   string
		change func(m *pspMachine)
	}{
		"another command line, initrd or vCPU count": {attest.CodeMeasurement, func(m *pspMachine) { m.measurement[0] ^= 1 }},
		"debug guest":      {attest.CodeDebug, func(m *pspMachine) { m.alter = func(b []byte) { b[0x08+2] |= 1 << 3 } }},
		"migratable guest": {attest.CodeMigration, func(m *pspMachine) { m.alter = func(b []byte) { b[0x08+2] |= 1 << 2 } }},
		"another guest policy": {attest.CodePolicy, func(m *pspMachine) {
			m.alter = func(b []byte) { binary.LittleEndian.PutUint64(b[0x08:], attest.NovaGuestPolicy|1<<20) }
		}},
		"lower privilege level":  {attest.CodeVMPL, func(m *pspMachine) { m.alter = func(b []byte) { b[0x30] = 1 } }},
		"report for another key": {attest.CodeReportData, func(m *pspMachine) { m.alter = func(b []byte) { b[0x50+63] ^= 1 } }},
		"other roots":            {attest.CodeChain, func(m *pspMachine) { m.psp = stranger }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := newPSPRig(t)
			r.prepareAndArm(testWorkspace)
			g := r.boot(testWorkspace, 1)
			row.change(g.machine.(*pspMachine))
			_, _, err := g.grant(door.Unlock)
			refused := refusalOf(t, err, row.code)
			if len(refused.Checks) < 5 {
				t.Errorf("only %d checks listed", len(refused.Checks))
			}
			if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'key.release' AND outcome = 'refused'`); n != 1 {
				t.Error("not audited")
			}
		})
	}
}

func TestUnknownChip(t *testing.T) {
	r, _ := newPSPRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	// Another machine of the same maker: its chain is good, only nobody registered it. One root here has one chip, so
	// the policy is what changes.
	arm := r.armOf(testWorkspace, 1)
	arm.Policy.Chips = [][]byte{bytes.Repeat([]byte{1}, 64)}
	hash := arm.Policy.Hash()
	body, err := json.Marshal(arm.Policy)
	if err != nil {
		t.Fatal(err)
	}
	r.exec(`INSERT INTO broker_blob VALUES ($1, $2)`, hash[:], body)
	r.exec(`UPDATE broker_arm SET policy = $1`, hash[:])
	_, _, err = g.grant(door.Unlock)
	wantCode(t, err, attest.CodeChip)
}

// A stored decision can be judged again, with nothing but what the database kept.
func TestDecisionReplays(t *testing.T) {
	r, p := newPSPRig(t)
	r.ready(testWorkspace)
	var tee string
	var report, certificates, policy, data []byte
	var at time.Time
	if err := r.db.QueryRow(context.Background(), `SELECT d.tee, br.body, bc.body, bp.body, d.report_data, d.judged_at FROM broker_decision d
		JOIN broker_blob br ON br.sha256 = d.report JOIN broker_blob bc ON bc.sha256 = d.certificates JOIN broker_blob bp ON bp.sha256 = d.policy
		WHERE d.outcome = 'released'`).Scan(&tee, &report, &certificates, &policy, &data, &at); err != nil {
		t.Fatal(err)
	}
	var pol attest.Policy
	if err := json.Unmarshal(policy, &pol); err != nil {
		t.Fatal(err)
	}
	pol.ReportData = [64]byte(data)
	if _, err := attest.Verify(attest.Evidence{TEE: attest.TEE(tee), Report: report, Certificates: certificates}, p.collateral(), pol, at); err != nil {
		t.Error(err)
	}
}
