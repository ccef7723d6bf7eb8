//go:build devtee

// Package softtd plays an Intel TDX host in a demonstration: the machine with its quoting enclave, and the Intel that
// certifies it. It is compiled into development builds only.
//
// It owns a key hierarchy of its own, made afresh by New, and signs quotes of version 4, or of version 5 (TDX 1.5) if asked,
// as a trust domain under Nova gets them. What it signs is measured by its caller over what QEMU was really given, never
// anything that the guest says of itself; from the guest it takes the report data only. With each quote comes the event log
// of a directly booted kernel, whose replay gives the registers of the quote.
//
// It protects nothing: whoever runs it can sign what he likes. The verdict on its quotes is marked simulated, and attest
// admits them only in development builds, under a root that was loaded on purpose and that stands in place of Intel's, for a
// policy that asks for them.
package softtd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// What every platform here is, and claims to run.
const (
	// FMSPC is the kind of platform.
	FMSPC = "00806f050000"
	// XFAM is what a guest is launched with: x87, SSE, AVX and AVX-512.
	XFAM uint64 = 0xe7

	pceID   = "0000"
	pceSVN  = 11
	qeSVN   = 4
	qeName  = 2 // ISVPRODID of the TD quoting enclave
	dataSet = 18
)

var (
	components = [16]byte{3, 3, 2, 2, 3, 1, 0, 3}
	// teeSVN is ISVSVN 5 of the module's version 1, and the third part that Intel lists.
	teeSVN = [16]byte{5, 1, 3}
)

// Config says which machine is played.
type Config struct {
	// Version is that of the quotes: 4 if zero, else 4 or 5.
	Version int
	// PPID is the machine's; all zero means a random one.
	PPID [16]byte
	// Now is when the certificates begin to be valid, less an hour; it must be set.
	Now time.Time
}

// Platform is one simulated machine.
type Platform struct {
	version int
	ppid    [16]byte
	made    time.Time

	root, ca, pck, signer *x509.Certificate
	rootKey, caKey        *ecdsa.PrivateKey
	pckKey, signerKey     *ecdsa.PrivateKey
	// key is the quoting enclave's: it signs quotes, and the PCK certificate's key vouches for it.
	key *ecdsa.PrivateKey
}

// New makes a root, what it certifies, and one machine.
func New(cfg Config) (*Platform, error) {
	p := &Platform{version: cfg.Version, ppid: cfg.PPID, made: cfg.Now}
	if p.version == 0 {
		p.version = 4
	}
	if err := p.make(); err != nil {
		return nil, fmt.Errorf("making simulated platform: %w", err)
	}
	return p, nil
}

func (p *Platform) make() (err error) {
	switch {
	case p.made.IsZero():
		return errors.New("the time is not set")
	case p.version != 4 && p.version != 5:
		return fmt.Errorf("there are no quotes of version %d", p.version)
	}
	for _, k := range []**ecdsa.PrivateKey{&p.rootKey, &p.caKey, &p.signerKey} {
		if *k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	if p.root, err = p.certify(authority("Intel SGX Root CA"), nil, p.rootKey, p.rootKey); err != nil {
		return err
	}
	if p.ca, err = p.certify(authority("Intel SGX PCK Platform CA"), p.root, p.caKey, p.rootKey); err != nil {
		return err
	}
	if p.signer, err = p.certify(leaf("Intel SGX TCB Signing"), p.root, p.signerKey, p.rootKey); err != nil {
		return err
	}
	return p.register()
}

// register makes the machine's own keys, its id unless it has one, and its certificate.
func (p *Platform) register() (err error) {
	if p.ppid == [16]byte{} {
		if _, err := rand.Read(p.ppid[:]); err != nil {
			return err
		}
	}
	for _, k := range []**ecdsa.PrivateKey{&p.pckKey, &p.key} {
		if *k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	template := leaf("Intel SGX PCK Certificate")
	extension, err := p.sgxExtension()
	if err != nil {
		return err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, extension)
	p.pck, err = p.certify(template, p.ca, p.pckKey, p.caKey)
	return err
}

// Sibling makes another machine of the same kind, under the same root, with keys and a PPID of its own.
func (p *Platform) Sibling() (*Platform, error) {
	other := *p
	other.ppid = [16]byte{}
	if err := other.register(); err != nil {
		return nil, fmt.Errorf("making a sibling: %w", err)
	}
	return &other, nil
}

// Root is the root as PEM: what attest.Roots.WithSimulatedIntel reads.
func (p *Platform) Root() []byte { return encode(p.root) }

// PPID is what a site registers for this machine.
func (p *Platform) PPID() [16]byte { return p.ppid }

// TCBChain is the issuer chain (PEM) of TCB info and QE identity.
func (p *Platform) TCBChain() []byte { return encode(p.signer, p.root) }

// PCKCRLChain is the issuer chain (PEM) of the revocation list of platforms.
func (p *Platform) PCKCRLChain() []byte { return encode(p.ca, p.root) }

func encode(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
