package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"
)

// softSNP is a machine of AMD's with all that vouches for it, made here: of Turin, of VLEKs and of revocation lists no
// genuine sample is public. Its RSA keys are short, for nothing hangs on their size.
type softSNP struct {
	t        testing.TB
	line     string
	version  uint32
	provider string
	chip     [64]byte
	tcb      TCB
	now      time.Time
	rsa      *rsa.PrivateKey
	key      *ecdsa.PrivateKey
	by       *authority
	leaf     []byte
	alter    func([]byte)
}

func newSoftSNP(t testing.TB, line string, version uint32, provider string) *softSNP {
	t.Helper()
	s := &softSNP{t: t, line: line, version: version, provider: provider, tcb: TCB{Bootloader: 3, TEE: 1, SNP: 8, Microcode: 115}, now: day("2026-11-23")}
	copy(s.chip[:], bytes.Repeat([]byte{0xc1}, 64))
	if line == Turin {
		s.tcb.FMC = 2
		clear(s.chip[8:])
	}
	var err error
	if s.rsa, err = rsa.GenerateKey(rand.Reader, 1024); err != nil {
		t.Fatal(err)
	}
	if s.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	var bundle []byte
	for i, name := range []string{"ARK-", "SEV-", "SEV-VLEK-"} {
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certify(&x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name + line}, NotBefore: s.now.AddDate(-1, 0, 0), NotAfter: s.now.AddDate(1, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{byte(i + 1)},
		}, pkix.Name{CommonName: "ARK-" + line}, s.rsa.Public())})...)
	}
	if s.by, err = newAuthority(line, bundle); err != nil {
		t.Fatal(err)
	}
	s.by.simulated = true
	s.leaf = s.issue(nil)
	return s
}

func (s *softSNP) certify(template *x509.Certificate, issuer pkix.Name, key any) []byte {
	s.t.Helper()
	if template.SignatureAlgorithm == 0 {
		template.SignatureAlgorithm = x509.SHA384WithRSAPSS
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: issuer}, key, s.rsa)
	if err != nil {
		s.t.Fatal(err)
	}
	return der
}

func extension(id asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: id, Value: value}
}

func amdOID(t testing.TB, text string) asn1.ObjectIdentifier {
	t.Helper()
	id, err := x509.ParseOID(text)
	if err != nil {
		t.Fatal(err)
	}
	var out asn1.ObjectIdentifier
	der, err := id.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(append([]byte{6, byte(len(der))}, der...), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func marshal(t testing.TB, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// issue makes the leaf. The identifiers are written out, so that they are not those of the reader.
func (s *softSNP) issue(change func(*x509.Certificate)) []byte {
	s.t.Helper()
	name, issuer := "SEV-VCEK", "SEV-"
	if s.provider != "" {
		name, issuer = "SEV-VLEK", "SEV-VLEK-"
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: name}, NotBefore: s.now.AddDate(0, -1, 0), NotAfter: s.now.AddDate(0, 1, 0)}
	levels := map[string]uint8{"1": s.tcb.Bootloader, "2": s.tcb.TEE, "3": s.tcb.SNP, "4": 0, "5": 0, "6": 0, "7": 0, "8": s.tcb.Microcode}
	if s.line == Turin {
		levels["9"] = s.tcb.FMC
	}
	c.ExtraExtensions = append(c.ExtraExtensions, extension(amdOID(s.t, "1.3.6.1.4.1.3704.1.2"), marshal(s.t, s.line+"-B0", "ia5")))
	for n, v := range levels {
		c.ExtraExtensions = append(c.ExtraExtensions, extension(amdOID(s.t, "1.3.6.1.4.1.3704.1.3."+n), marshal(s.t, int(v), "")))
	}
	if s.provider != "" {
		c.ExtraExtensions = append(c.ExtraExtensions, extension(amdOID(s.t, "1.3.6.1.4.1.3704.1.5"), marshal(s.t, s.provider, "ia5")))
	} else {
		id := s.chip[:]
		if s.line == Turin {
			id = id[:8]
		}
		c.ExtraExtensions = append(c.ExtraExtensions, extension(amdOID(s.t, "1.3.6.1.4.1.3704.1.4"), id))
	}
	if change != nil {
		change(c)
	}
	return s.certify(c, pkix.Name{CommonName: issuer + s.line}, s.key.Public())
}

// report signs what a guest of Nova gets, after alter has had its way.
func (s *softSNP) report() []byte {
	s.t.Helper()
	le := binary.LittleEndian
	b := make([]byte, 1184)
	le.PutUint32(b[0x000:], s.version)
	le.PutUint64(b[0x008:], 0x30000)
	le.PutUint32(b[0x034:], 1)
	for _, at := range []int{0x038, 0x180, 0x1e0, 0x1f0} {
		t := s.tcb
		copy(b[at:], []byte{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode})
		if s.line == Turin {
			copy(b[at:], []byte{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Microcode})
		}
	}
	le.PutUint64(b[0x040:], 0x25)
	if s.provider != "" {
		b[0x048] = 1 << 2
	}
	copy(b[0x050:], bytes.Repeat([]byte{0xda}, 64))
	copy(b[0x090:], bytes.Repeat([]byte{0x3e}, 48))
	copy(b[0x140:], bytes.Repeat([]byte{0x1d}, 32))
	copy(b[0x160:], bytes.Repeat([]byte{0xff}, 32))
	if s.version >= 3 {
		copy(b[0x188:], map[string][]byte{Milan: {0x19, 0x01, 1}, Genoa: {0x19, 0x11, 1}, Turin: {0x1a, 0x02, 1}}[s.line])
	}
	copy(b[0x1a0:], s.chip[:])
	if s.version >= 5 {
		b[0x1f8], b[0x200] = 0xb, 0xb
	}
	if s.alter != nil {
		s.alter(b)
	}
	digest := sha512.Sum384(b[:0x2a0])
	r, v, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	if err != nil {
		s.t.Fatal(err)
	}
	for at, n := range map[int]*big.Int{0x2a0: r, 0x2e8: v} {
		field := b[at : at+72]
		n.FillBytes(field)
		slices.Reverse(field)
	}
	return b
}

func (s *softSNP) evidence() Evidence {
	s.t.Helper()
	return Evidence{TEE: SEVSNP, Report: s.report(), Certificates: s.leaf}
}

func (s *softSNP) collateral() Collateral { return Collateral{Roots: newRoots([]*authority{s.by})} }

// policy admits exactly this guest.
func (s *softSNP) policy() Policy {
	p := NovaPolicy(map[string]TCB{s.line: s.tcb})
	p.Chips, p.Measurements = [][]byte{s.chip[:]}, [][]byte{bytes.Repeat([]byte{0x3e}, 48)}
	copy(p.ReportData[:], bytes.Repeat([]byte{0xda}, 64))
	p.VLEKProvider, p.Simulated = s.provider, true
	return p
}

func (s *softSNP) list(from, to time.Time, revoked ...int64) []byte {
	s.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(from.Unix()), ThisUpdate: from, NextUpdate: to, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, n := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: from})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, s.by.ark, s.rsa)
	if err != nil {
		s.t.Fatal(err)
	}
	return der
}

// sign is the signature of the root's key, as AMD's are made.
func (s *softSNP) sign(data []byte) []byte {
	s.t.Helper()
	digest := sha512.Sum384(data)
	out, err := rsa.SignPSS(rand.Reader, s.rsa, crypto.SHA384, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// endless takes the next update out of a revocation list, which the standard library does not write, and signs it again.
func endless(t testing.TB, der []byte, sign func([]byte) []byte) []byte {
	t.Helper()
	type list struct {
		Body, Algorithm asn1.RawValue
		Signature       asn1.BitString
	}
	var l list
	if _, err := asn1.Unmarshal(der, &l); err != nil {
		t.Fatal(err)
	}
	var body []byte
	for i, rest := 0, l.Body.Bytes; len(rest) > 0; i++ {
		var part asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &part); err != nil {
			t.Fatal(err)
		}
		if i != 4 { // version, algorithm, issuer, this update, next update
			body = append(body, part.FullBytes...)
		}
	}
	l.Body = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: body}
	signature := sign(marshal(t, l.Body, ""))
	l.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return marshal(t, l, "")
}
