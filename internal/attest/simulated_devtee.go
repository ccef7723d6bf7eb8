//go:build devtee

package attest

import (
	"bytes"
	"errors"
	"fmt"
)

// WithSimulated returns the roots of r and, beside them, a chain that was made
// for a demonstration. A verdict under it is marked simulated, and only a policy
// that asks for a simulated guest admits it. Production builds lack this function.
func (r *Roots) WithSimulated(line string, bundle []byte) (*Roots, error) {
	if line != Milan && line != Genoa && line != Turin {
		return nil, fmt.Errorf("adding simulated roots: product line %q cannot be simulated", line)
	}
	a, err := newAuthority(line, bundle)
	if err != nil {
		return nil, fmt.Errorf("adding simulated roots: %w", err)
	}
	a.simulated = true
	var all []*authority
	for _, l := range []string{Milan, Genoa, Turin} {
		all = append(all, r.lines[l]...)
	}
	out := newRoots(append(all, a))
	out.intel = r.intel
	return out, nil
}

// WithSimulatedIntel returns the roots of r with a root (PEM) that was made for a
// demonstration in place of Intel's, never beside it: collateral has one root, and
// what was proved under the one is then no part of what the other vouches for. So
// genuine quotes, and genuine objects of Intel's, are refused under these roots,
// and a verdict on a quote is marked simulated. Production builds lack this function.
func (r *Roots) WithSimulatedIntel(root []byte) (*Roots, error) {
	fail := func(err error) (*Roots, error) {
		return nil, fmt.Errorf("putting a simulated root in place of Intel's: %w", err)
	}
	certs, err := readChain(root, 1)
	if err != nil {
		return fail(err)
	}
	c := certs[0]
	if c.Subject.CommonName != nameRootCA || c.CheckSignatureFrom(c) != nil {
		return fail(errors.New("it is no root of the form of Intel's"))
	}
	if bytes.Equal(c.RawSubjectPublicKeyInfo, pinnedIntelRoot().cert.RawSubjectPublicKeyInfo) {
		// Genuine quotes would pass as simulated ones.
		return fail(errors.New("it is Intel's own"))
	}
	out := *r
	out.intel = newIntelRoot(c, true)
	return &out, nil
}
