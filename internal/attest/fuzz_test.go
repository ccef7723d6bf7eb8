package attest

import (
	"encoding/json"
	"errors"
	"testing"
)

// FuzzVerify feeds everything that a guest sends. Whatever comes, the answer is a
// result or a refusal, and nothing panics on the way.
func FuzzVerify(f *testing.F) {
	for _, s := range genuineSamples(f) {
		f.Add(s.evidence.Report, s.evidence.Certificates)
	}
	f.Add(file(f, "milan-v2-report.bin"), file(f, "turin-vcek.der"))
	f.Add(file(f, "siena-v5-report.bin"), milanPEM)
	s := sienaV5(f)
	var v Verifier
	f.Fuzz(func(t *testing.T, report, certificates []byte) {
		res, err := v.Verify(Evidence{TEE: SEVSNP, Report: report, Certificates: certificates}, amd(), s.policy, s.at)
		var r *Refusal
		switch {
		case err == nil && res == nil, err != nil && (res != nil || !errors.As(err, &r) || r.Code == ""):
			t.Errorf("neither result nor refusal: %v, %v", res, err)
		}
		if v.Panics() != 0 {
			t.Fatal("a panic below the boundary")
		}
	})
}

func FuzzVCEK(f *testing.F) {
	for _, name := range []string{"milan-v2-vcek.der", "milan-v2-vcek-invalid-new.der", "siena-v5-vcek.der", "turin-vcek.der"} {
		f.Add(file(f, name))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, c := range splitCertificates(der) {
			if v, err := parseLeaf(c); err == nil && (v.key == nil || len(v.hwid) == 0 || v.line == "") {
				t.Error("half a certificate was read")
			}
		}
	})
}

func FuzzPolicy(f *testing.F) {
	data, err := json.Marshal(somePolicy())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, again Policy
		if json.Unmarshal(data, &p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &again); err != nil || p.Hash() != again.Hash() {
			t.Errorf("a policy that was read cannot be read again: %v", err)
		}
	})
}
