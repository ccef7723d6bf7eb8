//go:build devtee

package attest

import "fmt"

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
	return newRoots(append(all, a)), nil
}
