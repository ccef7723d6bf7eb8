package attest

import "bytes"

// UnverifiedMeasurement reads the launch digest out of evidence that nobody has
// judged (AMD 56860, table ATTESTATION_REPORT: MEASUREMENT at 90h, 48 bytes). It
// is good for one thing: finding the policy under which to judge. It is nil where
// there is none, which matches nothing.
func UnverifiedMeasurement(ev Evidence) []byte {
	const offset, size, report = 0x90, 48, 1184
	if ev.TEE != SEVSNP || len(ev.Report) != report {
		return nil
	}
	return bytes.Clone(ev.Report[offset : offset+size])
}
