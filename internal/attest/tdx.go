package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Bits of TDATTRIBUTES and XFAM (Intel TDX Module ABI, ATTRIBUTES and XFAM).
const (
	tdDebug       = 1 << 0
	tdSEPTVEOff   = 1 << 28
	tdMigratable  = 1 << 29
	tdPKS         = 1 << 30
	tdKeyLocker   = 1 << 31
	tdPerfmon     = 1 << 63
	tdKnown       = tdDebug | tdSEPTVEOff | tdMigratable | tdPKS | tdKeyLocker | tdPerfmon
	xfamFixed     = 0x3 // x87 and SSE are always on
	tdPPIDSize    = 16
	reportedBytes = 8
)

// XFAMKnown are the processor features that are known; a quote with any other is refused.
const XFAMKnown uint64 = 0x6dbe7

// TDXResult is what a genuine quote within policy says.
type TDXResult struct {
	// Form is format and body type, "v4", "v5-tdx1.0" or "v5-tdx1.5".
	Form         string
	FMSPC, PCEID string
	// PPID names the platform in all its PCK certificates.
	PPID [16]byte
	// TCBSVN is that of the launch; TCBSVN2 that of what runs now, where HasSVN2.
	TCBSVN, TCBSVN2 [16]byte
	HasSVN2         bool
	Attributes      uint64
	XFAM            uint64
	MRSEAM, MRTD    [48]byte
	MRConfigID      [48]byte
	MROwner         [48]byte
	MROwnerConfig   [48]byte
	MRServiceTD     [48]byte
	RTMRs           [4][48]byte
	// PlatformStatus, ModuleStatus and QEStatus are the parts of Result.TCBStatus.
	PlatformStatus, ModuleStatus, QEStatus string
	// EventLog is true if a log came with the quote and gave its registers.
	EventLog bool
}

// tdx judges a quote. The result means something only if no check failed.
func (j *judgement) tdx(ev Evidence) *Result {
	j.judge(checkTime, !j.at.IsZero(), "set", "", "the time of the verdict is not set")
	q := j.quote(ev.Report)
	if q == nil {
		return nil
	}
	pol := j.pol.TDX
	j.judge(tdxAdmitted, pol != nil, "", "", "the policy does not admit TDX")
	if pol == nil {
		// Judged all the same, by the policy that admits nothing: the list is whole.
		pol = &TDXPolicy{}
	}
	res := j.domain(q, pol)
	j.registers(ev.EventLog, pol, res)
	p := j.signedBy(q, pol, res)
	if p == nil {
		return nil
	}
	j.appraise(q, p, pol, res)
	return res
}

// quote reads the quote as far as its form is known.
func (j *judgement) quote(raw []byte) *quote {
	if len(raw) < minQuoteBytes || len(raw) > maxQuoteBytes {
		j.fail(checkLayout, fmt.Sprintf("%d to %d bytes", minQuoteBytes, maxQuoteBytes), fmt.Sprintf("%d bytes", len(raw)),
			"the quote has an impossible length")
		return nil
	}
	form, bodyAt, bodySize := quoteForm(raw)
	j.judge(tdxForm, form != "", strings.Join(quoteForms, ", "), form, quoteFormNotKnown)
	keyType, tee := word(raw)>>16&0xffff, word(raw)>>32
	j.judge(tdxKeyType, keyType == attestationKeyP256 && tee == teeTypeTDX, "2 (ECDSA P-256), 0x81 (TDX)", fmt.Sprintf("%d, 0x%x", keyType, tee),
		"the quote is not of a TD, or its key is of another kind")
	if j.failed && (form == "" || keyType != attestationKeyP256 || tee != teeTypeTDX) {
		return nil
	}
	q, err := readQuote(raw, form, bodyAt, bodySize)
	if err != nil {
		// The library's text quotes the bytes that it did not like.
		j.fail(checkLayout, "", "", quoteLengthsMismatch)
		return nil
	}
	j.pass(checkLayout, fmt.Sprintf("%d bytes", len(raw)))
	vendor := hex.EncodeToString(q.header[quoteVendorOffset:quoteVendorEnd])
	j.judge(tdxVendor, vendor == intelQEVendor, intelQEVendor, vendor, "the quoting enclave is not Intel's")
	return q
}

// domain judges what the quote says of the guest; the first rules cannot be opened
// by any policy.
func (j *judgement) domain(q *quote, pol *TDXPolicy) *Result {
	b := q.body
	attributes, xfam := word(b.TdAttributes), word(b.Xfam)
	j.judge(tdxDebug, attributes&tdDebug == 0, "off", "", "the host may debug this guest")
	j.judge(tdxMigratable, attributes&tdMigratable == 0, "off", "", "the host may migrate this guest")
	j.judge(tdxKnownAttributes, attributes&^uint64(tdKnown) == 0, bits(tdKnown), bits(attributes), "an attribute is set that is not known")
	j.judge(tdxKnownFeatures, xfam&^XFAMKnown == 0 && xfam&xfamFixed == xfamFixed, bits(XFAMKnown), bits(xfam),
		"a processor feature is set that is not known, or one is missing that always is")
	j.judge(tdxSeamSigner, allZero(b.MrSignerSeam), "zero", hex.EncodeToString(b.MrSignerSeam[:reportedBytes])+"…", "the TDX module is not Intel's")
	j.judge(tdxSeamAttributes, allZero(b.SeamAttributes), "zero", hex.EncodeToString(b.SeamAttributes), "the TDX module is not a production one")
	if q.form == quoteForm5Body15 {
		listed := allZero(b.MrServiceTd) || contains(pol.ServiceTDs, b.MrServiceTd)
		j.judge(tdxServiceTD, listed, fmt.Sprintf("none, or one of %d", len(pol.ServiceTDs)), hex.EncodeToString(b.MrServiceTd),
			"a service TD is bound to this guest that the policy does not list")
	} else {
		j.skip(tdxServiceTD, "this form of the quote does not tell")
	}

	j.judge(tdxFormAllowed, slices.Contains(pol.Quotes, q.form), strings.Join(pol.Quotes, ", "), q.form, "the policy does not admit this form of the quote")
	j.judge(tdxMRTD, contains(pol.MRTDs, b.MrTd) && !allZero(b.MrTd), oneOf(pol.MRTDs), hex.EncodeToString(b.MrTd), "the guest was launched from other firmware")
	// Only the first bytes: the field is a hash over a nonce.
	j.judge(tdxReportData, bytes.Equal(b.ReportData, j.pol.ReportData[:]) && !allZero(b.ReportData),
		hex.EncodeToString(j.pol.ReportData[:reportedBytes])+"…", hex.EncodeToString(b.ReportData[:reportedBytes])+"…",
		"the quote is not bound to this challenge and these keys")
	j.judge(tdxAttributes, pol.Attributes.admits(attributes), pol.Attributes.String(), bits(attributes), "the guest was launched with other attributes")
	j.judge(tdxFeatures, pol.XFAM.admits(xfam), pol.XFAM.String(), bits(xfam), "the guest was launched with other processor features")
	for _, f := range []struct {
		check  check
		want   [48]byte
		got    []byte
		detail string
	}{
		{tdxConfigID, pol.MRConfigID, b.MrConfigId, "the guest was launched with another configuration id"},
		{tdxOwner, pol.MROwner, b.MrOwner, "the guest was launched for another owner"},
		{tdxOwnerConfig, pol.MROwnerConfig, b.MrOwnerConfig, "the guest was launched with another owner's configuration"},
	} {
		j.judge(f.check, bytes.Equal(f.got, f.want[:]), zeroOr(f.want[:]), zeroOr(f.got), f.detail)
	}

	t := &TDXResult{
		Form: q.form, Attributes: attributes, XFAM: xfam, HasSVN2: q.form == quoteForm5Body15,
		TCBSVN: [16]byte(b.TeeTcbSvn), MRSEAM: [48]byte(b.MrSeam), MRTD: [48]byte(b.MrTd),
		MRConfigID: [48]byte(b.MrConfigId), MROwner: [48]byte(b.MrOwner), MROwnerConfig: [48]byte(b.MrOwnerConfig),
	}
	if t.HasSVN2 {
		t.TCBSVN2, t.MRServiceTD = [16]byte(b.TeeTcbSvn2), [48]byte(b.MrServiceTd)
	}
	for i := range t.RTMRs {
		t.RTMRs[i] = [48]byte(b.Rtmrs[i])
	}
	res := &Result{TEE: TDX, Measurement: t.MRTD, ReportData: [64]byte(b.ReportData), GuestPolicy: attributes, TDX: t}
	// A TD has no id of its launch. The report data stand in for it: they differ with
	// each challenge, so that no two guests are ever taken for one; whoever needs to
	// know a guest again asks for its key.
	res.ReportID = sha256.Sum256(prefixed([]byte("siesta/td-report-id/v1"), b.ReportData))
	res.ReportVersion = quoteVersion4
	if q.form != quoteForm4 {
		res.ReportVersion = quoteVersion5
	}
	return res
}

// signedBy judges who signed: the chain to Intel's root, the quoting enclave's
// report, its key, and the quote.
func (j *judgement) signedBy(q *quote, pol *TDXPolicy, res *Result) *platform {
	root := j.col.Roots.intelRoot()
	if j.col.TDX != nil {
		root = j.col.TDX.root
	}
	var cache *platformCache
	if j.cache != nil {
		cache = &j.cache.platforms
	}
	p, err := cache.platform(q, root)
	if err != nil {
		// The library's text may quote the certificate.
		j.fail(tdxCertificate, "the platform's certificate with its chain", "none", "the quote has no readable certificate chain of the platform")
		return nil
	}
	j.pass(tdxCertificate, hexName(p.sum))
	switch {
	case !p.chained:
		j.fail(tdxChain, nameRootCA, "", "the platform's certificate was not issued under Intel's root")
	case j.at.IsZero() || !p.validAt(j.at):
		j.fail(tdxChain, window(p.notBefore, p.notAfter), stamp(j.at), "a certificate of the chain is not valid at this time")
	default:
		j.pass(tdxChain, nameRootCA)
	}
	j.judge(tdxQESignature, p.signed, "", "", "the platform's key did not sign the quoting enclave's report")
	j.judge(tdxKeyBinding, p.own, "", "", "the quoting enclave's report does not name the attestation key")
	j.judge(tdxSignature, signedP256(p.key, sha256.Sum256(q.signed), q.signature), "", "", "the attestation key did not sign this quote")
	j.judge(tdxHardware, root.simulated == j.pol.Simulated, hardware(j.pol.Simulated), hardware(root.simulated),
		"simulated and genuine hardware do not stand in for each other")
	ppid, _ := hex.DecodeString(p.ppid) // provePlatform saw 32 hex digits
	j.judge(tdxRegistered, contains(pol.Platforms, ppid), fmt.Sprintf("one of %d registered", len(pol.Platforms)), p.ppid,
		"the platform is not registered for this site")
	res.Simulated, res.VCEK, res.Product = root.simulated, p.sum, p.fmspc
	copy(res.ChipID[:], ppid)
	copy(res.TDX.PPID[:], ppid)
	res.TDX.FMSPC, res.TDX.PCEID = p.fmspc, p.pceID
	return p
}

func contains(list [][]byte, b []byte) bool {
	return slices.ContainsFunc(list, func(x []byte) bool { return bytes.Equal(x, b) })
}

func oneOf(list [][]byte) string {
	if len(list) == 1 {
		return hex.EncodeToString(list[0])
	}
	return fmt.Sprintf("one of %d", len(list))
}

func zeroOr(b []byte) string {
	if allZero(b) {
		return "zero"
	}
	return hex.EncodeToString(b)
}

func bits(w uint64) string { return fmt.Sprintf("0x%x", w) }
