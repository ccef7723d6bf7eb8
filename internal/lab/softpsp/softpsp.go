//go:build devtee

// Package softpsp plays AMD's secure processor on the host's side of a
// demonstration. It is compiled into development builds only.
//
// It owns a key hierarchy of its own, made afresh by New, and signs SEV-SNP
// reports of the form that a machine under Nova gives: Genoa's unless another
// product line is asked for, version 3 unless another, with the chip's own key
// unless a provider's. It signs the
// measurement that its caller took of what QEMU was really given, never anything
// that the guest says of itself; from the guest it takes the report data only.
//
// It protects nothing: whoever runs it can sign what he likes. The verdict on its
// reports is marked simulated, and attest admits them only in development builds,
// under roots that were loaded on purpose, for a policy that asks for them.
package softpsp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Line is the product line that is played unless another is asked for.
const Line = attest.Genoa

// Config says which machine is played.
type Config struct {
	// Line is the product line: Genoa if empty, else Milan, Genoa or Turin.
	Line string
	// Version is that of the reports: 3 if zero, else 2, 3 or 5.
	Version uint32
	// Provider has the reports signed with a VLEK of this provider (CSP_ID) in
	// place of the chip's own key.
	Provider string
	// ChipID is the machine's; all zero means a random one. On Turin its first
	// eight bytes count.
	ChipID [64]byte
	// TCB is what firmware the machine claims; the zero value means DefaultTCB.
	TCB attest.TCB
	// Now is when the certificates begin to be valid, less an hour; it must be set.
	Now time.Time
}

// DefaultTCB is that of a Siena machine seen in 2026; on Turin it has an FMC, too.
var DefaultTCB = attest.TCB{Bootloader: 10, SNP: 27, Microcode: 27}

// PSP is one simulated machine's secure processor.
type PSP struct {
	line     string
	version  uint32
	provider string
	chipID   [64]byte
	tcb      attest.TCB
	key      *ecdsa.PrivateKey
	arkKey   *rsa.PrivateKey
	ark, ask *x509.Certificate
	roots    []byte
	leaf     *x509.Certificate
	// issuer signs leaves; it is kept for siblings.
	issuer    *x509.Certificate
	issuerKey *rsa.PrivateKey
	made      time.Time
}

// New makes roots, the intermediates and the key of one chip.
func New(cfg Config) (*PSP, error) {
	fail := func(err error) (*PSP, error) { return nil, fmt.Errorf("making simulated secure processor: %w", err) }
	if cfg.Now.IsZero() {
		return fail(fmt.Errorf("the time is not set"))
	}
	p := &PSP{line: cfg.Line, version: cfg.Version, provider: cfg.Provider, chipID: cfg.ChipID, tcb: cfg.TCB}
	if p.line == "" {
		p.line = Line
	}
	if p.version == 0 {
		p.version = 3
	}
	if p.chipID == [64]byte{} {
		if _, err := rand.Read(p.chipID[:]); err != nil {
			return fail(err)
		}
	}
	clear(p.chipID[p.idBytes():])
	if p.tcb == (attest.TCB{}) {
		p.tcb = DefaultTCB
		if p.line == attest.Turin {
			p.tcb.FMC = 1
		}
	}
	// AMD's are RSA-4096; here nothing hangs on the size, and a demonstration
	// should not wait for primes.
	var err error
	if p.arkKey, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return fail(err)
	}
	if p.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return fail(err)
	}
	if p.ark, err = certify(authorityTemplate("ARK-"+p.line, p.line, cfg.Now), nil, p.arkKey.Public(), p.arkKey); err != nil {
		return fail(err)
	}
	intermediate := func(name string) (*x509.Certificate, *rsa.PrivateKey, error) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, nil, err
		}
		c, err := certify(authorityTemplate(name+p.line, p.line, cfg.Now), p.ark, key.Public(), p.arkKey)
		return c, key, err
	}
	ask, issuerKey, err := intermediate("SEV-")
	if err != nil {
		return fail(err)
	}
	p.ask = ask
	issuer := ask
	p.roots = append(encode(ask), encode(p.ark)...)
	if p.provider != "" {
		if issuer, issuerKey, err = intermediate("SEV-VLEK-"); err != nil {
			return fail(err)
		}
		p.roots = append(p.roots, encode(issuer)...)
	}
	p.issuer, p.issuerKey, p.made = issuer, issuerKey, cfg.Now
	if err := p.issue(); err != nil {
		return fail(err)
	}
	return p, nil
}

// issue makes the certificate of the machine's key.
func (p *PSP) issue() error {
	template, err := p.leafTemplate(p.made)
	if err != nil {
		return err
	}
	p.leaf, err = certify(template, p.issuer, p.key.Public(), p.issuerKey)
	return err
}

// Sibling makes another machine of the same kind, under the same roots, with a key and a chip id of its own.
func (p *PSP) Sibling() (*PSP, error) {
	other := *p
	if _, err := rand.Read(other.chipID[:other.idBytes()]); err != nil {
		return nil, fmt.Errorf("making a sibling: %w", err)
	}
	var err error
	if other.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making a sibling: %w", err)
	}
	if err := other.issue(); err != nil {
		return nil, fmt.Errorf("making a sibling: %w", err)
	}
	return &other, nil
}

// idBytes is how long a chip id of the line is.
func (p *PSP) idBytes() int {
	if p.line == attest.Turin {
		return 8
	}
	return 64
}

// Roots are ASK and ARK as PEM, in the order of AMD's key distribution service, and
// for a provider's key the intermediate of VLEKs behind them.
func (p *PSP) Roots() []byte { return p.roots }

// VCEK is the certificate (DER) of the key that signs: the chip's, or the VLEK of
// the provider that was asked for.
func (p *PSP) VCEK() []byte { return p.leaf.Raw }

// Leaf is the same, parsed, and Intermediate the ASK: for revocation lists.
func (p *PSP) Leaf() *x509.Certificate { return p.leaf }

// Intermediate is the ASK.
func (p *PSP) Intermediate() *x509.Certificate { return p.ask }

// ProductLine is the machine's.
func (p *PSP) ProductLine() string { return p.line }

// Certificates is the chip's certificate as PEM, as it goes with each report.
func (p *PSP) Certificates() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.leaf.Raw})
}

// ChipID is what a site registers for this machine.
func (p *PSP) ChipID() [64]byte { return p.chipID }

// TCB is what the machine's firmware claims.
func (p *PSP) TCB() attest.TCB { return p.tcb }

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
