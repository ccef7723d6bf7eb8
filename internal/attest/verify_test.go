package attest

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/verify"
)

func refused(t testing.TB, err error) *Refusal {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return r
}

func status(checks []Check, name string) Status {
	for _, c := range checks {
		if c.Name == name {
			return c.Status
		}
	}
	return "absent"
}

func failedCodes(r *Refusal) string {
	var codes []string
	for _, c := range r.Checks {
		if c.Status == Failed {
			codes = append(codes, c.Code)
		}
	}
	return strings.Join(codes, " ")
}

// notAsked are the checks that a policy of the least demands leaves open, beside
// what no list of AMD's could be judged by.
var notAsked = map[string]bool{
	"certificates not revoked": true, "revocation list": true, "memory alias check": true,
	"platform configuration": true, "firmware mitigations": true, "provider of the signing key": true,
}

// TestGenuineReports gives each real report the verdict that its fields demand.
func TestGenuineReports(t *testing.T) {
	for _, s := range []sample{sienaV3(t), sienaV5(t)} {
		res, err := Verify(s.evidence, amd(), s.policy, s.at)
		if err != nil {
			t.Errorf("%s: %v\n%+v", s.name, err, refused(t, err).Checks)
			continue
		}
		if res.Product != Genoa || res.Simulated || res.GuestPolicy != NovaGuestPolicy || !bytes.Equal(res.Measurement[:], s.policy.Measurements[0]) {
			t.Errorf("%s: result %+v", s.name, res)
		}
		for _, c := range res.Checks {
			if c.Status == Failed || c.Status == NotJudged && !notAsked[c.Name] {
				t.Errorf("%s: %s: %s", s.name, c.Name, c.Status)
			}
		}
		s.policy.RequireAliasCheck = true
		if _, err := Verify(s.evidence, amd(), s.policy, s.at); err != nil {
			t.Errorf("%s, with the alias check: %v", s.name, err)
		}
	}
	// Genuine, but launched with an identity block: no policy can admit that.
	m := milan(t)
	_, err := Verify(m.evidence, amd(), m.policy, m.at)
	if r := refused(t, err); failedCodes(r) != CodeIDBlock || status(r.Checks, "report signature") != Passed || status(r.Checks, "certificate chain") != Passed {
		t.Errorf("Milan v2 fails with %q", failedCodes(r))
	}
	m.policy.RequirePolicy = NovaGuestPolicy
	_, err = Verify(m.evidence, amd(), m.policy, m.at)
	if r := refused(t, err); failedCodes(r) != "policy id_block" || r.Code != CodePolicy {
		t.Errorf("Milan v2 under Nova's policy fails with %q", failedCodes(r))
	}
}

func TestDebugGuest(t *testing.T) {
	s := debugged(t)
	_, err := Verify(s.evidence, amd(), s.policy, s.at)
	if r := refused(t, err); r.Code != CodeDebug || status(r.Checks, "report signature") != Passed {
		t.Errorf("a real debug guest: %v, failed %q", err, failedCodes(r))
	}
	s.policy.Measurements = [][]byte{bytes.Repeat([]byte{1}, 48)}
	s.policy.RequirePolicy = NovaGuestPolicy
	if _, err := Verify(s.evidence, amd(), s.policy, s.at); refused(t, err).Code != CodeDebug {
		t.Errorf("debugging must come before measurement and policy: %v", err)
	}
}

// TestWrongMeasurement is the real Milan report against a site that expects
// something else in every way; what it runs decides the code.
func TestWrongMeasurement(t *testing.T) {
	m := milan(t)
	want := NovaPolicy(map[string]TCB{Genoa: {SNP: 27}})
	want.Measurements, want.Chips, want.ReportData = [][]byte{bytes.Repeat([]byte{1}, 48)}, [][]byte{bytes.Repeat([]byte{2}, 64)}, [64]byte{3}
	_, err := Verify(m.evidence, amd(), want, m.at)
	if r := refused(t, err); r.Code != CodeMeasurement || failedCodes(r) != "measurement report_data policy id_block product chip tcb tcb tcb" {
		t.Errorf("%v, failed %q", err, failedCodes(r))
	}
	s := sienaV5(t)
	s.policy.Measurements = [][]byte{bytes.Repeat([]byte{1}, 48), bytes.Repeat([]byte{2}, 48)}
	_, err = Verify(s.evidence, amd(), s.policy, s.at)
	if r := refused(t, err); r.Code != CodeMeasurement || failedCodes(r) != CodeMeasurement {
		t.Errorf("%v, failed %q", err, failedCodes(r))
	}
}

// TestCrossProduct holds every report against the roots of every line.
func TestCrossProduct(t *testing.T) {
	all := AMDRoots().lines
	for _, s := range genuineSamples(t) {
		for _, line := range []string{Milan, Genoa, Turin} {
			// The roots of one line, passed off as those of the report's.
			a := *all[line][0]
			a.line = s.product
			_, err := Verify(s.evidence, Collateral{Roots: newRoots([]*authority{&a})}, s.policy, s.at)
			got := Passed
			var r *Refusal
			if errors.As(err, &r) {
				got = status(r.Checks, "certificate chain")
			}
			if want := map[bool]Status{true: Passed, false: Failed}[line == s.product]; got != want {
				t.Errorf("%s under the roots of %s: chain %s, want %s", s.name, line, got, want)
			}
		}
		for _, other := range genuineSamples(t) {
			if other.name == s.name {
				continue
			}
			ev := s.evidence
			ev.Certificates = other.evidence.Certificates
			_, err := Verify(ev, amd(), s.policy, s.at)
			if r := refused(t, err); status(r.Checks, "report signature") != Failed {
				t.Errorf("%s with the certificate of %s: %v", s.name, other.name, err)
			}
		}
	}
}

// TestAgreesWithTheLibrary compares with go-sev-guest's own verifier where that
// can judge at all.
func TestAgreesWithTheLibrary(t *testing.T) {
	for _, s := range genuineSamples(t) {
		leaf, err := parseLeaf(s.evidence.Certificates)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if err := verify.SnpReportSignature(s.evidence.Report, leaf.cert); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

func TestMadeUpCertificates(t *testing.T) {
	m := milan(t)
	for _, name := range []string{"milan-v2-vcek-invalid-legacy.der", "milan-v2-vcek-invalid-new.der"} {
		m.evidence.Certificates = file(t, name)
		if _, err := parseLeaf(m.evidence.Certificates); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, err := Verify(m.evidence, amd(), m.policy, m.at)
		r := refused(t, err)
		if r.Code != CodeChain || status(r.Checks, "certificate names this chip") != Failed || status(r.Checks, "certificate names the reported TCB") != Failed {
			t.Errorf("%s: %v, failed %q", name, err, failedCodes(r))
		}
	}
}

// TestTurin reads the one public Turin certificate, proves it under Turin's roots
// and no others, and refuses a report that claims to be from there.
func TestTurin(t *testing.T) {
	leaf, err := parseLeaf(file(t, "turin-vcek.der"))
	if err != nil {
		t.Fatal(err)
	}
	if leaf.line != Turin || fmt.Sprintf("%x", leaf.hwid) != "1e550a8ee5cf9f4d" || leaf.tcb != (TCB{Microcode: 9}) {
		t.Errorf("read %s %x %s", leaf.line, leaf.hwid, leaf.tcb)
	}
	chipID := append(bytes.Clone(leaf.hwid), make([]byte, 56)...)
	if !leaf.names(chipID) || leaf.names(make([]byte, 64)) {
		t.Error("the certificate names another chip")
	}
	if longer := append(bytes.Clone(leaf.hwid), 1); leaf.names(append(longer, make([]byte, 55)...)) {
		t.Error("the certificate names a chip with a longer id")
	}
	at := day("2026-11-23")
	for _, line := range []string{Milan, Genoa, Turin} {
		_, err := proveChain(leaf, AMDRoots().lines[line], at)
		if (err == nil) != (line == Turin) {
			t.Errorf("under %s: %v", line, err)
		}
	}
	pinned, err := newAuthority(Turin, file(t, "turin-cert-chain.pem"))
	if err != nil || !pinned.ark.Equal(AMDRoots().lines[Turin][0].ark) || !pinned.ask.Equal(AMDRoots().lines[Turin][0].ask) {
		t.Errorf("the chain as served is not the embedded one: %v", err)
	}
	s := sienaV5(t)
	report := bytes.Clone(s.evidence.Report)
	report[0x188], report[0x189] = 0x1a, 0x02
	s.evidence.Report = report
	_, err = Verify(s.evidence, amd(), accepting(report, Turin), s.at)
	if r := refused(t, err); r.Code != CodeChain || status(r.Checks, "report signature") != Failed {
		t.Errorf("a Siena report that says it is Turin's: %v", err)
	}
}

func TestProductLine(t *testing.T) {
	for fm, want := range map[[2]byte]string{
		{0x19, 0x00}: Milan, {0x19, 0x01}: Milan, {0x19, 0x0f}: Milan,
		{0x19, 0x10}: Genoa, {0x19, 0x11}: Genoa, {0x19, 0x1f}: Genoa, {0x19, 0xa0}: Genoa, {0x19, 0xaf}: Genoa,
		{0x1a, 0x00}: Turin, {0x1a, 0x02}: Turin, {0x1a, 0x11}: Turin,
		{0x19, 0x20}: "", {0x19, 0x9f}: "", {0x19, 0xb0}: "", {0x1a, 0x12}: "", {0x17, 0x31}: "", {0, 0}: "", {0xff, 0xff}: "",
	} {
		if got := productLine(fm[0], fm[1]); got != want {
			t.Errorf("family %#x model %#x: %q, want %q", fm[0], fm[1], got, want)
		}
	}
}

// TestZeroValuesRefuse leaves out one thing at a time.
func TestZeroValuesRefuse(t *testing.T) {
	s := sienaV5(t)
	for name, row := range map[string]struct {
		change func(*Evidence, *Collateral, *Policy, *time.Time)
		code   string
	}{
		"policy":       {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { *p = Policy{} }, CodeCollateral},
		"measurements": {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.Measurements = nil }, CodeMeasurement},
		"short measurement": {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) {
			p.Measurements = [][]byte{p.Measurements[0][:47], {}}
		}, CodeMeasurement},
		"report data":  {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.ReportData = [64]byte{} }, CodeReportData},
		"chips":        {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.Chips = nil }, CodeChip},
		"products":     {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.Products = nil }, CodeProduct},
		"floor":        {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.MinTCB = nil }, CodeTCB},
		"guest policy": {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.RequirePolicy = 0 }, CodePolicy},
		"revocation":   {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.Revocation = RevocationRequired }, CodeCollateral},
		"simulated":    {func(_ *Evidence, _ *Collateral, p *Policy, _ *time.Time) { p.Simulated = true }, CodeChain},
		"roots":        {func(_ *Evidence, c *Collateral, _ *Policy, _ *time.Time) { c.Roots = nil }, CodeChain},
		"empty roots":  {func(_ *Evidence, c *Collateral, _ *Policy, _ *time.Time) { c.Roots = &Roots{} }, CodeChain},
		"time":         {func(_ *Evidence, _ *Collateral, _ *Policy, at *time.Time) { *at = time.Time{} }, CodeCollateral},
		"before":       {func(_ *Evidence, _ *Collateral, _ *Policy, at *time.Time) { *at = day("2026-02-16") }, CodeChain},
		"after":        {func(_ *Evidence, _ *Collateral, _ *Policy, at *time.Time) { *at = day("2033-02-18") }, CodeChain},
		"evidence":     {func(e *Evidence, _ *Collateral, _ *Policy, _ *time.Time) { *e = Evidence{} }, CodeFormat},
		"TEE":          {func(e *Evidence, _ *Collateral, _ *Policy, _ *time.Time) { e.TEE = "sample" }, CodeFormat},
		"report":       {func(e *Evidence, _ *Collateral, _ *Policy, _ *time.Time) { e.Report = nil }, CodeFormat},
		"short report": {func(e *Evidence, _ *Collateral, _ *Policy, _ *time.Time) { e.Report = e.Report[:1183] }, CodeFormat},
		"long report":  {func(e *Evidence, _ *Collateral, _ *Policy, _ *time.Time) { e.Report = append(bytes.Clone(e.Report), 0) }, CodeFormat},
		"certificates": {func(e *Evidence, _ *Collateral, _ *Policy, _ *time.Time) { e.Certificates = nil }, CodeCollateral},
		"noise for them": {func(e *Evidence, _ *Collateral, _ *Policy, _ *time.Time) {
			e.Certificates = make([]byte, maxCertificatesBytes+1)
		}, CodeCollateral},
	} {
		ev, col, pol, at := s.evidence, amd(), s.policy, s.at
		row.change(&ev, &col, &pol, &at)
		var v Verifier
		if _, err := v.Verify(s.evidence, amd(), s.policy, s.at); err != nil {
			t.Fatal(err)
		}
		// With and without a chain that was proved before.
		for _, f := range []func(Evidence, Collateral, Policy, time.Time) (*Result, error){Verify, v.Verify} {
			res, err := f(ev, col, pol, at)
			if r := refused(t, err); r.Code != row.code || res != nil {
				t.Errorf("%s: %v, want code %s", name, err, row.code)
			}
		}
	}
	_, err := Verify(s.evidence, amd(), Policy{}, s.at)
	if got := failedCodes(refused(t, err)); got != "collateral measurement report_data policy product chip tcb tcb tcb" {
		t.Errorf("the zero policy fails with %q", got)
	}
}

// TestCertificateForms finds the leaf in each form in which it comes.
func TestCertificateForms(t *testing.T) {
	s := sienaV5(t)
	der := s.evidence.Certificates
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	table := func(g []byte) []byte {
		b := append(bytes.Clone(g), 72, 0, 0, 0, byte(len(der)), byte(len(der)>>8), 0, 0)
		b = append(b, bytes.Repeat([]byte{9}, 16)...)
		b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0) // an entry that points nowhere
		b = append(b, make([]byte, 24)...)
		return append(b, der...)
	}
	turin := file(t, "turin-vcek.der")
	for name, certificates := range map[string][]byte{
		"DER": der, "DER, the second": append(bytes.Clone(turin), der...),
		"PEM": block, "PEM chain": append(append([]byte("text\n"), milanPEM...), block...),
		"table": table(leafGUIDs[0]), "table, other byte order": table(leafGUIDs[1]),
	} {
		s.evidence.Certificates = certificates
		if _, err := Verify(s.evidence, amd(), s.policy, s.at); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.evidence.Certificates = nil
	col := amd()
	col.VCEKs = map[string][][]byte{ChipKey(s.policy.Chips[0]): {{1, 2, 3}, turin, der}}
	if _, err := Verify(s.evidence, col, s.policy, s.at); err != nil {
		t.Errorf("registered: %v", err)
	}
	s.evidence.Certificates = turin
	if _, err := Verify(s.evidence, amd(), s.policy, s.at); refused(t, err).Code != CodeChain {
		t.Errorf("a Turin certificate with a Siena report: %v", err)
	}
}

// TestRefusalCarriesNoEvidence looks for the report's secrets-to-be in the text
// and in all checks.
func TestRefusalCarriesNoEvidence(t *testing.T) {
	s := sienaV3(t)
	s.policy.Measurements = [][]byte{bytes.Repeat([]byte{1}, 48)}
	s.policy.ReportData = [64]byte{1}
	_, err := Verify(s.evidence, amd(), s.policy, s.at)
	r := refused(t, err)
	all, marshalErr := json.Marshal(r.Checks)
	if marshalErr != nil {
		t.Fatal(marshalErr)
	}
	data := s.evidence.Report[0x050:0x090]
	for _, secret := range []string{fmt.Sprintf("%x", data), fmt.Sprintf("%x", data[8:24]), fmt.Sprintf("%x", s.evidence.Report[0x2a0:0x2b0])} {
		if strings.Contains(string(all), secret) || strings.Contains(r.Error(), secret) {
			t.Error("the refusal quotes the report")
		}
	}
	if strings.Contains(r.Error(), fmt.Sprintf("%x", s.evidence.Report[0x090:0x098])) {
		t.Error("the error text quotes the measurement")
	}
}
