package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
)

// Subject names what an object of collateral speaks of, such as the certificate of
// one chip at one TCB. Two objects of one subject are versions of the same thing.
type Subject struct{ Kind, Key string }

// Statement is an object that was proved: of what it speaks, and from when until when.
type Statement struct {
	Subject
	From, Until time.Time
}

// Keys of subjects that there is one of.
const (
	KeyQEIdentity = "td-qe"
	KeyIntelRoot  = "root"
	KeyTCBSigning = "signing"
	KeyPlatformCA = "platform"
	KeyProcessor  = "processor"
)

// VCEKSubject names the certificate of a chip at a TCB. On Turin the first eight
// bytes of the chip id count (AMD 57230 chapter 3, hwID).
func VCEKSubject(line string, chip []byte, tcb TCB) Subject {
	if line == Turin && len(chip) > 8 {
		chip = chip[:8]
	}
	return Subject{KindVCEK, fmt.Sprintf("%s/%x/%d.%d.%d.%d.%d", line, chip, tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Microcode, tcb.FMC)}
}

// CRLSubject names AMD's revocation list of a product line: that of its VCEKs, or
// that of its VLEKs. The same key signs both, and neither says which it is: only
// whoever fetched a list knows.
func CRLSubject(line string, vlek bool) Subject {
	if vlek {
		line += "/vlek"
	}
	return Subject{KindAMDCRL, line}
}

// ReportsVLEK reports whether an SNP report says that a provider's key signed it. Like
// Needs it reads what nobody has proved.
func ReportsVLEK(ev Evidence) bool {
	return ev.TEE == SEVSNP && len(ev.Report) == abi.ReportSize && signerOf(ev.Report) == signerVLEK
}

func signerOf(report []byte) uint32 { return binary.LittleEndian.Uint32(report[0x48:]) >> 2 & 7 }

// TCBInfoSubject names Intel's list for one kind of platform.
func TCBInfoSubject(fmspc string) Subject { return Subject{KindTCBInfo, strings.ToLower(fmspc)} }

// Needs says what a verdict on this evidence would rest on. It reads evidence that
// nobody has proved: good for looking things up, and for nothing else.
func Needs(ev Evidence) (out []Subject) {
	defer func() {
		if recover() != nil { // a reader that breaks needs nothing; Verify counts it
			out = nil
		}
	}()
	switch ev.TEE {
	case SEVSNP:
		return snpNeeds(ev.Report)
	case TDX:
		return tdxNeeds(ev.Report)
	}
	return nil
}

func snpNeeds(report []byte) []Subject {
	if len(report) != abi.ReportSize || binary.LittleEndian.Uint32(report) < 3 {
		return nil // version 2 does not say of which product line it is
	}
	line := productLine(report[0x188], report[0x189])
	tcb, ok := tcbFrom(binary.LittleEndian.Uint64(report[0x180:]), line)
	chip := report[0x1a0:0x1e0]
	if line == "" || !ok {
		return nil
	}
	signer := signerOf(report)
	out := []Subject{CRLSubject(line, signer == signerVLEK)}
	if signer == signerVCEK && !allZero(chip) {
		out = append(out, VCEKSubject(line, chip, tcb))
	}
	return out
}

func tdxNeeds(raw []byte) []Subject {
	const minimum, maximum = 1020, 64 << 10
	if len(raw) < minimum || len(raw) > maximum {
		return nil
	}
	form, at, size := quoteForm(raw)
	if form == "" {
		return nil
	}
	q, err := readQuote(raw, form, at, size)
	if err != nil {
		return nil
	}
	certs, err := readChain(q.pckChain, 3)
	if err != nil {
		return nil
	}
	ext, err := pcs.PckCertificateExtensions(certs[0])
	if err != nil {
		return nil
	}
	return PlatformNeeds(ext.FMSPC, certs[1].Subject.CommonName != nameProcessorCA)
}

// PlatformNeeds is what quotes of one kind of platform rest on.
func PlatformNeeds(fmspc string, platformCA bool) []Subject {
	ca := KeyPlatformCA
	if !platformCA {
		ca = KeyProcessor
	}
	return []Subject{{KindIntelRootCRL, KeyIntelRoot}, {KindPCKCRL, ca}, TCBInfoSubject(fmspc), {KindQEIdentity, KeyQEIdentity}}
}

// Prove says what an object speaks of, once it has been shown that its vendor
// signed it: under these roots, or Intel's pinned one. chain is the issuer chain
// (PEM) that came with an object of Intel's. The time is for certificates; whether
// the statement's own window holds is for the caller to judge.
func (r *Roots) Prove(o Object, chain []byte, at time.Time) (Statement, error) {
	s := Statement{Subject: Subject{Kind: o.Kind}}
	if r == nil || len(o.Bytes) > maxObjectBytes || len(chain) > maxChainBytes {
		return s, errors.New("proving collateral: no roots, or an object beyond its bound")
	}
	err := r.prove(&s, o, chain, at)
	if err != nil {
		err = fmt.Errorf("proving %s: %w", o.Kind, err)
	}
	return s, err
}

func (r *Roots) prove(s *Statement, o Object, chain []byte, at time.Time) error {
	switch o.Kind {
	case KindVCEK, KindVLEK:
		leaf, err := parseLeaf(o.Bytes)
		if err != nil {
			return err
		}
		if (leaf.provider != "") != (o.Kind == KindVLEK) {
			return errors.New("the certificate is of the other kind")
		}
		proved, err := proveChain(leaf, r.lines[leaf.line], at)
		if err != nil {
			return err
		}
		s.From, s.Until = proved.notBefore, proved.notAfter
		s.Key = VCEKSubject(leaf.line, leaf.hwid, leaf.tcb).Key
		if leaf.provider != "" {
			s.Key = leaf.line + "/" + hex.EncodeToString([]byte(leaf.provider)) + strings.TrimPrefix(s.Key, leaf.line+"/")
		}
		return nil
	case KindAMDChain:
		return r.proveAMDChain(s, o.Bytes)
	case KindAMDCRL:
		list, err := x509.ParseRevocationList(o.Bytes)
		if err != nil {
			return err
		}
		by := r.signerOf(list)
		if by == nil || list.NextUpdate.IsZero() {
			return errors.New("signed by none of the roots, or without a next update")
		}
		s.Subject, s.From, s.Until = CRLSubject(by.line, false), list.ThisUpdate, list.NextUpdate
		return nil
	}
	return proveIntelUnder(r.intelRoot(), s, o, chain, at)
}

// proveAMDChain admits the chain of one of the roots and nothing else.
func (r *Roots) proveAMDChain(s *Statement, bundle []byte) error {
	if err := r.known(bundle); err != nil {
		return err
	}
	block, _ := pem.Decode(bundle)
	if block == nil {
		return errors.New("no certificate")
	}
	first, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	_, s.Key, _ = strings.Cut(first.Subject.CommonName, "-")
	s.From, s.Until = first.NotBefore, first.NotAfter
	return nil
}

func proveIntelUnder(root *intelRoot, s *Statement, o Object, chain []byte, at time.Time) error {
	objects := []Object{{KindTCBChain, chain}, o}
	if o.Kind == KindIntelRootCRL || o.Kind == KindTCBChain || o.Kind == KindQEChain || o.Kind == KindPCKCRL {
		objects = objects[1:]
	}
	c, err := newTDXCollateralUnder(root, objects)
	if err != nil {
		return err
	}
	switch o.Kind {
	case KindTCBChain, KindQEChain:
		signer := c.signers[0]
		s.Key, s.From, s.Until = KeyTCBSigning, signer.NotBefore, signer.NotAfter
	case KindTCBInfo:
		t := c.infos[0]
		s.Key, s.From, s.Until = t.fmspc, later(t.issued, t.by.NotBefore), earlier(t.next, t.by.NotAfter)
	case KindQEIdentity:
		q := c.identities[0]
		s.Key, s.From, s.Until = KeyQEIdentity, later(q.issued, q.by.NotBefore), earlier(q.next, q.by.NotAfter)
	case KindIntelRootCRL:
		l := c.rootLists[0]
		s.Key, s.From, s.Until = KeyIntelRoot, l.thisUpdate, l.nextUpdate
	case KindPCKCRL:
		certs, err := readChain(chain, 2)
		if err != nil {
			return err
		}
		ca, l := certs[0], c.pckLists[0]
		keys := map[string]string{namePlatformCA: KeyPlatformCA, nameProcessorCA: KeyProcessor}
		if s.Key = keys[ca.Subject.CommonName]; s.Key == "" || !ca.IsCA || !bytes.Equal(certs[1].Raw, root.cert.Raw) ||
			!bytes.Equal(ca.RawIssuer, root.cert.RawSubject) || ca.CheckSignatureFrom(root.cert) != nil || at.Before(ca.NotBefore) || at.After(ca.NotAfter) ||
			!bytes.Equal(l.list.RawIssuer, ca.RawSubject) || l.list.CheckSignatureFrom(ca) != nil {
			return errors.New("the revocation list was not signed by a CA of Intel's root")
		}
		s.From, s.Until = l.thisUpdate, l.nextUpdate
	}
	return nil
}
