package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// softTD is a trust domain with a platform, a quoting enclave and an "Intel" of
// its own, for what no real sample exists. Its root is no production root: it is
// handed in by tests of this package only.
type softTD struct {
	t        testing.TB
	now      time.Time
	root     *intelRoot
	rootKey  *ecdsa.PrivateKey
	caKey    *ecdsa.PrivateKey
	pckKey   *ecdsa.PrivateKey
	key      *ecdsa.PrivateKey
	ca, pck  *x509.Certificate
	signer   *x509.Certificate
	signKey  *ecdsa.PrivateKey
	authData []byte

	// What follows may be changed before quote and collateral are asked for.
	form        string
	body        softBody
	qe          softQE
	info        map[string]any
	identity    map[string]any
	revoked     []*big.Int // by the platform's CA
	rootRevoked []*big.Int
	issued      time.Time
	next        time.Time
}

type softBody struct {
	svn, svn2                          [16]byte
	mrSeam, mrSignerSeam               [48]byte
	seamAttributes                     [8]byte
	attributes, xfam                   uint64
	mrTD, configID, owner, ownerConfig [48]byte
	rtmrs                              [4][48]byte
	reportData                         [64]byte
	serviceTD                          [48]byte
}

type softQE struct {
	misc         [4]byte
	attributes   [16]byte
	signer       [32]byte
	product, svn uint16
	reportData   []byte // nil binds the attestation key as it must be bound
}

const softFMSPC, softPCEID = "a0b1c2d3e4f5", "0000"

var softComponents = []byte{3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0}

func p256Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (s *softTD) certificate(serial int64, name string, parent *x509.Certificate, by, key *ecdsa.PrivateKey, change func(*x509.Certificate)) *x509.Certificate {
	s.t.Helper()
	ca := name == nameRootCA || name == namePlatformCA
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"Soft Corporation"}},
		NotBefore: s.now.AddDate(-1, 0, 0), NotAfter: s.now.AddDate(5, 0, 0),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		CRLDistributionPoints: []string{"https://certificates.example/root.der"}, SubjectKeyId: []byte(name),
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if change != nil {
		change(template)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

type attribute struct {
	ID    asn1.ObjectIdentifier
	Value any
}

func (s *softTD) sgxExtension() pkix.Extension {
	base := asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oid := func(n ...int) asn1.ObjectIdentifier { return append(slices.Clone(base), n...) }
	var tcb []attribute
	for i, c := range softComponents {
		tcb = append(tcb, attribute{oid(2, i+1), int(c)})
	}
	tcb = append(tcb, attribute{oid(2, 17), 13}, attribute{oid(2, 18), softComponents})
	pce, _ := hex.DecodeString(softPCEID)
	fmspc, _ := hex.DecodeString(softFMSPC)
	var parts []asn1.RawValue
	for _, a := range []attribute{{oid(1), slices.Repeat([]byte{0x50}, 16)}, {oid(2), tcb}, {oid(3), pce}, {oid(4), fmspc}, {oid(5), asn1.Enumerated(1)}} {
		der, err := asn1.Marshal(a)
		if err != nil {
			s.t.Fatal(err)
		}
		parts = append(parts, asn1.RawValue{FullBytes: der})
	}
	der, err := asn1.Marshal(parts)
	if err != nil {
		s.t.Fatal(err)
	}
	return pkix.Extension{Id: base, Value: der}
}

// newSoftTD is a guest that its own policy and collateral accept.
func newSoftTD(t testing.TB) *softTD {
	s := &softTD{t: t, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), form: quoteForm5Body15, authData: []byte("authentication data")}
	s.rootKey, s.caKey, s.pckKey, s.key, s.signKey = p256Key(t), p256Key(t), p256Key(t), p256Key(t), p256Key(t)
	root := s.certificate(1, nameRootCA, nil, s.rootKey, s.rootKey, nil)
	s.root = newIntelRoot(root, true)
	s.ca = s.certificate(2, namePlatformCA, root, s.rootKey, s.caKey, nil)
	s.pck = s.certificate(3, namePCK, s.ca, s.caKey, s.pckKey, func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{s.sgxExtension()} })
	s.signer = s.certificate(4, nameTCBSigning, root, s.rootKey, s.signKey, nil)
	s.issued, s.next = s.now.AddDate(0, 0, -10), s.now.AddDate(0, 0, 20)
	s.body = softBody{svn: [16]byte{5, 1, 4}, svn2: [16]byte{5, 1, 4}, attributes: NovaTDAttributes, xfam: 0xe7}
	s.body.mrTD[0], s.body.reportData[0] = 0xd0, 0xda
	for i := range s.body.rtmrs {
		s.body.rtmrs[i][0] = byte(i + 1)
	}
	s.qe = softQE{product: 2, svn: 4}
	s.qe.signer[0], s.qe.attributes[0] = 0x51, 0x11
	s.info = map[string]any{
		"id": "TDX", "version": 3, "fmspc": softFMSPC, "pceId": softPCEID, "tcbType": 0, "tcbEvaluationDataNumber": 20,
		"tdxModule": softModule("", nil),
		"tdxModuleIdentities": []any{softModule("TDX_01", []any{
			softISV(5, "UpToDate"), softISV(3, "OutOfDate", "SOFT-SA-00003"), softISV(1, "Revoked", "SOFT-SA-00001"),
		})},
		"tcbLevels": []any{
			softLevel(softComponents, []byte{5, 0, 4}, 13, "UpToDate"),
			softLevel(softComponents, []byte{5, 0, 3}, 13, "OutOfDate", "SOFT-SA-00013"),
			softLevel(make([]byte, 16), []byte{5, 0, 1}, 5, "Revoked", "SOFT-SA-00005"),
		},
	}
	s.identity = map[string]any{
		"id": "TD_QE", "version": 2, "tcbEvaluationDataNumber": 20, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11" + strings.Repeat("00", 15), "attributesMask": "FB" + strings.Repeat("FF", 7) + strings.Repeat("00", 8),
		"mrsigner": hex.EncodeToString(s.qe.signer[:]), "isvprodid": 2,
		"tcbLevels": []any{softISV(4, "UpToDate"), softISV(2, "OutOfDate", "SOFT-SA-00002"), softISV(1, "Revoked")},
	}
	return s
}

func softModule(id string, levels []any) map[string]any {
	m := map[string]any{"mrsigner": strings.Repeat("00", 48), "attributes": strings.Repeat("00", 8), "attributesMask": strings.Repeat("FF", 8)}
	if id != "" {
		m["id"], m["tcbLevels"] = id, levels
	}
	return m
}

func softISV(svn int, status string, advisories ...string) map[string]any {
	return map[string]any{"tcb": map[string]any{"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories}
}

func softLevel(sgx, tdx []byte, pce int, status string, advisories ...string) map[string]any {
	list := func(b []byte) (out []any) {
		for _, x := range append(slices.Clone(b), make([]byte, 16-len(b))...) {
			out = append(out, map[string]any{"svn": x})
		}
		return out
	}
	return map[string]any{
		"tcb":     map[string]any{"sgxtcbcomponents": list(sgx), "tdxtcbcomponents": list(tdx), "pcesvn": pce},
		"tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories,
	}
}

func (s *softTD) sign(key *ecdsa.PrivateKey, data []byte) []byte {
	s.t.Helper()
	digest := sha256.Sum256(data)
	r, v, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		s.t.Fatal(err)
	}
	out := make([]byte, quoteSignatureSize)
	r.FillBytes(out[:32])
	v.FillBytes(out[32:])
	return out
}

func (s *softTD) pem(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func (s *softTD) rawBody() []byte {
	b := &s.body
	out := slices.Concat(b.svn[:], b.mrSeam[:], b.mrSignerSeam[:], b.seamAttributes[:])
	out = binary.LittleEndian.AppendUint64(out, b.attributes)
	out = binary.LittleEndian.AppendUint64(out, b.xfam)
	out = slices.Concat(out, b.mrTD[:], b.configID[:], b.owner[:], b.ownerConfig[:], b.rtmrs[0][:], b.rtmrs[1][:], b.rtmrs[2][:], b.rtmrs[3][:], b.reportData[:])
	if s.form == quoteForm5Body15 {
		out = slices.Concat(out, b.svn2[:], b.serviceTD[:])
	}
	return out
}

func (s *softTD) rawQE(key []byte) []byte {
	out := make([]byte, qeReportSize)
	copy(out[16:], s.qe.misc[:])
	copy(out[48:], s.qe.attributes[:])
	copy(out[128:], s.qe.signer[:])
	binary.LittleEndian.PutUint16(out[256:], s.qe.product)
	binary.LittleEndian.PutUint16(out[258:], s.qe.svn)
	if s.qe.reportData == nil {
		bound := sha256.Sum256(slices.Concat(key, s.authData))
		copy(out[320:], bound[:])
	} else {
		copy(out[320:], s.qe.reportData)
	}
	return out
}

func (s *softTD) quote() []byte {
	s.t.Helper()
	version := uint16(5)
	if s.form == quoteForm4 {
		version = 4
	}
	signed := binary.LittleEndian.AppendUint16(nil, version)
	signed = binary.LittleEndian.AppendUint16(signed, attestationKeyP256)
	signed = binary.LittleEndian.AppendUint32(signed, teeTypeTDX)
	vendor, _ := hex.DecodeString(intelQEVendor)
	signed = slices.Concat(signed, make([]byte, 4), vendor, make([]byte, 20))
	body := s.rawBody()
	if s.form != quoteForm4 {
		kind := uint16(tdBody10Type)
		if s.form == quoteForm5Body15 {
			kind = tdBody15Type
		}
		signed = binary.LittleEndian.AppendUint16(signed, kind)
		signed = binary.LittleEndian.AppendUint32(signed, uint32(len(body)))
	}
	signed = append(signed, body...)
	public, err := s.key.PublicKey.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	key := public[1:]
	report := s.rawQE(key)
	inner := slices.Concat(report, s.sign(s.pckKey, report))
	inner = binary.LittleEndian.AppendUint16(inner, uint16(len(s.authData)))
	inner = append(inner, s.authData...)
	chain := s.pem(s.pck, s.ca, s.root.cert)
	inner = binary.LittleEndian.AppendUint16(inner, certificationPCK)
	inner = binary.LittleEndian.AppendUint32(inner, uint32(len(chain)))
	inner = append(inner, chain...)
	data := slices.Concat(s.sign(s.key, signed), key)
	data = binary.LittleEndian.AppendUint16(data, certificationQE)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(inner)))
	data = append(data, inner...)
	return slices.Concat(binary.LittleEndian.AppendUint32(signed, uint32(len(data))), data)
}

func (s *softTD) list(by *x509.Certificate, key *ecdsa.PrivateKey, serials []*big.Int) []byte {
	s.t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: s.issued, NextUpdate: s.next}
	for _, n := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: s.issued})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, by, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return der
}

func (s *softTD) statement(member string, body map[string]any) []byte {
	s.t.Helper()
	body["issueDate"], body["nextUpdate"] = s.issued.Format(time.RFC3339), s.next.Format(time.RFC3339)
	data, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"%s":%s,"signature":"%x"}`, member, data, s.sign(s.signKey, data))
}

func (s *softTD) objects() []Object {
	chain := s.pem(s.signer, s.root.cert)
	return []Object{
		{KindTCBChain, chain},
		{KindQEChain, chain},
		{KindTCBInfo, s.statement(tcbInfoMember, s.info)},
		{KindQEIdentity, s.statement(qeIdentityMember, s.identity)},
		{KindPCKCRL, s.list(s.ca, s.caKey, s.revoked)},
		{KindIntelRootCRL, s.list(s.root.cert, s.rootKey, s.rootRevoked)},
	}
}

func (s *softTD) collateral() Collateral {
	s.t.Helper()
	c, err := newTDXCollateralUnder(s.root, s.objects())
	if err != nil {
		s.t.Fatal(err)
	}
	return Collateral{TDX: c}
}

// policy admits exactly this guest.
func (s *softTD) policy() Policy {
	pol := NovaTDXPolicy()
	pol.Platforms = [][]byte{slices.Repeat([]byte{0x50}, 16)}
	pol.MRTDs = [][]byte{s.body.mrTD[:]}
	for i := range pol.RTMRs {
		pol.RTMRs[i].Values = [][]byte{s.body.rtmrs[i][:]}
	}
	pol.XFAM = MaskedBits{^uint64(0), s.body.xfam}
	return Policy{ReportData: s.body.reportData, TDX: &pol, Simulated: true}
}

// judge gives the codes of all failed checks, by name, and the result.
func (s *softTD) judge(pol Policy) (*Result, *Refusal) {
	s.t.Helper()
	return judged(s.t, Evidence{TEE: TDX, Report: s.quote()}, s.collateral(), pol, s.now)
}

func judged(t testing.TB, ev Evidence, col Collateral, pol Policy, at time.Time) (*Result, *Refusal) {
	t.Helper()
	res, err := Verify(ev, col, pol, at)
	if err == nil {
		return res, nil
	}
	r, ok := err.(*Refusal) //nolint:errorlint // Verify returns nothing else
	if !ok {
		t.Fatalf("not a refusal: %v", err)
	}
	for _, c := range r.Checks {
		if c.Status == Failed && c.Advice == "" {
			t.Errorf("failed check %q gives no advice", c.Name)
		}
	}
	return nil, r
}

func failed(r *Refusal) (names []string) {
	if r == nil {
		return nil
	}
	for _, c := range r.Checks {
		if c.Status == Failed {
			names = append(names, c.Name)
		}
	}
	return names
}
