package attest

import (
	"errors"
	"fmt"
)

// TEE names the kind of hardware that made the evidence.
type TEE string

const (
	// SEVSNP is AMD SEV-SNP. A simulated report is one of these, too, signed under
	// roots that only development builds can load; Result.Simulated says so.
	SEVSNP TEE = "sev-snp"
	// TDX is Intel TDX.
	TDX TEE = "tdx"
)

// Evidence is what a guest sends. Nothing in it is believed before it is proved.
type Evidence struct {
	TEE TEE
	// Report is the raw attestation report, 1184 bytes for SEV-SNP, or the quote
	// of TDX.
	Report []byte
	// Certificates may hold the VCEK or VLEK as DER, PEM or AMD's certificate
	// table. It is a hint: any other certificate in it is ignored.
	Certificates []byte
	// EventLog belongs to TEEs with run-time measurements; SEV-SNP has none.
	EventLog []byte
}

// Status of one check.
type Status string

const (
	// Passed means judged and good.
	Passed Status = "passed"
	// Failed means judged and bad: the evidence is refused.
	Failed Status = "failed"
	// NotJudged means that an earlier failure, or the policy, left nothing to judge.
	NotJudged Status = "not judged"
)

// Check is one line of a verdict, written for the person who reads the decision.
type Check struct {
	Name     string `json:"name"`
	Status   Status `json:"status"`
	Code     string `json:"code"`
	Expected string `json:"expected,omitempty"`
	Got      string `json:"got,omitempty"`
	// Source says where the expectation comes from: "code", "policy",
	// "certificate" or "collateral".
	Source string `json:"source"`
	// Section is the place in the vendor's document on which the check rests.
	Section string `json:"section,omitempty"`
	// Advice is what an operator does next; only a failed check has it.
	Advice string `json:"advice,omitempty"`
}

// Codes of refusals. They are stable: audit entries, metrics and the API use them.
const (
	CodeFormat      = "format"
	CodeVersion     = "version"
	CodeProduct     = "product"
	CodeKeyType     = "key_type"
	CodeCollateral  = "collateral"
	CodeChain       = "chain"
	CodeSignature   = "signature"
	CodeDebug       = "debug"
	CodeMigration   = "migration"
	CodeVMPL        = "vmpl"
	CodeMeasurement = "measurement"
	CodeReportData  = "report_data"
	CodePolicy      = "policy"
	CodeIDBlock     = "id_block"
	CodeHostData    = "host_data"
	CodeChip        = "chip"
	CodeTCB         = "tcb"
	CodePlatform    = "platform"
	CodeRevoked     = "revoked"
	CodeTCBStatus   = "tcb_status"
	CodeAttributes  = "attributes"
	CodeServiceTD   = "service_td"
	CodeRTMR        = "rtmr"
	CodeEventLog    = "event_log"
	CodeQE          = "qe"
	CodeModule      = "module"
)

// Result is what a genuine report within policy says. It is only ever returned
// when no check failed.
type Result struct {
	TEE TEE
	// Product is AMD's product line: "Milan", "Genoa" (with Bergamo and Siena) or
	// "Turin"; for TDX it is the FMSPC.
	Product       string
	ReportVersion uint32
	// ReportID is fresh for each launch of a guest and the same in all its reports.
	ReportID    [32]byte
	ChipID      [64]byte
	Measurement [48]byte
	ReportData  [64]byte
	GuestPolicy uint64
	CurrentTCB  TCB
	Reported    TCB
	Committed   TCB
	Launch      TCB
	// VCEK is the SHA-256 of the leaf certificate (DER) under which the report was
	// proved: the chip's VCEK, or the provider's VLEK.
	VCEK [32]byte
	// VLEKProvider is the provider (CSP_ID) that holds the signing key; empty when
	// the chip itself does.
	VLEKProvider string
	// PlatformInfo and Mitigations are what the firmware said at the report; the
	// vectors exist since report version 5.
	PlatformInfo       uint64
	LaunchMitigations  uint64
	CurrentMitigations uint64
	// TCBStatus is "at-floor" for SEV-SNP, whose vendor publishes no list, and
	// Intel's word for TDX. Advisories are the vendor's ids that came with it, and
	// EvaluationNumber names Intel's data set.
	TCBStatus        string
	Advisories       []string
	EvaluationNumber int
	// TDX is set for TDX only.
	TDX *TDXResult
	// Simulated is true when the chain ends in a root made for a demonstration.
	Simulated bool
	Checks    []Check
	// Sent is the leaf that was judged by, in DER, if it came with the evidence.
	Sent []byte
}

// Refusal is the error of evidence that was judged and found wanting. Its text
// holds no bytes of the evidence.
type Refusal struct {
	// Code is that of the first failed check in the fixed order of precedence.
	Code string
	// Check is the name of that check.
	Check  string
	Detail string
	// Checks lists all checks, in the order of precedence.
	Checks []Check
	// Product is Result.Product as far as it was read. It is proved only if the
	// checks of chain and signature passed.
	Product string
	// Sent is the leaf that was judged by, in DER, if it came with the evidence.
	Sent []byte
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("evidence refused (%s): %s: %s", r.Code, r.Check, r.Detail)
}

// Judged is the evidence without what its verdict does not rest on: of the
// certificates that came with it at most one is left, the leaf that it was judged
// by, and an event log only to a trust domain, without its padding. The verdict on
// what is left is the same. res and err are what Verify returned.
func Judged(ev Evidence, res *Result, err error) Evidence {
	ev.Certificates = nil
	if ev.TEE == TDX {
		ev.EventLog = EventLog(ev.EventLog)
	} else {
		ev.EventLog = nil
	}
	var refusal *Refusal
	switch {
	case err == nil && res != nil:
		ev.Certificates = res.Sent
	case errors.As(err, &refusal):
		ev.Certificates = refusal.Sent
	}
	return ev
}
