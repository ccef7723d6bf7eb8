//go:build devtee

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
)

// TestDevelopmentRoots: a development build trusts the simulated hardware whose roots it is told, of either maker or of
// both, and no other.
func TestDevelopmentRoots(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	psp, err := softpsp.New(softpsp.Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	td, err := softtd.New(softtd.Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := td.Collateral(now, now.AddDate(0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	amd, intel := file("amd.pem", psp.Roots()), file("intel.pem", td.Root())
	for name, row := range map[string]struct {
		development
		amd, intel bool
	}{
		"neither": {},
		"AMD":     {development{SimulatedRoots: amd}, true, false},
		"Intel":   {development{SimulatedIntelRoot: intel}, false, true},
		"both":    {development{SimulatedRoots: amd, SimulatedIntelRoot: intel}, true, true},
	} {
		roots, err := row.roots()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := roots.Prove(attest.Object{Kind: attest.KindVCEK, Bytes: psp.VCEK()}, nil, now); (err == nil) != row.amd {
			t.Errorf("%s: a simulated processor: %v", name, err)
		}
		if _, err := attest.NewCollateral(roots, objects); (err == nil) != row.intel {
			t.Errorf("%s: a simulated Intel: %v", name, err)
		}
	}
	for _, d := range []development{{SimulatedIntelRoot: filepath.Join(t.TempDir(), "absent")}, {SimulatedIntelRoot: amd}, {SimulatedRoots: intel}} {
		if _, err := d.roots(); err == nil || !strings.Contains(err.Error(), "simulated root") {
			t.Errorf("%+v: %v", d, err)
		}
	}
}
