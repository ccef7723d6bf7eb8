//go:build devtee

package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
)

// pspHardware signs with the soft PSP: real bytes, real signatures, made-up roots.
type pspHardware struct {
	psp         *softpsp.PSP
	measurement [48]byte
	change      func(r *softpsp.Report)
}

func (h *pspHardware) report(t testing.TB, data [64]byte, id [32]byte) ([]byte, []byte) {
	r := softpsp.Report{Measurement: h.measurement, ReportData: data, ReportID: id}
	if h.change != nil {
		h.change(&r)
	}
	report, err := h.psp.Sign(r)
	must(t, err)
	return report, h.psp.VCEK()
}

func (h *pspHardware) policy() attest.Policy {
	p := attest.NovaPolicy(map[string]attest.TCB{softpsp.Line: h.psp.TCB()})
	chip := h.psp.ChipID()
	p.Chips, p.Measurements, p.Simulated = [][]byte{chip[:]}, [][]byte{h.measurement[:]}, true
	return p
}

func newPSPWorld(t testing.TB) (*world, *pspHardware) {
	t.Helper()
	psp, err := softpsp.New(softpsp.Config{Now: start})
	must(t, err)
	roots, err := attest.AMDRoots().WithSimulated(softpsp.Line, psp.Roots())
	must(t, err)
	hw := &pspHardware{psp: psp, measurement: [48]byte(bytes.Repeat([]byte{0x42}, 48))}
	return newWorld(t, setup{collateral: attest.Collateral{Roots: roots}}, hw), hw
}

// The whole exchange with signed evidence: both dialects get the secret, and the token says that the roots are made up.
func TestKBSWithSignedEvidence(t *testing.T) {
	w, _ := newPSPWorld(t)
	for _, svsm := range []bool{false, true} {
		c := w.client()
		c.svsm = svsm
		token := c.ready()
		if status, secret, _ := c.get(kbsPath); status != 200 || !bytes.Equal(secret, kbsPayload) {
			t.Errorf("SVSM %t: %d %q", svsm, status, secret)
		}
		signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
		must(t, err)
		var claims struct {
			Submods struct {
				CPU struct {
					Status string `json:"ear.status"`
				} `json:"cpu0"`
			} `json:"submods"`
		}
		must(t, json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claims))
		if claims.Submods.CPU.Status != "contraindicated" {
			t.Errorf("a token about simulated hardware says %q", claims.Submods.CPU.Status)
		}
	}
}

// What the verifier refuses at the native door it refuses here, with the same codes.
func TestKBSRefusesWhatIsNotTheGuest(t *testing.T) {
	for name, row := range map[string]struct {
		code   string
		change func(r *softpsp.Report)
	}{
		"debug guest":               {attest.CodeDebug, func(r *softpsp.Report) { r.Alter = func(b []byte) { b[0x08+2] |= 1 << 3 } }},
		"migratable guest":          {attest.CodeMigration, func(r *softpsp.Report) { r.Alter = func(b []byte) { b[0x08+2] |= 1 << 2 } }},
		"lower privilege level":     {attest.CodeVMPL, func(r *softpsp.Report) { r.Alter = func(b []byte) { b[0x30] = 1 } }},
		"another binding":           {attest.CodeReportData, func(r *softpsp.Report) { r.ReportData[63] ^= 1 }},
		"host data that nobody set": {attest.CodeHostData, func(r *softpsp.Report) { r.Alter = func(b []byte) { b[0xC0] = 1 } }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, hw := newPSPWorld(t)
			hw.change = row.change
			c := w.client()
			c.auth()
			if status, _ := c.attest(); status != 403 {
				t.Errorf("%d", status)
			}
			if n := w.audited("guest.attest", audit.Refused, row.code); n != 1 {
				t.Errorf("no refusal with code %s", row.code)
			}
			if status, _, _ := c.get(kbsPath); status != 401 {
				t.Errorf("the resource: %d", status)
			}
		})
	}
}

// A byte of the evidence that is changed after it was signed.
func TestKBSRefusesATamperedReport(t *testing.T) {
	w, _ := newPSPWorld(t)
	c := w.client()
	c.auth()
	c.alter = func(b map[string]any) {
		r := b["tee-evidence"].(map[string]any)["primary_evidence"].(map[string]any)["attestation_report"].(map[string]any)
		r["guest_svn"] = 1
	}
	if status, _ := c.attest(); status != 403 {
		t.Errorf("%d", status)
	}
	if n := w.audited("guest.attest", audit.Refused, attest.CodeSignature); n != 1 {
		t.Error("no refusal with code signature")
	}
}

// The recordings whose server trusted the simulated roots: so does this development build, and the stock client gets its
// secret, in the member order that it can read.
func TestRecordedClientsGetTheirSecret(t *testing.T) {
	for _, name := range []string{"snp-simroots-get-resource", "snp-simroots-trustee-attester-uri"} {
		t.Run(name, func(t *testing.T) {
			got := newSimulatedWorld(t, name).play(name)
			sealedForAStockClient(t, got[len(got)-1])
		})
	}
}

// SVSM's client was recorded up to /attest, which the stock server refused. Here it is accepted, and the fixed path of
// that client answers.
func TestRecordedSVSM(t *testing.T) {
	w := newSimulatedWorld(t, "snp-simroots-get-resource") // the same simulated machine, another boot of the same image
	got := w.play("aproxy-simroots")
	if len(got) != 2 || got[1].status != 200 || got[1].body["token"] == nil {
		t.Fatalf("%+v", got)
	}
	const boot = `(SELECT substr(b.body, 321, 32) FROM broker_kbs_session s JOIN broker_blob b ON b.sha256 = s.report)` // REPORT_ID
	w.exec(`UPDATE broker_arm SET report_id = ` + boot)
	w.exec(`UPDATE broker_lease SET report_id = ` + boot)
	sealedForAStockClient(t, w.send(w.cookie, "GET", kbsPath))
}

func newSimulatedWorld(t *testing.T, name string) *world {
	roots, err := attest.AMDRoots().WithSimulated(attest.Milan, recordedEvidence(t, name).chain())
	must(t, err)
	return newRecordedWorld(t, name, roots, true)
}

// sealedForAStockClient holds an answer to what those clients can parse: these members, this order in the header.
func sealedForAStockClient(t *testing.T, p played) {
	t.Helper()
	if p.status != 200 || len(p.body) != 5 {
		t.Fatalf("%s: %d %v", p.request, p.status, p.body)
	}
	for _, name := range []string{"protected", "encrypted_key", "iv", "ciphertext", "tag"} {
		if text, ok := p.body[name].(string); !ok || text == "" {
			t.Errorf("no %s in %v", name, p.body)
		}
	}
	header, err := base64.RawURLEncoding.DecodeString(p.body["protected"].(string))
	must(t, err)
	if !regexp.MustCompile(`^{"alg":"ECDH-ES\+A256KW","enc":"A256GCM","epk":{"crv":"P-(256|521)","kty":"EC","x":"[A-Za-z0-9_-]+","y":"[A-Za-z0-9_-]+"}}$`).Match(header) {
		t.Errorf("header: %s", header)
	}
}
