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
	// The root of a simulated Intel is to be named here. Without one no quote of a site with tee: simulated-tdx is accepted.

	// FlowLease shortens how long a killed daemon's work stays its own, for tests that kill it often.
	FlowLease time.Duration `yaml:"flow_lease"`
}

func (d development) flowLease() time.Duration { return d.FlowLease }

var tees = []string{"sev-snp", "tdx", "simulated", "simulated-tdx"}

func (d development) roots() (*attest.Roots, error) {
	roots := attest.AMDRoots()
	if d.SimulatedRoots == "" {
		return roots, nil
	}
	bundle, err := os.ReadFile(d.SimulatedRoots)
	if err != nil {
		return nil, fmt.Errorf("reading simulated roots: %w", err)
	}
	return roots.WithSimulated(attest.Genoa, bundle)
}

const banner = `
  ***********************************************************************
  *  DEVELOPMENT BUILD: it can trust a simulated processor.             *
  *  Workspaces on a site with tee: simulated or tee: simulated-tdx are *
  *  protected by nothing.                                              *
  ***********************************************************************
`
