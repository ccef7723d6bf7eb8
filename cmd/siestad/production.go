//go:build !devtee

package main

import (
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// development has no field in production: there is no way to name other roots than AMD's.
type development struct{}

// flowLease is the engine's own default.
func (development) flowLease() time.Duration { return 0 }

// tees are the kinds of hardware protection that a site can have.
var tees = []string{"sev-snp", "tdx"}

func (development) roots() (*attest.Roots, error) { return attest.AMDRoots(), nil }

// banner is empty: this is the real thing.
const banner = ""
