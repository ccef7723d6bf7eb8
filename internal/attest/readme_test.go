package attest

import (
	"bytes"
	"testing"
	"time"
)

// TestSNPEvidence gives every file of the public SNP evidence the verdict that its
// documentation demands: reports under a policy of their own fields, under Nova's,
// and certificates and chains by themselves.
func TestSNPEvidence(t *testing.T) {
	siena3, siena3cert := rebuild(t, file(t, "siena-v3-kbs-evidence.json"))
	at := day("2026-11-23")
	for _, row := range []struct {
		file, product string
		report, cert  []byte
		genuine       bool
		own, nova     string // codes: under its own fields, under Nova's policy
	}{
		{file: "milan-v2-report.bin", product: Milan, report: file(t, "milan-v2-report.bin"), cert: file(t, "milan-v2-vcek.der"), genuine: true, own: CodeIDBlock, nova: CodePolicy},
		{file: "milan-v2-vcek-invalid-legacy.der", product: Milan, report: file(t, "milan-v2-report.bin"), cert: file(t, "milan-v2-vcek-invalid-legacy.der"), own: CodeChain, nova: CodeChain},
		{file: "milan-v2-vcek-invalid-new.der", product: Milan, report: file(t, "milan-v2-report.bin"), cert: file(t, "milan-v2-vcek-invalid-new.der"), own: CodeChain, nova: CodeChain},
		{file: "siena-v3-kbs-evidence.json", product: Genoa, report: siena3, cert: siena3cert, genuine: true},
		{file: "siena-v5-report.bin", product: Genoa, report: file(t, "siena-v5-report.bin"), cert: file(t, "siena-v5-vcek.der"), genuine: true},
		{file: "debug-v2-report.bin", product: Milan, report: file(t, "debug-v2-report.bin"), cert: file(t, "debug-v2-vcek.der"), genuine: true, own: CodeDebug, nova: CodeDebug},
	} {
		ev := Evidence{TEE: SEVSNP, Report: row.report, Certificates: row.cert}
		for name, code := range map[string]string{"its own policy": row.own, "Nova's policy": row.nova} {
			pol := accepting(row.report, row.product)
			if name == "Nova's policy" {
				pol.RequirePolicy = NovaGuestPolicy
			}
			d := Judge(ev, amd(), pol, at)
			if d.Code != code {
				t.Errorf("%s under %s: code %q, want %q", row.file, name, d.Code, code)
			}
			proved := status(d.Checks, "report signature") == Passed && status(d.Checks, "certificate chain") == Passed
			if proved != row.genuine {
				t.Errorf("%s under %s: genuine %t, want %t", row.file, name, proved, row.genuine)
			}
		}
	}
	for _, row := range []struct {
		file, line string
		chip       []byte
		tcb        TCB
		from, to   time.Time
	}{
		{"milan-v2-vcek.der", Milan, file(t, "milan-v2-report.bin")[0x1a0:0x1e0], TCB{Bootloader: 3, SNP: 8, Microcode: 0x73}, day("2023-01-24"), day("2030-01-24")},
		{"siena-v5-vcek.der", Genoa, file(t, "siena-v5-report.bin")[0x1a0:0x1e0], TCB{Bootloader: 10, SNP: 27, Microcode: 27}, day("2026-02-17"), day("2033-02-17")},
		{"turin-vcek.der", Turin, append(unhex(t, "1e550a8ee5cf9f4d"), make([]byte, 56)...), TCB{Microcode: 9}, day("2024-11-06"), day("2031-11-06")},
	} {
		leaf, err := parseLeaf(file(t, row.file))
		if err != nil {
			t.Errorf("%s: %v", row.file, err)
			continue
		}
		if leaf.line != row.line || !leaf.names(row.chip) || leaf.tcb != row.tcb {
			t.Errorf("%s: %s, %s", row.file, leaf.line, leaf.tcb)
		}
		for _, line := range []string{Milan, Genoa, Turin} {
			for when, good := range map[time.Time]bool{at: true, row.from.AddDate(0, 0, -1): false, row.to.AddDate(0, 0, 1): false} {
				_, err := proveChain(leaf, AMDRoots().lines[line], when)
				if (err == nil) != (good && line == row.line) {
					t.Errorf("%s under %s on %s: %v", row.file, line, when.Format(time.DateOnly), err)
				}
			}
		}
	}
	for line, bundle := range map[string][]byte{Milan: milanPEM, Genoa: genoaPEM, Turin: turinPEM} {
		a, err := newAuthority(line, bundle)
		if err != nil || a.asvk == nil || a.asvk.CheckSignatureFrom(a.ark) != nil {
			t.Errorf("the chain of %s: %v", line, err)
		}
		for _, other := range []string{Milan, Genoa, Turin} {
			if _, err := newAuthority(other, bundle); (err == nil) != (other == line) {
				t.Errorf("the chain of %s as that of %s: %v", line, other, err)
			}
		}
	}
	if served := file(t, "turin-cert-chain.pem"); AMDRoots().known(served) != nil || bytes.Equal(served, turinPEM) {
		t.Error("Turin's chain as served is not the pinned one")
	}
}
