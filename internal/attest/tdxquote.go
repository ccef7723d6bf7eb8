package attest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tdx-guest/abi"
	tpb "github.com/google/go-tdx-guest/proto/tdx"
)

// Sizes of the parts of a quote (Intel TDX DCAP Quoting Library API, appendix A.3,
// TD quote formats 4 and 5). Both formats share header and signature data; format
// 5 names the type and the size of the body that follows the header.
const (
	quoteHeaderSize     = 48
	quoteDescriptorSize = 6
	tdBody10Size        = 584
	tdBody15Size        = 648
	quoteSignatureSize  = 64
	attestationKeySize  = 64
	qeReportSize        = 384
	certificationHead   = 6
	qeAuthDataOffset    = qeReportSize + quoteSignatureSize

	tdBody10Type = 2
	tdBody15Type = 3

	attestationKeyP256   = 2
	teeTypeTDX           = 0x81
	certificationQE      = 6
	certificationPCK     = 5
	minSignatureData     = quoteSignatureSize + attestationKeySize + certificationHead + qeAuthDataOffset + 2 + certificationHead
	minQuoteBytes        = quoteHeaderSize + tdBody10Size + 4 + minSignatureData
	maxQuoteBytes        = 64 << 10
	quoteVersion4        = 4
	quoteVersion5        = 5
	quoteForm4           = "v4"
	quoteForm5Body10     = "v5-tdx1.0"
	quoteForm5Body15     = "v5-tdx1.5"
	intelQEVendor        = "939a7233f79c4ca9940a0db3957f0607"
	quoteVendorOffset    = 12
	quoteVendorEnd       = 28
	quoteFormNotKnown    = "this form of the quote is not known"
	quoteLengthsMismatch = "the lengths within the quote do not fit together"
)

// quote is a TD quote, read but not believed.
type quote struct {
	form   string
	header []byte
	body   *tpb.TDQuoteBodyV5
	// signed is the header and the body, with its descriptor: what the attestation
	// key signed. Bytes behind the signature data are padding that nothing reads.
	signed, signature []byte
	// certification is the attestation key with all that speaks for it: what a proof
	// is remembered by.
	certification []byte
	key           []byte
	qeReport      []byte
	qe            *tpb.EnclaveReport
	qeSignature   []byte
	authData      []byte
	pckChain      []byte
}

// quoteForm names format and body type; empty means not known.
func quoteForm(raw []byte) (form string, bodyAt, bodySize int) {
	switch binary.LittleEndian.Uint16(raw) {
	case quoteVersion4:
		return quoteForm4, quoteHeaderSize, tdBody10Size
	case quoteVersion5:
		at := quoteHeaderSize + quoteDescriptorSize
		switch binary.LittleEndian.Uint16(raw[quoteHeaderSize:]) {
		case tdBody10Type:
			return quoteForm5Body10, at, tdBody10Size
		case tdBody15Type:
			return quoteForm5Body15, at, tdBody15Size
		}
	}
	return "", 0, 0
}

// readQuote holds every length of the quote against the others before the library
// slices by them; the quote's form is one of the known.
func readQuote(raw []byte, form string, bodyAt, bodySize int) (*quote, error) {
	bad := errors.New(quoteLengthsMismatch)
	if form != quoteForm4 && binary.LittleEndian.Uint32(raw[quoteHeaderSize+2:]) != uint32(bodySize) {
		return nil, bad
	}
	end := bodyAt + bodySize
	if len(raw) < end+4 {
		return nil, bad
	}
	size := binary.LittleEndian.Uint32(raw[end:])
	rest := raw[end+4:]
	if size < minSignatureData || uint64(size) > uint64(len(rest)) {
		return nil, bad
	}
	data := rest[:size]
	cert := data[quoteSignatureSize+attestationKeySize:]
	if binary.LittleEndian.Uint16(cert) != certificationQE || uint64(binary.LittleEndian.Uint32(cert[2:])) != uint64(len(cert)-certificationHead) {
		return nil, bad
	}
	cert = cert[certificationHead:]
	authEnd := qeAuthDataOffset + 2 + int(binary.LittleEndian.Uint16(cert[qeAuthDataOffset:]))
	if authEnd+certificationHead > len(cert) {
		return nil, bad
	}
	pck := cert[authEnd:]
	if binary.LittleEndian.Uint16(pck) != certificationPCK || uint64(binary.LittleEndian.Uint32(pck[2:])) != uint64(len(pck)-certificationHead) {
		return nil, bad
	}
	parsed, err := abi.QuoteToProto(raw)
	if err != nil {
		return nil, fmt.Errorf("reading quote: %w", err)
	}
	q := &quote{
		form: form, header: raw[:quoteHeaderSize], signed: raw[:end],
		signature: data[:quoteSignatureSize], certification: data[quoteSignatureSize:],
		key:      data[quoteSignatureSize : quoteSignatureSize+attestationKeySize],
		qeReport: cert[:qeReportSize], qeSignature: cert[qeReportSize:qeAuthDataOffset],
		authData: cert[qeAuthDataOffset+2 : authEnd], pckChain: pck[certificationHead:],
	}
	var signed *tpb.Ecdsa256BitQuoteV4AuthData
	switch p := parsed.(type) {
	case *tpb.QuoteV4:
		q.body, signed = widened(p.GetTdQuoteBody()), p.GetSignedData()
	case *tpb.QuoteV5:
		q.body, signed = p.GetTdQuoteBodyDescriptor().GetTdQuoteBodyV5(), p.GetSignedData()
	}
	q.qe = signed.GetCertificationData().GetQeReportCertificationData().GetQeReport()
	if q.body == nil || q.qe == nil {
		return nil, errors.New("reading quote: it has no body or no report of the quoting enclave")
	}
	return q, nil
}

// widened is the body of format 4 in the type of format 5.
func widened(b *tpb.TDQuoteBody) *tpb.TDQuoteBodyV5 {
	if b == nil {
		return nil
	}
	return &tpb.TDQuoteBodyV5{
		TeeTcbSvn: b.TeeTcbSvn, MrSeam: b.MrSeam, MrSignerSeam: b.MrSignerSeam, SeamAttributes: b.SeamAttributes,
		TdAttributes: b.TdAttributes, Xfam: b.Xfam, MrTd: b.MrTd, MrConfigId: b.MrConfigId, MrOwner: b.MrOwner,
		MrOwnerConfig: b.MrOwnerConfig, Rtmrs: b.Rtmrs, ReportData: b.ReportData,
	}
}

func word(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
