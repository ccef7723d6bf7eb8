package attest

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
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

// authority is one root with the one intermediate that signs its VCEKs.
type authority struct {
	line      string
	ark, ask  *x509.Certificate
	simulated bool
}

// Roots are the authorities that may vouch for a report, by product line. The
// zero value vouches for nothing. Outside development builds AMDRoots is the only
// way to make one.
type Roots struct {
	lines map[string][]*authority
	// id names the set, so that a chain proved under one set is not taken as
	// proved under another.
	id [sha256.Size]byte
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
		for _, c := range []*x509.Certificate{a.ark, a.ask} {
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
		}
	}
	if a.ask == nil || a.ark == nil {
		return nil, errors.New("reading chain: ASK or ARK is missing")
	}
	for _, c := range []*x509.Certificate{a.ask, a.ark} {
		if err := c.CheckSignatureFrom(a.ark); err != nil {
			return nil, fmt.Errorf("reading chain: %s under its root: %w", c.Subject.CommonName, err)
		}
	}
	return a, nil
}

// window is the time in which both certificates are valid.
func (a *authority) window() (notBefore, notAfter time.Time) {
	return later(a.ark.NotBefore, a.ask.NotBefore), earlier(a.ark.NotAfter, a.ask.NotAfter)
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
