package attest

import (
	"encoding/json"
	"testing"
	"time"
)

// FuzzCRLs reads revocation lists. No list that is not a root's can be made by
// bending one, so whatever is read must be a root's own.
func FuzzCRLs(f *testing.F) {
	f.Add(file(f, "tdx/pck-crl-platform.der"))
	f.Add(file(f, "tdx/root-ca-crl.der"))
	f.Fuzz(func(t *testing.T, der []byte) {
		if c, err := ParseCRLs(AMDRoots(), der); err == nil && len(c.byRoot) == 0 {
			t.Error("a list was read for no root")
		}
	})
}

// FuzzChain reads chains as AMD's service sends them. Only AMD's own are known.
func FuzzChain(f *testing.F) {
	for _, pem := range [][]byte{milanPEM, genoaPEM, turinPEM, file(f, "turin-cert-chain.pem")} {
		f.Add(pem)
	}
	f.Fuzz(func(t *testing.T, bundle []byte) {
		for _, line := range []string{Milan, Genoa, Turin} {
			if a, err := newAuthority(line, bundle); err == nil && (a.ask == nil || a.ark == nil) {
				t.Error("half an authority was read")
			}
		}
		_ = AMDRoots().known(bundle)
	})
}

// FuzzBundle reads decision bundles and replays them. A bundle that was read can
// be written and read again, and its replay ends in a decision or an error.
func FuzzBundle(f *testing.F) {
	for _, s := range []sample{sienaV5(f), milan(f)} {
		data, err := json.Marshal(NewBundle(s.evidence, amd(), s.policy, s.at))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var b, again Bundle
		if json.Unmarshal(data, &b) != nil {
			return
		}
		out, err := json.Marshal(b)
		if err != nil {
			return // a year of five digits has no JSON form
		}
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("a bundle that was read cannot be read again: %v", err)
		}
		if d, err := again.Replay(); err == nil && d.Outcome == Accepted && d.Evidence != b.Evidence.Digest() {
			t.Error("another decision")
		}
	})
}

// FuzzObjects reads collateral of every kind.
func FuzzObjects(f *testing.F) {
	f.Add(KindVCEK, file(f, "siena-v5-vcek.der"))
	f.Add(KindVCEK, file(f, "turin-vcek.der"))
	f.Add(KindVLEK, file(f, "milan-v2-vcek.der"))
	f.Add(KindAMDChain, genoaPEM)
	f.Add(KindAMDCRL, file(f, "tdx/root-ca-crl.der"))
	f.Add(KindTCBInfo, file(f, "tdx/tcbinfo-50806f000000.json"))
	f.Add(KindPCKCRL, file(f, "tdx/pck-crl-platform.der"))
	at := time.Date(2026, 3, 20, 0, 0, 0, 0, time.UTC)
	s := sienaV5(f)
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		c, err := NewCollateral(AMDRoots(), []Object{{kind, data}})
		if err != nil {
			return
		}
		for _, o := range c.Objects() {
			if o.Kind != kind {
				t.Errorf("%s was read as %s", kind, o.Kind)
			}
		}
		_, _ = Verify(s.evidence, c, s.policy, at)
	})
}
