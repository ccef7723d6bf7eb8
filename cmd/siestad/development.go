//go:build devtee

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// development is what only a development build can be told.
type development struct {
	// SimulatedRoots is the file (PEM) with the roots of a simulated processor, under the product line Genoa.
	SimulatedRoots string `yaml:"simulated_roots"`
	// SimulatedIntelRoot is the file (PEM) with the root of simulated trust domains. It takes the place of Intel's.
	SimulatedIntelRoot string `yaml:"simulated_intel_root"`
	// FlowLease shortens how long a killed daemon's work stays its own, for tests that kill it often.
	FlowLease time.Duration `yaml:"flow_lease"`
}

func (d development) flowLease() time.Duration { return d.FlowLease }

var tees = []string{"sev-snp", "tdx", "simulated", "simulated-tdx"}

func (d development) roots() (*attest.Roots, error) {
	roots := attest.AMDRoots()
	if d.SimulatedRoots != "" {
		bundle, err := os.ReadFile(d.SimulatedRoots)
		if err != nil {
			return nil, fmt.Errorf("reading simulated roots: %w", err)
		}
		if roots, err = roots.WithSimulated(attest.Genoa, bundle); err != nil {
			return nil, err
		}
	}
	if d.SimulatedIntelRoot == "" {
		return roots, nil
	}
	root, err := os.ReadFile(d.SimulatedIntelRoot)
	if err != nil {
		return nil, fmt.Errorf("reading the simulated root of Intel: %w", err)
	}
	return roots.WithSimulatedIntel(root)
}

const banner = `
  ***********************************************************************
  *  DEVELOPMENT BUILD: it can trust a simulated processor.             *
  *  Workspaces on a site with tee: simulated or tee: simulated-tdx are *
  *  protected by nothing.                                              *
  ***********************************************************************
`
