package kbs

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// The names of hardware as decisions have them; those of the wire are TEESNP and
// TEETDX.
const (
	judgedSNP = "sev-snp"
	judgedTDX = "tdx"
)

const (
	maxCertificates = 16
	maxCertificate  = 8 << 10
	maxTable        = 64 << 10
	maxQuote        = 64 << 10
	maxEventLog     = 512 << 10
)

// Evidence is what the hardware made, in its own form, out of whichever form it
// travelled in.
type Evidence struct {
	// TEE is "sev-snp" or "tdx".
	TEE string
	// Report is the report of SNP, 1184 bytes, or the quote of TDX.
	Report []byte
	// Certificates, of SNP, are DER in a row with the chip's own first, or AMD's
	// certificate table; empty if none came.
	Certificates []byte
	// EventLog, of TDX, is the CCEL; empty if none came.
	EventLog []byte
	// SVSM says that the evidence came in coconut-svsm's dialect, whose digest of
	// nonce and key is another.
	SVSM bool
	// Unknown counts members of a report that its 1184 bytes were built without.
	// If the signature fails, this is the likely cause: the report has a newer
	// form than the one known here.
	Unknown int
}

// ParseEvidence reads the member primary_evidence. tee is TEESNP or TEETDX, or
// their names in decisions; everything else is refused, sample* by name.
func ParseEvidence(tee string, primary json.RawMessage) (Evidence, error) {
	if tee == judgedSNP {
		tee = TEESNP
	}
	if err := judgeTEE(tee); err != nil {
		return Evidence{}, err
	}
	if len(primary) > MaxAttestBody {
		return Evidence{}, TooLarge()
	}
	var e Evidence
	err := read(primary, func(r *reader) (err error) {
		if tee == TEETDX {
			e, err = r.tdx()
		} else {
			e, err = r.snp()
		}
		return err
	})
	if err != nil {
		return Evidence{}, AttestFailed(fmt.Errorf("reading evidence of %s: %w", tee, err))
	}
	return e, nil
}

func (r *reader) tdx() (Evidence, error) {
	e := Evidence{TEE: judgedTDX}
	var err error
	e.Unknown, err = r.members(false, []member{
		{name: "cc_eventlog", optional: true, read: func() (err error) {
			e.EventLog, err = r.base64(base64.StdEncoding, maxEventLog)
			return err
		}},
		{name: "quote", read: func() (err error) {
			e.Report, err = r.base64(base64.StdEncoding, maxQuote)
			return err
		}},
	})
	return e, err
}

// snp reads either form of SNP evidence: the report spelled out by the stock
// attester, or SVSM's, whose report is bytes.
func (r *reader) snp() (Evidence, error) {
	e := Evidence{TEE: judgedSNP}
	var parsed, chain, raw, table bool
	_, err := r.members(false, []member{
		{name: "attestation_report", optional: true, read: func() (err error) {
			parsed = true
			e.Report, e.Unknown, err = r.snpReport()
			return err
		}},
		{name: "cert_chain", optional: true, read: func() (err error) {
			chain = true
			e.Certificates, err = r.certChain()
			return err
		}},
		{name: "snp-report", optional: true, read: func() (err error) {
			raw = true
			e.Report, err = r.base64(base64.StdEncoding, snpReportSize)
			if err == nil && len(e.Report) != snpReportSize {
				err = errors.New("not the length of a report")
			}
			return err
		}},
		{name: "certs-buf", optional: true, read: func() (err error) {
			table = true
			e.Certificates, err = r.base64(base64.StdEncoding, maxTable)
			return err
		}},
	})
	if err == nil && (parsed == raw || chain && !parsed || table && !raw) {
		err = errors.New("a report in exactly one of two forms is wanted")
	}
	e.SVSM = raw
	return e, err
}

// certChain reads certificates with their kinds. Their order is the host's; the
// leaf comes out first, because it is the only one that may be looked at, and a
// chain may not push it out of sight.
func (r *reader) certChain() ([]byte, error) {
	var leaf, rest []byte
	err := r.array(maxCertificates, func(int) error {
		var kind string
		var der []byte
		_, err := r.members(false, []member{
			{name: "cert_type", read: func() (err error) { kind, err = r.certType(); return err }},
			{name: "data", read: func() (err error) { der, err = r.byteList(maxCertificate); return err }},
		})
		switch kind {
		case "VCEK", "VLEK":
			leaf = append(leaf, der...)
		case "ASK", "ARK":
			rest = append(rest, der...)
		}
		return err
	})
	if len(leaf)+len(rest) > maxTable {
		return nil, errLong
	}
	return append(leaf, rest...), err
}

// certType is a name, or {"OTHER":"<uuid>"} for a kind that the client does not
// know; such entries, revocation lists and empty ones are left out.
func (r *reader) certType() (kind string, err error) {
	if r.peek() == '"' {
		return r.text(16)
	}
	_, err = r.members(true, []member{{name: "OTHER", read: func() error {
		_, err := r.text(64)
		return err
	}}})
	return "", err
}
