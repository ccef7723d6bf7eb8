package attest

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// The chains of AMD's key distribution service: SEV intermediate (ASK), root
// (ARK) and the VLEK intermediate, in this order. See testdata/ORIGIN.
var (
	//go:embed roots/milan-ask-ark-asvk.pem
	milanPEM []byte
	//go:embed roots/genoa-ask-ark-asvk.pem
	genoaPEM []byte
	//go:embed roots/turin-ask-ark-asvk.pem
	turinPEM []byte
)

// authority is one root with the intermediate that signs its VCEKs and, where
// there is one, that which signs VLEKs.
type authority struct {
	line      string
	ark, ask  *x509.Certificate
	asvk      *x509.Certificate
	simulated bool
}

// issuer is the intermediate that signs leaves of this kind; nil if there is none.
func (a *authority) issuer(leaf *vcek) *x509.Certificate {
	if leaf.provider != "" {
		return a.asvk
	}
	return a.ask
}

// Roots are the authorities that may vouch for a report, by product line. The
// zero value vouches for nothing. Outside development builds AMDRoots is the only
// way to make one.
type Roots struct {
	lines map[string][]*authority
	// id names the set, so that a chain proved under one set is not taken as
	// proved under another.
	id [sha256.Size]byte
	// intel is nil outside development builds.
	intel *intelRoot
}

// intelRoot is what Intel's objects and quotes are proved under: the pinned root,
// unless a development build has put a simulated one in its place.
func (r *Roots) intelRoot() *intelRoot {
	if r == nil || r.intel == nil {
		return pinnedIntelRoot()
	}
	return r.intel
}

// AMDRoots returns the embedded roots of Milan, Genoa and Turin.
func AMDRoots() *Roots { return amdRoots() }

var amdRoots = sync.OnceValue(func() *Roots {
	var all []*authority
	for _, r := range []struct {
		line string
		pem  []byte
	}{{Milan, milanPEM}, {Genoa, genoaPEM}, {Turin, turinPEM}} {
		a, err := newAuthority(r.line, r.pem)
		if err != nil {
			// The bytes are part of the program: a program without its roots is broken.
			panic(fmt.Sprintf("embedded roots of %s: %v", r.line, err))
		}
		all = append(all, a)
	}
	return newRoots(all)
})

func newRoots(all []*authority) *Roots {
	r := &Roots{lines: make(map[string][]*authority)}
	h := sha256.New()
	for _, a := range all {
		r.lines[a.line] = append(r.lines[a.line], a)
		for _, c := range a.certificates() {
			sum := sha256.Sum256(c.Raw)
			h.Write(sum[:])
		}
		h.Write(fmt.Appendf(nil, "%s %t\n", a.line, a.simulated))
	}
	h.Sum(r.id[:0])
	return r
}

// newAuthority reads ASK and ARK from PEM and proves that they belong together
// and to the product line. Validity in time is judged with each report.
func newAuthority(line string, bundle []byte) (*authority, error) {
	a := &authority{line: line}
	for len(bundle) > 0 {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("reading chain: a PEM block is no certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading chain: %w", err)
		}
		switch c.Subject.CommonName {
		case "SEV-" + line:
			a.ask = c
		case "ARK-" + line:
			a.ark = c
		case "SEV-VLEK-" + line:
			a.asvk = c
		}
	}
	if a.ask == nil || a.ark == nil {
		return nil, errors.New("reading chain: ASK or ARK is missing")
	}
	for _, c := range a.certificates() {
		if err := c.CheckSignatureFrom(a.ark); err != nil {
			return nil, fmt.Errorf("reading chain: %s under its root: %w", c.Subject.CommonName, err)
		}
	}
	return a, nil
}

func (a *authority) certificates() []*x509.Certificate {
	out := []*x509.Certificate{a.ark, a.ask}
	if a.asvk != nil {
		out = append(out, a.asvk)
	}
	return out
}

// known says whether a chain as AMD's service sends it is one of the roots'.
func (r *Roots) known(bundle []byte) error {
	if r == nil {
		return errors.New("reading chain: no roots")
	}
	for len(bundle) > 0 {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("reading chain: %w", err)
		}
		if !r.has(c) {
			return errors.New("reading chain: a certificate is none of the roots'")
		}
	}
	return nil
}

func (r *Roots) has(c *x509.Certificate) bool {
	for _, as := range r.lines {
		for _, a := range as {
			if slices.ContainsFunc(a.certificates(), c.Equal) {
				return true
			}
		}
	}
	return false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
