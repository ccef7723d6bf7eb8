//go:build devtee

// Package softpsp plays AMD's secure processor on the host's side of a
// demonstration. It is compiled into development builds only.
//
// It owns a key hierarchy of its own, made afresh by New, and signs SEV-SNP
// reports of the form that a Genoa machine under Nova gives. It signs the
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

// Line is the product line whose machines are played.
const Line = attest.Genoa

// Config says which machine is played.
type Config struct {
	// ChipID is the machine's; all zero means a random one.
	ChipID [64]byte
	// TCB is what firmware the machine claims; the zero value means DefaultTCB.
	TCB attest.TCB
	// Now is when the certificates begin to be valid, less an hour; it must be set.
	Now time.Time
}

// DefaultTCB is that of a Siena machine seen in 2026.
var DefaultTCB = attest.TCB{Bootloader: 10, SNP: 27, Microcode: 27}

// PSP is one simulated machine's secure processor.
type PSP struct {
	chipID [64]byte
	tcb    attest.TCB
	key    *ecdsa.PrivateKey
	roots  []byte
	vcek   []byte
}

// New makes roots, an intermediate and the key of one chip.
func New(cfg Config) (*PSP, error) {
	fail := func(err error) (*PSP, error) { return nil, fmt.Errorf("making simulated secure processor: %w", err) }
	if cfg.Now.IsZero() {
		return fail(fmt.Errorf("the time is not set"))
	}
	p := &PSP{chipID: cfg.ChipID, tcb: cfg.TCB}
	if p.chipID == [64]byte{} {
		if _, err := rand.Read(p.chipID[:]); err != nil {
			return fail(err)
		}
	}
	if p.tcb == (attest.TCB{}) {
		p.tcb = DefaultTCB
	}
	// AMD's are RSA-4096; here nothing hangs on the size, and a demonstration
	// should not wait for primes.
	arkKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fail(err)
	}
	askKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fail(err)
	}
	if p.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return fail(err)
	}
	ark, err := certify(authorityTemplate("ARK-"+Line, cfg.Now), nil, arkKey.Public(), arkKey)
	if err != nil {
		return fail(err)
	}
	ask, err := certify(authorityTemplate("SEV-"+Line, cfg.Now), ark, askKey.Public(), arkKey)
	if err != nil {
		return fail(err)
	}
	leaf, err := leafTemplate(cfg.Now, p.chipID, p.tcb)
	if err != nil {
		return fail(err)
	}
	vcek, err := certify(leaf, ask, p.key.Public(), askKey)
	if err != nil {
		return fail(err)
	}
	p.roots = append(encode(ask), encode(ark)...)
	p.vcek = vcek.Raw
	return p, nil
}

// Roots are ASK and ARK as PEM, in the order of AMD's key distribution service.
func (p *PSP) Roots() []byte { return p.roots }

// VCEK is the chip's certificate (DER).
func (p *PSP) VCEK() []byte { return p.vcek }

// Certificates is the chip's certificate as PEM, as it goes with each report.
func (p *PSP) Certificates() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.vcek})
}

// ChipID is what a site registers for this machine.
func (p *PSP) ChipID() [64]byte { return p.chipID }

// TCB is what the machine's firmware claims.
func (p *PSP) TCB() attest.TCB { return p.tcb }

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
