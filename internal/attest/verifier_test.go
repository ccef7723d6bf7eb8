package attest

import (
	"bytes"
	"testing"
)

func TestVerifierMemory(t *testing.T) {
	var v Verifier
	s, m := sienaV5(t), milan(t)
	for range 2 {
		if _, err := v.Verify(s.evidence, amd(), s.policy, s.at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Verify(m.evidence, amd(), m.policy, m.at); refused(t, err).Code != CodeIDBlock {
		t.Fatal(err)
	}
	bad := m.evidence
	bad.Certificates = file(t, "milan-v2-vcek-invalid-new.der")
	if _, err := v.Verify(bad, amd(), m.policy, m.at); refused(t, err).Code != CodeChain {
		t.Fatal(err)
	}
	if len(v.cache.chains) != 2 || v.Panics() != 0 {
		t.Errorf("%d chains in memory, want the two that were proved; %d panics", len(v.cache.chains), v.Panics())
	}
	// A chain proved under one set of roots is not proved under another.
	other := Collateral{Roots: newRoots(AMDRoots().lines[Milan])}
	if _, err := v.Verify(s.evidence, other, s.policy, s.at); refused(t, err).Code != CodeChain {
		t.Errorf("under other roots: %v", err)
	}
	// A Genoa leaf does not become Milan's by being remembered.
	claims := bytes.Clone(s.evidence.Report)
	claims[0x189] = 0x01
	moved := s.evidence
	moved.Report = claims
	_, err := v.Verify(moved, amd(), accepting(claims, Milan), s.at)
	if r := refused(t, err); r.Code != CodeChain || status(r.Checks, "report signature") != Failed {
		t.Errorf("a remembered chain of another line: %v", err)
	}
	for i := range maxCachedChains + 10 {
		v.cache.put(chainKey{leaf: [32]byte{byte(i), byte(i >> 8), 1}}, &chain{})
	}
	if len(v.cache.chains) > maxCachedChains {
		t.Errorf("%d chains in memory", len(v.cache.chains))
	}
	if _, err := v.Verify(s.evidence, amd(), s.policy, s.at); err != nil {
		t.Errorf("after its chain may have been dropped: %v", err)
	}
}

func TestPanicIsARefusal(t *testing.T) {
	var v Verifier
	s := sienaV5(t)
	// No input is known that panics; a broken root does.
	col := Collateral{Roots: &Roots{lines: map[string][]*authority{Genoa: {nil}}}}
	if _, err := v.Verify(s.evidence, col, s.policy, s.at); refused(t, err).Code != CodeFormat {
		t.Errorf("a panic below the boundary: %v", err)
	}
	if v.Panics() != 1 {
		t.Errorf("%d panics counted", v.Panics())
	}
}
