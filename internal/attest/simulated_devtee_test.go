//go:build devtee

package attest

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
)

// TestSimulatedIntel: under the roots of a demonstration a simulated quote is judged as every quote is, and passes with a
// policy for simulated hardware alone; what is genuine does not pass at all.
func TestSimulatedIntel(t *testing.T) {
	s := newSoftTD(t)
	roots, err := AMDRoots().WithSimulatedIntel(s.pem(s.root.cert))
	if err != nil {
		t.Fatal(err)
	}
	col, err := NewCollateral(roots, s.objects())
	if err != nil {
		t.Fatal(err)
	}
	ev := Evidence{TEE: TDX, Report: s.quote()}
	if res, r := judged(t, ev, col, s.policy(), s.now); r != nil || !res.Simulated {
		t.Errorf("a simulated quote: %v", r)
	}
	b := NewBundle(ev, col, s.policy(), s.now)
	if d, err := b.ReplayUnder(roots); err != nil || d.Outcome != Accepted || !d.Simulated {
		t.Errorf("replayed: %s, simulated %t, %v", d.Outcome, d.Simulated, err)
	}
	if _, err := b.Replay(); err == nil {
		t.Error("the decision replays under Intel's root")
	}
	pol := s.policy()
	pol.Simulated = false
	if _, r := judged(t, ev, col, pol, s.now); r == nil || !slices.Equal(failed(r), []string{tdxTable[tdxHardware].Name}) {
		t.Errorf("a simulated quote under a policy for genuine ones: %v", failed(r))
	}
	for _, o := range s.objects() {
		chain := s.pem(s.signer, s.root.cert)
		if o.Kind == KindPCKCRL {
			chain = s.pem(s.ca, s.root.cert)
		}
		if _, err := roots.Prove(o, chain, s.now); err != nil {
			t.Error(err)
		}
		if _, err := AMDRoots().Prove(o, chain, s.now); err == nil {
			t.Errorf("%s of a simulated Intel is proved under the pinned root", o.Kind)
		}
	}

	genuine := june2025(t)
	if _, err := NewCollateral(roots, genuine.Objects()); err == nil {
		t.Error("genuine collateral is read under a simulated root")
	}
	ev = Evidence{TEE: TDX, Report: tdxFile(t, "v4-quote-uptodate.dat")}
	for _, simulated := range []bool{false, true} {
		pol.Simulated = simulated
		if _, r := judged(t, ev, col, pol, s.now); r == nil || r.Code != CodeChain || !slices.Contains(failed(r), tdxTable[tdxChain].Name) {
			t.Errorf("a genuine quote under a simulated root: %v", failed(r))
		}
		_, r := judged(t, ev, Collateral{Roots: roots}, pol, s.now)
		if !slices.Contains(failed(r), tdxTable[tdxChain].Name) {
			t.Errorf("and without collateral: %v", failed(r))
		}
		_, r = judged(t, ev, Collateral{Roots: AMDRoots(), TDX: genuine}, pol, s.now)
		if slices.Contains(failed(r), tdxTable[tdxHardware].Name) != simulated {
			t.Errorf("under its own root, with a policy that says simulated %t: %v", simulated, failed(r))
		}
	}
}

// TestSimulatedRootsTogether: a development build has both makers' demonstrations, in either order, and the roots that it
// began with stay what they were.
func TestSimulatedRootsTogether(t *testing.T) {
	s := newSoftTD(t)
	root := s.pem(s.root.cert)
	intel, err := AMDRoots().WithSimulatedIntel(root)
	if err != nil {
		t.Fatal(err)
	}
	both, err := intel.WithSimulated(Genoa, genoaPEM)
	if err != nil {
		t.Fatal(err)
	}
	amd, err := AMDRoots().WithSimulated(Genoa, genoaPEM)
	if err != nil {
		t.Fatal(err)
	}
	also, err := amd.WithSimulatedIntel(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Roots{both, also} {
		if !r.intelRoot().simulated || len(r.lines[Genoa]) != 2 || len(r.lines[Milan]) != 1 {
			t.Errorf("simulated root of Intel %t, %d chains of Genoa", r.intelRoot().simulated, len(r.lines[Genoa]))
		}
	}
	for _, r := range []*Roots{AMDRoots(), amd, nil, {}} {
		if r.intelRoot() != pinnedIntelRoot() || r.intelRoot().simulated {
			t.Error("roots without a simulated one of Intel have it")
		}
	}
}

func TestSimulatedIntelRefusals(t *testing.T) {
	s := newSoftTD(t)
	named := func(name string, change func(*x509.Certificate)) []byte {
		return s.pem(s.certificate(9, name, nil, s.rootKey, s.rootKey, change))
	}
	other := s.certificate(8, nameRootCA, nil, s.caKey, s.caKey, nil)
	for what, c := range map[string]struct {
		root []byte
		want string
	}{
		"nothing":          {nil, "not 1 certificates"},
		"Intel's own":      {intelPEM, "Intel's own"},
		"two roots":        {s.pem(s.root.cert, s.root.cert), "not 1 certificates"},
		"a CA below it":    {s.pem(s.ca), "no root"},
		"a leaf":           {s.pem(s.pck), "no root"},
		"another name":     {named(namePlatformCA, nil), "no root"},
		"no CA":            {named(nameRootCA, func(c *x509.Certificate) { c.IsCA = false }), "no root"},
		"not self-signed":  {s.pem(s.certificate(9, nameRootCA, other, s.caKey, s.rootKey, nil)), "no root"},
		"something behind": {append(s.pem(s.root.cert), 'x'), "not 1 certificates"},
	} {
		if r, err := AMDRoots().WithSimulatedIntel(c.root); err == nil || r != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
