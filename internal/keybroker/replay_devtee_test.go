//go:build devtee

package keybroker

import (
	"context"
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
