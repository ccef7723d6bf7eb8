//go:build devtee

package keybroker

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
)

// TestBundlesReplay: whatever the broker decided, accepted or refused by the verifier or by a fact, comes out the same when
// it is taken again from what was stored.
func TestBundlesReplay(t *testing.T) {
	r, p := newPSPRig(t)
	list, err := p.psp.RevocationList(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	crls, err := attest.ParseCRLs(p.roots, list)
	if err != nil {
		t.Fatal(err)
	}
	chip := p.psp.ChipID()
	collateral := attest.Collateral{Roots: p.roots, CRLs: crls, VCEKs: map[string][][]byte{attest.ChipKey(chip[:]): {p.psp.VCEK()}}}
	r.broker.Collateral = func(context.Context, CollateralQuery) (attest.Collateral, error) { return collateral, nil }
	g, _, _ := r.ready(testWorkspace)
	if _, _, err := g.grant(door.Renew); err != nil {
		t.Fatal(err)
	}
	g.machine.(*pspMachine).measurement[0]++
	_, _, err = g.grant(door.Renew)
	wantCode(t, err, attest.CodeMeasurement)
	g.machine.(*pspMachine).measurement[0]--
	r.exec(freezeSQL("project", testProject))
	_, _, err = g.grant(door.Renew)
	wantCode(t, err, CodeFreeze)

	archive := NewArchive(r.db, p.roots)
	decisions, err := archive.Decisions(context.Background(), DecisionFilter{Workspace: testWorkspace, Limit: 10})
	if err != nil || len(decisions) != 4 {
		t.Fatalf("%d decisions, %v", len(decisions), err)
	}
	var got []string
	for _, d := range decisions {
		b, err := archive.Bundle(context.Background(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Collateral) != 2 {
			t.Errorf("%d objects of collateral are kept, want certificate and list", len(b.Collateral))
		}
		again, err := b.ReplayUnder(p.roots)
		if err != nil {
			t.Errorf("%s %s: %v", d.Purpose, d.Code, err)
		}
		got = append(got, d.Purpose+" "+d.Outcome+" "+d.Code+": "+again.Outcome+" "+again.Code)
	}
	want := []string{
		"renew refused freeze: accepted ", "renew refused measurement: refused measurement", "renew renewed : accepted ", "unlock released : accepted ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	standing, err := archive.Standing(context.Background())
	if err != nil || len(standing) != 1 || standing[0].Decision != decisions[2].ID || standing[0].Lease == "" {
		t.Errorf("%+v, %v", standing, err)
	}
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.EndLease(context.Background(), tx, testWorkspace, "test") }); err != nil {
		t.Fatal(err)
	}
	if standing, err = archive.Standing(context.Background()); err != nil || standing[0].Lease != "" || standing[0].Chip == "" {
		t.Errorf("%+v, %v", standing, err)
	}
}

// Of what a guest calls its certificates, none but the one that it was judged by is kept, and the decision comes out the
// same without the others.
func TestOnlyTheJudgedCertificateIsKept(t *testing.T) {
	stuffed := func(p *pspPlatform) []byte {
		other, err := x509.ParseCertificate(newPSP(t).VCEK()) // of another chip's maker, and before the right one
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(other.Raw, p.psp.VCEK(), []byte{0x04, 0x82, 0x60, 0x00}, make([]byte, 0x6000)) // and an OCTET STRING
	}
	inPEM := func(p *pspPlatform) []byte {
		return slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.psp.VCEK()}), make([]byte, 20<<10))
	}
	vcek := func(p *pspPlatform) []byte { return p.psp.VCEK() }
	nothing := func(*pspPlatform) []byte { return nil }
	for name, row := range map[string]struct {
		registered       bool
		sent, kept       func(p *pspPlatform) []byte
		refusedWith      string
		otherMeasurement bool
	}{
		"a chain with more in it":         {false, stuffed, vcek, "", false},
		"PEM":                             {false, inPEM, vcek, "", false},
		"none is needed":                  {true, stuffed, nothing, "", false},
		"none is readable":                {false, func(*pspPlatform) []byte { return make([]byte, 30<<10) }, nothing, attest.CodeCollateral, false},
		"refused, for something else":     {false, stuffed, vcek, attest.CodeMeasurement, true},
		"refused, and none was looked at": {true, stuffed, nothing, attest.CodeMeasurement, true},
	} {
		t.Run(name, func(t *testing.T) {
			r, p := newPSPRig(t)
			if row.registered {
				chip := p.psp.ChipID()
				known := attest.Collateral{Roots: p.roots, VCEKs: map[string][][]byte{attest.ChipKey(chip[:]): {p.psp.VCEK()}}}
				r.broker.Collateral = func(context.Context, CollateralQuery) (attest.Collateral, error) { return known, nil }
			}
			r.prepareAndArm(testWorkspace)
			g := r.boot(testWorkspace, 1)
			if row.otherMeasurement {
				g.machine.(*pspMachine).measurement[0]++
			}
			c, req, err := g.challengeFor(door.Unlock)
			if err != nil {
				t.Fatal(err)
			}
			request := g.request(c, req, "")
			request.Evidence.Certificates = row.sent(p)
			if _, err = r.broker.Grant(context.Background(), request, siteNAT); row.refusedWith != "" {
				wantCode(t, err, row.refusedWith)
			} else if err != nil {
				t.Fatal(err)
			}
			archive := NewArchive(r.db, p.roots)
			decisions, err := archive.Decisions(context.Background(), DecisionFilter{Workspace: testWorkspace, Limit: 2})
			if err != nil || len(decisions) != 1 {
				t.Fatalf("%d decisions, %v", len(decisions), err)
			}
			b, err := archive.Bundle(context.Background(), decisions[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Evidence.Certificates, row.kept(p)) {
				t.Errorf("%d bytes of certificates are kept, want %d", len(b.Evidence.Certificates), len(row.kept(p)))
			}
			if _, err := b.ReplayUnder(p.roots); err != nil {
				t.Error(err)
			}
			// The audit entry names the very evidence that is kept.
			if n := r.count(`SELECT count(*) FROM audit_entry WHERE action = 'key.release' AND convert_from(body, 'UTF8') LIKE '%' || $1 || '%'`, b.Evidence.Digest().String()); n != 1 {
				t.Error("the entry names other evidence")
			}
		})
	}
}
