package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// TDXCollateral is what Intel says of its platforms: TCB infos, identities of the
// quoting enclave and revocation lists, any number of each. Signatures under the
// pinned root were proved when it was made, except those of the platform lists,
// whose CA comes with the quote; windows are judged with each quote. It may be
// shared.
type TDXCollateral struct {
	root       *intelRoot
	signers    []*x509.Certificate
	infos      []*tcbInfo
	identities []*qeIdentity
	rootLists  []*intelList
	pckLists   []*intelList
	raw        []Object

	mu     sync.Mutex
	proved map[listProof]bool
}

// signedObject is what TCB info and QE identity have in common.
type signedObject struct {
	issued, next time.Time
	evaluation   int
	by           *x509.Certificate
}

func (o *signedObject) window() (from, to time.Time) { return o.issued, o.next }

// intelList is one revocation list.
type intelList struct {
	revocations
	list *x509.RevocationList
	sum  [sha256.Size]byte
}

func (l *intelList) window() (from, to time.Time) { return l.thisUpdate, l.nextUpdate }

type listProof struct{ list, ca [sha256.Size]byte }

const (
	tcbInfoMember    = "tcbInfo"
	qeIdentityMember = "enclaveIdentity"
	// maxIntelObjects bounds a site's collateral: some dozen kinds of platforms.
	maxIntelObjects = 1024
	maxListProofs   = 64
)

// NewTDXCollateral reads Intel's objects as its provisioning service publishes
// them: TCB info and QE identity as JSON with their signature, revocation lists in
// DER, issuer chains in PEM. Each must be signed under Intel's pinned root.
func NewTDXCollateral(objects []Object) (*TDXCollateral, error) {
	return newTDXCollateralUnder(pinnedIntelRoot(), objects)
}

func newTDXCollateralUnder(root *intelRoot, objects []Object) (*TDXCollateral, error) {
	if len(objects) > maxIntelObjects {
		return nil, fmt.Errorf("reading collateral of Intel: more than %d objects", maxIntelObjects)
	}
	c := &TDXCollateral{root: root, proved: make(map[listProof]bool)}
	// The chains come first: without a signer nothing else can be proved.
	for _, chains := range []bool{true, false} {
		for _, o := range objects {
			if chains != (o.Kind == KindTCBChain || o.Kind == KindQEChain) {
				continue
			}
			if len(o.Bytes) > maxObjectBytes {
				return nil, fmt.Errorf("reading %s: more than %d bytes", o.Kind, maxObjectBytes)
			}
			if err := c.add(o); err != nil {
				return nil, fmt.Errorf("reading %s: %w", o.Kind, err)
			}
			c.raw = append(c.raw, Object{o.Kind, bytes.Clone(o.Bytes)})
		}
	}
	return c, nil
}

func (c *TDXCollateral) add(o Object) error {
	switch o.Kind {
	case KindTCBChain, KindQEChain:
		return c.addChain(o.Bytes)
	case KindTCBInfo:
		body, by, err := c.signedBody(o.Bytes, tcbInfoMember)
		if err != nil {
			return err
		}
		t, err := parseTCBInfo(body)
		if err != nil {
			return err
		}
		t.by = by
		c.infos = append(c.infos, t)
	case KindQEIdentity:
		body, by, err := c.signedBody(o.Bytes, qeIdentityMember)
		if err != nil {
			return err
		}
		q, err := parseQEIdentity(body)
		if err != nil {
			return err
		}
		q.by = by
		c.identities = append(c.identities, q)
	case KindIntelRootCRL, KindPCKCRL:
		return c.addList(o)
	default:
		return errors.New("its kind is not known")
	}
	return nil
}

// addChain reads the certificate that signs TCB info and QE identity, with the
// root behind it (Intel PCS API v4, issuer chains).
func (c *TDXCollateral) addChain(data []byte) error {
	certs, err := readChain(data, 2)
	if err != nil {
		return err
	}
	signer, root := certs[0], c.root.cert
	if !bytes.Equal(certs[1].Raw, root.Raw) || signer.Subject.CommonName != nameTCBSigning || signer.IsCA ||
		!bytes.Equal(signer.RawIssuer, root.RawSubject) || len(signer.UnhandledCriticalExtensions) != 0 || signer.CheckSignatureFrom(root) != nil {
		return errors.New("the signing certificate was not issued by Intel's root")
	}
	if !slices.ContainsFunc(c.signers, signer.Equal) {
		c.signers = append(c.signers, signer)
	}
	return nil
}

// signedBody returns the member that is signed, and the certificate it is signed
// with. Intel signs the bytes as they stand in the answer, so the answer is taken
// apart by its exact form, {"<member>":<body>,"signature":"<hex>"}, and every byte
// outside the body has its place.
func (c *TDXCollateral) signedBody(data []byte, member string) ([]byte, *x509.Certificate, error) {
	const tail = len(`,"signature":"`) + 2*quoteSignatureSize + len(`"}`)
	head := `{"` + member + `":`
	data = bytes.TrimRight(data, "\r\n")
	if len(data) < len(head)+2+tail || !bytes.HasPrefix(data, []byte(head)) {
		return nil, nil, fmt.Errorf("it is not %s with its signature", member)
	}
	body, behind := data[len(head):len(data)-tail], data[len(data)-tail:]
	text, ok := bytes.CutPrefix(behind, []byte(`,"signature":"`))
	text, closed := bytes.CutSuffix(text, []byte(`"}`))
	signature, err := hex.DecodeString(string(text))
	if !ok || !closed || err != nil || hex.EncodeToString(signature) != string(text) || body[0] != '{' || body[len(body)-1] != '}' {
		return nil, nil, fmt.Errorf("it is not %s with its signature in lower-case hex", member)
	}
	digest := sha256.Sum256(body)
	for _, s := range c.signers {
		if key, ok := s.PublicKey.(*ecdsa.PublicKey); ok && signedP256(key, digest, signature) {
			return body, s, nil
		}
	}
	return nil, nil, errors.New("none of the signing certificates at hand signed it")
}

func (c *TDXCollateral) addList(o Object) error {
	list, err := x509.ParseRevocationList(o.Bytes)
	if err != nil {
		return fmt.Errorf("malformed revocation list: %w", err)
	}
	if len(list.Raw) != len(o.Bytes) || list.NextUpdate.IsZero() {
		return errors.New("the revocation list has no next update, or something behind it")
	}
	l := &intelList{
		revocations: revocations{thisUpdate: list.ThisUpdate, nextUpdate: list.NextUpdate, serials: make(map[string]bool)},
		list:        list, sum: sha256.Sum256(o.Bytes),
	}
	for _, e := range list.RevokedCertificateEntries {
		l.serials[e.SerialNumber.String()] = true
	}
	if o.Kind == KindPCKCRL {
		c.pckLists = append(c.pckLists, l)
		return nil
	}
	if !bytes.Equal(list.RawIssuer, c.root.cert.RawSubject) || list.CheckSignatureFrom(c.root.cert) != nil {
		return errors.New("the revocation list was not signed by Intel's root")
	}
	c.rootLists = append(c.rootLists, l)
	return nil
}

// pckListsOf returns the revocation lists that this CA signed. The CA is that of a
// quote and must have been proved; each pair is checked once.
func (c *TDXCollateral) pckListsOf(ca *x509.Certificate) []*intelList {
	var out []*intelList
	sum := sha256.Sum256(ca.Raw)
	for _, l := range c.pckLists {
		if !bytes.Equal(l.list.RawIssuer, ca.RawSubject) {
			continue
		}
		key := listProof{l.sum, sum}
		c.mu.Lock()
		known := c.proved[key]
		c.mu.Unlock()
		if !known {
			if l.list.CheckSignatureFrom(ca) != nil {
				continue
			}
			c.mu.Lock()
			if len(c.proved) < maxListProofs {
				c.proved[key] = true
			}
			c.mu.Unlock()
		}
		out = append(out, l)
	}
	return out
}

// objects lists the collateral as Intel published it.
func (c *TDXCollateral) objects() []Object { return slices.Clone(c.raw) }

// Objects lists the collateral as Intel published it: what NewTDXCollateral reads.
func (c *TDXCollateral) Objects() []Object { return c.objects() }

// current picks, of objects for the same thing, the one that speaks for the time
// at; of several the one issued last, and if none does the last as well, so that
// the verdict names what was nearest.
func current[T interface{ window() (from, to time.Time) }](of []T, at time.Time) (best T, covered bool) {
	var bestFrom time.Time
	for i, o := range of {
		from, to := o.window()
		covers := !at.Before(from) && at.Before(to)
		if i == 0 || covers && !covered || covers == covered && from.After(bestFrom) {
			best, bestFrom, covered = o, from, covers
		}
	}
	return best, covered
}

// tdxDocument is collateral as one JSON object with Intel's member names, as
// dcap-qvl stores it: bodies as strings, signatures and lists in hex.
type tdxDocument struct {
	PCKCRLChain         string `json:"pck_crl_issuer_chain,omitempty"`
	RootCRL             string `json:"root_ca_crl"`
	PCKCRL              string `json:"pck_crl"`
	TCBInfoChain        string `json:"tcb_info_issuer_chain"`
	TCBInfo             string `json:"tcb_info"`
	TCBInfoSignature    string `json:"tcb_info_signature"`
	QEIdentityChain     string `json:"qe_identity_issuer_chain"`
	QEIdentity          string `json:"qe_identity"`
	QEIdentitySignature string `json:"qe_identity_signature"`
	PCKChain            string `json:"pck_certificate_chain,omitempty"`
}

const maxTDXDocumentBytes = 4 << 20

// ParseTDXCollateral reads collateral for one platform from one JSON object. Its
// chain of the platform list's issuer is not used: the CA is proved with the quote.
func ParseTDXCollateral(data []byte) (*TDXCollateral, error) {
	return parseTDXCollateralUnder(pinnedIntelRoot(), data)
}

func parseTDXCollateralUnder(root *intelRoot, data []byte) (*TDXCollateral, error) {
	objects, err := TDXObjects(data)
	if err != nil {
		return nil, err
	}
	return newTDXCollateralUnder(root, objects)
}

// TDXObjects takes such a document apart; members that are empty give no object.
func TDXObjects(data []byte) ([]Object, error) {
	fail := func(what string) ([]Object, error) {
		return nil, fmt.Errorf("reading collateral of Intel: %s", what)
	}
	if len(data) > maxTDXDocumentBytes {
		return fail(fmt.Sprintf("more than %d bytes", maxTDXDocumentBytes))
	}
	var doc tdxDocument
	if err := strict(data, &doc); err != nil {
		return fail("not one JSON object with Intel's member names")
	}
	var out []Object
	for _, b := range []struct{ kind, member, body, signature string }{
		{KindTCBInfo, tcbInfoMember, doc.TCBInfo, doc.TCBInfoSignature},
		{KindQEIdentity, qeIdentityMember, doc.QEIdentity, doc.QEIdentitySignature},
	} {
		if b.body == "" {
			continue
		}
		signature, err := hex.DecodeString(b.signature)
		if err != nil || !json.Valid([]byte(b.body)) {
			return fail(b.member + " or its signature is malformed")
		}
		out = append(out, Object{b.kind, fmt.Appendf(nil, `{"%s":%s,"signature":"%x"}`, b.member, b.body, signature)})
	}
	for _, l := range []struct{ kind, hex string }{{KindPCKCRL, doc.PCKCRL}, {KindIntelRootCRL, doc.RootCRL}} {
		if l.hex == "" {
			continue
		}
		der, err := hex.DecodeString(l.hex)
		if err != nil {
			return fail(l.kind + " is not hex")
		}
		out = append(out, Object{l.kind, der})
	}
	for _, p := range []struct{ kind, pem string }{{KindTCBChain, doc.TCBInfoChain}, {KindQEChain, doc.QEIdentityChain}} {
		if p.pem != "" {
			out = append(out, Object{p.kind, []byte(p.pem)})
		}
	}
	return out, nil
}

// Document writes the collateral of one platform as such a JSON object: the first
// object of each kind.
func (c *TDXCollateral) Document() ([]byte, error) {
	var doc tdxDocument
	first := make(map[string][]byte)
	for _, o := range c.raw {
		if _, seen := first[o.Kind]; !seen {
			first[o.Kind] = o.Bytes
		}
	}
	split := func(data []byte, member string) (body, signature string) {
		data = bytes.TrimRight(data, "\r\n")
		cut := len(data) - len(`,"signature":"`) - 2*quoteSignatureSize - len(`"}`)
		if cut < 0 {
			return "", ""
		}
		return string(data[len(member)+len(`{"":`) : cut]), string(data[len(data)-2*quoteSignatureSize-2 : len(data)-2])
	}
	doc.TCBInfo, doc.TCBInfoSignature = split(first[KindTCBInfo], tcbInfoMember)
	doc.QEIdentity, doc.QEIdentitySignature = split(first[KindQEIdentity], qeIdentityMember)
	doc.PCKCRL, doc.RootCRL = hex.EncodeToString(first[KindPCKCRL]), hex.EncodeToString(first[KindIntelRootCRL])
	doc.TCBInfoChain, doc.QEIdentityChain = string(first[KindTCBChain]), string(first[KindQEChain])
	out, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing collateral of Intel: %w", err)
	}
	return out, nil
}
