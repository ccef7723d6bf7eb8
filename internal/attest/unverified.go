package attest

import "bytes"

// UnverifiedMeasurement reads out of evidence that nobody has judged by what its
// policy can be found: of an SEV-SNP report the launch digest (AMD 56860, table
// ATTESTATION_REPORT: MEASUREMENT at 90h, 48 bytes), of a quote RTMR2, which holds
// the measured line (Intel TDX DCAP Quoting Library API, appendix A.3: the third
// register of the TD's report). It is good for nothing else. It is nil where there
// is none, which matches nothing.
func UnverifiedMeasurement(ev Evidence) []byte {
	const digest, report, rtmr2, size = 0x90, 1184, 424, 48
	at := 0
	switch {
	case ev.TEE == SEVSNP && len(ev.Report) == report:
		at = digest
	case ev.TEE == TDX && len(ev.Report) >= minQuoteBytes && len(ev.Report) <= maxQuoteBytes:
		// The shortest quote has room for the register, wherever its body begins.
		form, body, _ := quoteForm(ev.Report)
		if form == "" {
			return nil
		}
		at = body + rtmr2
	default:
		return nil
	}
	return bytes.Clone(ev.Report[at : at+size])
}
