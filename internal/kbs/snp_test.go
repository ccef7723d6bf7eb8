package kbs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSNPEvidenceIsGenuine rebuilds every recorded report, the real one included,
// and checks that the chip's own certificate, first in the chain, proves it.
func TestSNPEvidenceIsGenuine(t *testing.T) {
	evidence := map[string]kbs.Evidence{}
	e, err := kbs.ParseEvidence("snp", file(t, "siena-v3-kbs-evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	evidence["siena"] = e
	for _, name := range recordings(t) {
		for i, a := range attempts(t, name) {
			if a.tee != "snp" {
				continue
			}
			body, err := kbs.ParseAttest(a.body)
			if err != nil {
				t.Fatal(err)
			}
			if evidence[fmt.Sprint(name, i)], err = body.Evidence("snp"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(evidence) != 9 {
		t.Fatalf("%d pieces of evidence", len(evidence))
	}
	for name, e := range evidence {
		certificates := e.Certificates
		if e.SVSM { // AMD's table: entries of GUID, offset, length; the VCEK's GUID is 63da758d-…
			i := bytes.Index(certificates, []byte{0x63, 0xda, 0x75, 0x8d})
			at, n := binary.LittleEndian.Uint32(certificates[i+16:]), binary.LittleEndian.Uint32(certificates[i+20:])
			certificates = certificates[at : at+n]
		}
		var first asn1.RawValue
		if _, err := asn1.Unmarshal(certificates, &first); err != nil {
			t.Fatal(name, err)
		}
		leaf, err := x509.ParseCertificate(first.FullBytes)
		if err != nil {
			t.Fatal(name, err)
		}
		number := func(b []byte) *big.Int {
			b = slices.Clone(b)
			slices.Reverse(b)
			return new(big.Int).SetBytes(b)
		}
		digest := sha512.Sum384(e.Report[:0x2a0])
		key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
		if !ok || !ecdsa.Verify(key, digest[:], number(e.Report[0x2a0:0x2e8]), number(e.Report[0x2e8:0x330])) {
			t.Errorf("%s: the signature does not hold", name)
		}
		if e.TEE != "sev-snp" { // the word of decisions
			t.Errorf("%s: named %q", name, e.TEE)
		}
	}
}

// clientJSON writes a report as the stock attester does: members sorted, bytes as
// integers, what is absent as null.
func clientJSON(report []byte) map[string]any {
	list := func(b []byte) []int {
		out := make([]int, len(b))
		for i, x := range b {
			out[i] = int(x)
		}
		return out
	}
	le32 := func(at int) uint32 { return binary.LittleEndian.Uint32(report[at:]) }
	le64 := func(at int) uint64 { return binary.LittleEndian.Uint64(report[at:]) }
	version := le32(0)
	m := map[string]any{
		"version": version, "guest_svn": le32(4), "policy": le64(8), "vmpl": le32(0x30), "sig_algo": le32(0x34),
		"plat_info": le64(0x40), "key_info": le32(0x48),
		"signature":    map[string]any{"r": list(report[0x2a0:0x2e8]), "s": list(report[0x2e8:0x330])},
		"cpuid_fam_id": nil, "cpuid_mod_id": nil, "cpuid_step": nil, "launch_mit_vector": nil, "current_mit_vector": nil,
	}
	for name, at := range map[string][2]int{
		"family_id": {0x10, 16}, "image_id": {0x20, 16}, "report_data": {0x50, 64}, "measurement": {0x90, 48},
		"host_data": {0xc0, 32}, "id_key_digest": {0xe0, 48}, "author_key_digest": {0x110, 48},
		"report_id": {0x140, 32}, "report_id_ma": {0x160, 32}, "chip_id": {0x1a0, 64},
	} {
		m[name] = list(report[at[0] : at[0]+at[1]])
	}
	for name, at := range map[string]int{"current": 0x1e8, "committed": 0x1ec} {
		m[name] = map[string]any{"build": report[at], "minor": report[at+1], "major": report[at+2]}
	}
	turin := version >= 3 && report[0x188] == 0x1a
	for name, at := range map[string]int{"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1e0, "launch_tcb": 0x1f0} {
		b := report[at : at+8]
		if turin {
			m[name] = map[string]any{"fmc": b[0], "bootloader": b[1], "tee": b[2], "snp": b[3], "microcode": b[7]}
		} else {
			m[name] = map[string]any{"fmc": nil, "bootloader": b[0], "tee": b[1], "snp": b[6], "microcode": b[7]}
		}
	}
	if version >= 3 {
		m["cpuid_fam_id"], m["cpuid_mod_id"], m["cpuid_step"] = report[0x188], report[0x189], report[0x18a]
	}
	if version >= 5 {
		m["launch_mit_vector"], m["current_mit_vector"] = le64(0x1f8), le64(0x200)
	}
	return m
}

func snpEvidence(t testing.TB, report map[string]any) []byte {
	data, err := json.Marshal(map[string]any{"attestation_report": report, "cert_chain": nil})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSNPReportRoundTrip(t *testing.T) {
	for _, name := range []string{"milan-v2-report.bin", "siena-v5-report.bin"} {
		want := file(t, name)
		e, err := kbs.ParseEvidence("sev-snp", snpEvidence(t, clientJSON(want)))
		if err != nil || !bytes.Equal(e.Report, want) || len(e.Certificates) != 0 {
			t.Errorf("%s: rebuilt differently: %v", name, err)
		}
	}
}

// reserved bytes of versions 2 to 5, which the client's form has no member for.
func clearReserved(b []byte) {
	version := binary.LittleEndian.Uint32(b)
	for _, r := range [][2]int{{0x4c, 0x50}, {0x18b, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, 0x2a0}, {0x330, 0x4a0}} {
		clear(b[r[0]:r[1]])
	}
	if version < 3 {
		clear(b[0x188:0x18b])
	}
	if version < 5 {
		clear(b[0x1f8:0x208])
	}
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		if version >= 3 && b[0x188] == 0x1a {
			clear(b[at+4 : at+7])
		} else {
			clear(b[at+2 : at+6])
		}
	}
}

func TestSNPReportRoundTripOfAnything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 1184, 1184).Draw(rt, "report")
		binary.LittleEndian.PutUint32(b, rapid.Uint32Range(2, 5).Draw(rt, "version"))
		b[0x188] = rapid.SampledFrom([]byte{0x19, 0x1a}).Draw(rt, "family")
		clearReserved(b)
		e, err := kbs.ParseEvidence("snp", snpEvidence(t, clientJSON(b)))
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(e.Report, b) {
			rt.Fatal("rebuilt differently")
		}
	})
}

// turin is a report of a family that no public sample exists of.
func turin(t testing.TB) []byte {
	b := slices.Clone(file(t, "siena-v5-report.bin"))
	b[0x188], b[0x189] = 0x1a, 0x02
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(b[at:], []byte{1, 2, 3, 4, 0, 0, 0, 9})
	}
	return b
}

func TestTurinTCBLayout(t *testing.T) {
	want := turin(t)
	e, err := kbs.ParseEvidence("snp", snpEvidence(t, clientJSON(want)))
	if err != nil || !bytes.Equal(e.Report, want) {
		t.Fatalf("rebuilt differently: %v", err)
	}
}

func TestSNPReportOptionalMembers(t *testing.T) {
	want := slices.Clone(file(t, "siena-v5-report.bin"))
	clear(want[0x1f8:0x208])
	m := clientJSON(want)
	delete(m, "launch_mit_vector")
	delete(m, "current_mit_vector")
	for _, name := range []string{"current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"} {
		delete(m[name].(map[string]any), "fmc")
	}
	e, err := kbs.ParseEvidence("snp", snpEvidence(t, m))
	if err != nil || !bytes.Equal(e.Report, want) {
		t.Errorf("without optional members: %v", err)
	}
	m["new_in_version_9"] = 1
	if e, err = kbs.ParseEvidence("snp", snpEvidence(t, m)); err != nil || e.Unknown != 1 || !bytes.Equal(e.Report, want) {
		t.Errorf("with an unknown member: %v, %d unknown", err, e.Unknown)
	}
}

// TestSNPReportRefusals: every member is needed, has its width, and agrees with
// the version and the processor.
func TestSNPReportRefusals(t *testing.T) {
	v5 := func() map[string]any { return clientJSON(file(t, "siena-v5-report.bin")) }
	optional := []string{"launch_mit_vector", "current_mit_vector"}
	for name := range v5() {
		if slices.Contains(optional, name) {
			continue
		}
		m := v5()
		delete(m, name)
		if _, err := kbs.ParseEvidence("snp", snpEvidence(t, m)); err == nil {
			t.Errorf("accepted without %s", name)
		}
	}
	tcb := func(m map[string]any) map[string]any { return m["launch_tcb"].(map[string]any) }
	for name, change := range map[string]func(m map[string]any){
		"version above 32 bits":                func(m map[string]any) { m["version"] = uint64(1) << 32 },
		"policy above 64 bits":                 func(m map[string]any) { m["policy"] = json.Number("18446744073709551616") },
		"policy as a float":                    func(m map[string]any) { m["policy"] = json.Number("196608.0") },
		"policy with an exponent":              func(m map[string]any) { m["policy"] = json.Number("1e3") },
		"policy as text":                       func(m map[string]any) { m["policy"] = "196608" },
		"negative":                             func(m map[string]any) { m["vmpl"] = -1 },
		"negative zero":                        func(m map[string]any) { m["vmpl"] = json.Number("-0") },
		"a byte of 256":                        func(m map[string]any) { m["report_data"].([]int)[0] = 256 },
		"63 bytes of report data":              func(m map[string]any) { m["report_data"] = m["report_data"].([]int)[:63] },
		"65 bytes of report data":              func(m map[string]any) { m["report_data"] = append(m["report_data"].([]int), 0) },
		"no bytes of report data":              func(m map[string]any) { m["report_data"] = []int{} },
		"null measurement":                     func(m map[string]any) { m["measurement"] = nil },
		"r of 48 bytes":                        func(m map[string]any) { s := m["signature"].(map[string]any); s["r"] = s["r"].([]int)[:48] },
		"no s":                                 func(m map[string]any) { delete(m["signature"].(map[string]any), "s") },
		"no major":                             func(m map[string]any) { delete(m["current"].(map[string]any), "major") },
		"no tee in a TCB":                      func(m map[string]any) { delete(tcb(m), "tee") },
		"fmc without FMC":                      func(m map[string]any) { tcb(m)["fmc"] = 0 },
		"Turin without fmc":                    func(m map[string]any) { m["cpuid_fam_id"] = 0x1a },
		"unknown family":                       func(m map[string]any) { m["cpuid_fam_id"] = 0x1b },
		"version 5 without stepping":           func(m map[string]any) { m["cpuid_step"] = nil },
		"version 5 without model":              func(m map[string]any) { m["cpuid_mod_id"] = nil },
		"version 5 without family":             func(m map[string]any) { m["cpuid_fam_id"] = nil },
		"version 2 with processor":             func(m map[string]any) { m["version"], m["launch_mit_vector"], m["current_mit_vector"] = 2, nil, nil },
		"version 3 with mitigations at launch": func(m map[string]any) { m["version"], m["current_mit_vector"] = 3, nil },
		"version 3 with mitigations now":       func(m map[string]any) { m["version"], m["launch_mit_vector"] = 3, nil },
		"family of two bytes":                  func(m map[string]any) { m["cpuid_fam_id"] = 0x119 },
		"version zero, with processor":         func(m map[string]any) { m["version"] = 0 },
	} {
		m := v5()
		change(m)
		if e, err := kbs.ParseEvidence("snp", snpEvidence(t, m)); err == nil || e.Report != nil {
			t.Errorf("accepted: %s", name)
		}
	}
	// The policy's top bit would be lost in a float64.
	m := v5()
	m["policy"] = json.Number("9223372036854775809")
	e, err := kbs.ParseEvidence("snp", snpEvidence(t, m))
	if err != nil || binary.LittleEndian.Uint64(e.Report[8:]) != 1<<63|1 {
		t.Errorf("64-bit policy: %v", err)
	}
}

func TestCertChain(t *testing.T) {
	report := clientJSON(file(t, "siena-v5-report.bin"))
	parse := func(chain any) (kbs.Evidence, error) {
		data, err := json.Marshal(map[string]any{"attestation_report": report, "cert_chain": chain})
		if err != nil {
			t.Fatal(err)
		}
		return kbs.ParseEvidence("snp", data)
	}
	entry := func(kind any, data ...int) map[string]any {
		return map[string]any{"cert_type": kind, "data": append([]int{}, data...)}
	}

	e, err := parse([]any{
		entry("ARK", 1), entry("CRL", 2), entry("Empty"), entry(map[string]string{"OTHER": "3d0c…"}, 3), entry("VCEK", 4), entry("ASK", 5), entry("VLEK", 6),
	})
	if err != nil || !bytes.Equal(e.Certificates, []byte{4, 6, 1, 5}) {
		t.Errorf("leaves first, only certificates: %v, %v", e.Certificates, err)
	}
	if e, err = parse([]any{}); err != nil || len(e.Certificates) != 0 {
		t.Errorf("empty chain: %v", err)
	}
	long := make([]int, 8<<10+1)
	for name, chain := range map[string]any{
		"17 entries":         slices.Repeat([]any{entry("ASK", 1)}, 17),
		"a long certificate": []any{entry("VCEK", long...)},
		"a long chain":       slices.Repeat([]any{entry("ASK", long[1:]...)}, 9),
		"no kind":            []any{map[string]any{"data": []int{1}}},
		"no data":            []any{map[string]any{"cert_type": "VCEK"}},
		"data in base64":     []any{map[string]any{"cert_type": "VCEK", "data": "MAA="}},
		"kind of another":    []any{entry(map[string]string{"ELSE": "x"}, 1)},
		"not a list":         "none",
	} {
		if _, err := parse(chain); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

func TestEvidenceForms(t *testing.T) {
	report := base64.StdEncoding.EncodeToString(make([]byte, 1184))
	short := base64.StdEncoding.EncodeToString(make([]byte, 1183))
	for _, c := range []struct {
		name, tee, evidence string
		ok                  bool
	}{
		{"SVSM", "snp", `{"snp-report":"` + report + `","certs-buf":null}`, true},
		{"SVSM with a table", "snp", `{"snp-report":"` + report + `","certs-buf":"AAAA"}`, true},
		{"SVSM without certificates", "snp", `{"snp-report":"` + report + `"}`, true},
		{"SVSM, short", "snp", `{"snp-report":"` + short + `"}`, false},
		{"SVSM, unpadded", "snp", `{"snp-report":"` + strings.TrimRight(report, "=") + `"}`, false},
		{"SVSM, table in another form", "snp", `{"snp-report":"` + report + `","cert_chain":[]}`, false},
		{"nothing", "snp", `{}`, false},
		{"null report", "snp", `{"attestation_report":null}`, false},
		{"TDX", "tdx", `{"cc_eventlog":null,"quote":"AAAA"}`, true},
		{"TDX with log", "tdx", `{"cc_eventlog":"AAAA","quote":"AAAA"}`, true},
		{"TDX without log", "tdx", `{"quote":"AAAA"}`, true},
		{"TDX without quote", "tdx", `{"cc_eventlog":"AAAA"}`, false},
		{"TDX, null quote", "tdx", `{"quote":null}`, false},
		{"TDX, line break", "tdx", `{"quote":"AA\nAA"}`, false},
		{"TDX, padding bits", "tdx", `{"quote":"AB=="}`, false},
		{"TDX, url alphabet", "tdx", `{"quote":"__--"}`, false},
		{"TDX, long quote", "tdx", `{"quote":"` + strings.Repeat("AAAA", 1<<16/3+1) + `"}`, false},
		{"SNP as TDX", "tdx", `{"snp-report":"` + report + `"}`, false},
		{"TDX as SNP", "snp", `{"quote":"AAAA"}`, false},
		{"trailing", "tdx", `{"quote":"AAAA"}{}`, false},
		{"twice", "tdx", `{"quote":"AAAA","quote":"AAAA"}`, false},
		{"another case", "tdx", `{"Quote":"AAAA"}`, false},
		{"sample", "sample", `{"svn":"1","report_data":""}`, false},
		{"sampledevice", "sampledevice", `{}`, false},
		{"no tee", "", `{"quote":"AAAA"}`, false},
		{"cca", "cca", `{"quote":"AAAA"}`, false},
		{"SNP in capitals", "SNP", `{"snp-report":"` + report + `"}`, false},
	} {
		e, err := kbs.ParseEvidence(c.tee, json.RawMessage(c.evidence))
		if (err == nil) != c.ok {
			t.Errorf("%s: accepted %v: %v", c.name, err == nil, err)
		}
		if err != nil && (e.TEE != "" || e.Report != nil) {
			t.Errorf("%s: refused and returned", c.name)
		}
		if err == nil && e.SVSM != strings.HasPrefix(c.name, "SVSM") {
			t.Errorf("%s: SVSM %v", c.name, e.SVSM)
		}
	}
}
