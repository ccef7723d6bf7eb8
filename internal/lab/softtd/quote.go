//go:build devtee

package softtd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Offsets into a version 4 quote, for whoever alters one; one of version 5 has six bytes more before its body (Intel TDX DCAP
// Quoting Library API, appendix A.3).
const (
	BodyAt       = 0x30
	AttributesAt = BodyAt + 120
	XFAMAt       = BodyAt + 128
	MRTDAt       = BodyAt + 136
	RTMRsAt      = BodyAt + 328
	ReportDataAt = BodyAt + 520

	body10Size = 584
	body15Size = 648
	body15Type = 3
)

// intelQE names the vendor of the quoting enclave, which is part of the form.
var intelQE = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// qeSigner is who signed the quoting enclave.
var qeSigner = sha256.Sum256([]byte("simulated quoting enclave"))

// Quote is what varies between the quotes of one machine.
type Quote struct {
	MRTD       [48]byte
	RTMRs      [4][48]byte
	ReportData [64]byte
	// Alter changes header and body before they are signed: the way to the quotes of debug guests and other misfits that a
	// test needs.
	Alter func(quote []byte)
}

// Sign makes a quote of a trust domain on this machine, with Nova's attributes.
func (p *Platform) Sign(q Quote) ([]byte, error) {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, uint16(p.version))
	b = le.AppendUint16(b, 2)    // an ECDSA key over P-256
	b = le.AppendUint32(b, 0x81) // TDX
	b = slices.Concat(b, make([]byte, 4), intelQE, make([]byte, 20))
	if p.version == 5 {
		b = le.AppendUint16(b, body15Type)
		b = le.AppendUint32(b, body15Size)
	}
	body := make([]byte, body10Size)
	copy(body, teeSVN[:])
	le.PutUint64(body[AttributesAt-BodyAt:], attest.NovaTDAttributes)
	le.PutUint64(body[XFAMAt-BodyAt:], XFAM)
	copy(body[MRTDAt-BodyAt:], q.MRTD[:])
	for i, r := range q.RTMRs {
		copy(body[RTMRsAt-BodyAt+48*i:], r[:])
	}
	copy(body[ReportDataAt-BodyAt:], q.ReportData[:])
	if p.version == 5 { // what runs now is what was launched, and no service TD is bound
		body = slices.Concat(body, teeSVN[:], make([]byte, 48))
	}
	b = append(b, body...)
	if q.Alter != nil {
		q.Alter(b)
	}
	data, err := p.signatureData(b)
	if err != nil {
		return nil, fmt.Errorf("signing simulated quote: %w", err)
	}
	return append(le.AppendUint32(b, uint32(len(data))), data...), nil
}

// signatureData is the quote's signature, its key, and what vouches for the key: the quoting enclave's report under the
// platform's certificate.
func (p *Platform) signatureData(signed []byte) ([]byte, error) {
	le := binary.LittleEndian
	public, err := p.key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	key := public[1:]
	authData := make([]byte, 32) // Intel's enclave puts counting bytes here
	for i := range authData {
		authData[i] = byte(i)
	}
	report := enclaveReport(sha256.Sum256(slices.Concat(key, authData)))
	vouched, err := sign(p.pckKey, report)
	if err != nil {
		return nil, err
	}
	signature, err := sign(p.key, signed)
	if err != nil {
		return nil, err
	}
	chain := append(encode(p.pck, p.ca, p.root), 0)
	inner := le.AppendUint16(append(report, vouched...), uint16(len(authData)))
	inner = le.AppendUint16(append(inner, authData...), 5) // a chain of certificates in PEM
	inner = append(le.AppendUint32(inner, uint32(len(chain))), chain...)
	out := le.AppendUint16(append(signature, key...), 6) // the quoting enclave's report with its certification
	return append(le.AppendUint32(out, uint32(len(inner))), inner...), nil
}

// enclaveReport is the quoting enclave's, bound to its key.
func enclaveReport(bound [32]byte) []byte {
	r := make([]byte, 384)
	copy(r, components[:])
	r[48] = 0x11 // initialised, and of the production mode's keys
	copy(r[128:], qeSigner[:])
	binary.LittleEndian.PutUint16(r[256:], qeName)
	binary.LittleEndian.PutUint16(r[258:], qeSVN)
	copy(r[320:], bound[:])
	return r
}

// sign writes r and s, 32 bytes each, as Intel does everywhere outside of certificates.
func sign(key *ecdsa.PrivateKey, data []byte) ([]byte, error) {
	digest := sha256.Sum256(data)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}
