//go:build devtee

package keybroker

import (
	"context"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
)

// tdPlatform makes quotes with the soft TD: real bytes, real signatures, a made-up Intel.
type tdPlatform struct {
	td    *softtd.Platform
	boots softtd.Boot
	known attest.Collateral
}

type tdMachine struct {
	t   testing.TB
	td  *softtd.Machine
	log []byte
}

func newDomains(t testing.TB) platform { return newTDPlatform(t) }

func newTDPlatform(t testing.TB) *tdPlatform {
	t.Helper()
	now := time.Now()
	td, err := softtd.New(softtd.Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.AMDRoots().WithSimulatedIntel(td.Root())
	if err != nil {
		t.Fatal(err)
	}
	objects, err := td.Collateral(now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	p := &tdPlatform{td: td, boots: softtd.Boot{MRTD: [48]byte{1}, Kernel: [48]byte{2}, Line: "siesta.ws=" + testWorkspace, Initrd: [48]byte{3}}}
	if p.known, err = attest.NewCollateral(roots, objects); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *tdPlatform) boot(t testing.TB) machine {
	return &tdMachine{t: t, td: p.td.Launch(func() (softtd.Boot, error) { return p.boots, nil })}
}

func (m *tdMachine) report(data [64]byte) (quote, certificates []byte) {
	var err error
	if quote, m.log, err = m.td.Quote(data); err != nil {
		m.t.Fatal(err)
	}
	return quote, nil
}

func (m *tdMachine) eventLog() []byte { return m.log }

func (p *tdPlatform) policy() attest.Policy {
	td, ppid := attest.NovaTDXPolicy(), p.td.PPID()
	_, rtmrs := p.boots.EventLog()
	td.Platforms, td.MRTDs, td.XFAM = [][]byte{ppid[:]}, [][]byte{p.boots.MRTD[:]}, attest.MaskedBits{Mask: ^uint64(0), Value: softtd.XFAM}
	td.RTMRs = [4]attest.RTMRRule{{Any: true}, {Values: [][]byte{rtmrs[1][:]}}, {Values: [][]byte{rtmrs[2][:]}}, {Values: [][]byte{make([]byte, 48)}}}
	td.CommandLine, td.Initrds = p.boots.Line, [][]byte{p.boots.Initrd[:]}
	return attest.Policy{TDX: &td, Simulated: true}
}

func (p *tdPlatform) collateral() attest.Collateral { return p.known }
func (p *tdPlatform) verifier() Verifier            { return &attest.Verifier{} }

// TestTrustDomainsReplay: what was decided of simulated trust domains, let in or not, comes out the same when it is taken
// again from what was stored, under the roots of this build and no others.
func TestTrustDomainsReplay(t *testing.T) {
	p := newTDPlatform(t)
	r := newRigOn(t, p)
	r.prepareAndArm(testWorkspace)
	grant := func(g *guest) error {
		c, req, err := g.challengeFor(door.Unlock)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := r.broker.Grant(context.Background(), g.request(c, req, ""), siteNAT)
		if err == nil && len(g.open(c, req, answer).LUKSKey) != door.LUKSKeySize {
			t.Error("no key")
		}
		return err
	}
	altered := r.boot(testWorkspace, 1)
	altered.machine.(*tdMachine).td = p.td.Launch(func() (softtd.Boot, error) {
		b := p.boots
		b.Line += " quiet"
		return b, nil
	})
	wantCode(t, grant(altered), attest.CodeRTMR)
	if err := grant(r.boot(testWorkspace, 1)); err != nil {
		t.Fatal(err)
	}

	archive := NewArchive(r.db, p.known.Roots)
	decisions, err := archive.Decisions(context.Background(), DecisionFilter{Workspace: testWorkspace, Limit: 10})
	if err != nil || len(decisions) != 2 || decisions[0].Outcome != "released" || decisions[1].Code != attest.CodeRTMR {
		t.Fatalf("%+v, %v", decisions, err)
	}
	for _, d := range decisions {
		stored, err := archive.Load(context.Background(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		if col, err := archive.Collateral(stored); err != nil || len(stored.Evidence.EventLog) == 0 || len(col.Objects()) != 6 {
			t.Errorf("%d bytes of log and %d objects are kept, %v", len(stored.Evidence.EventLog), len(col.Objects()), err)
		}
		b, err := archive.Bundle(context.Background(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReplayUnder(p.known.Roots); err != nil {
			t.Errorf("%s: %v", d.Outcome, err)
		}
		if _, err := b.Replay(); err == nil {
			t.Errorf("%s: replays under Intel's root", d.Outcome)
		}
	}
}
