package attest

// check is the index of one check. The order of these constants is the order of
// precedence: the first failed one gives a refusal its code. What shows that
// nothing genuine was judged comes first, then what the guest is, then how and
// where it runs.
type check int

const (
	checkTime check = iota
	checkTEE
	checkLayout
	checkVersion
	checkSignatureAlgorithm
	checkProduct
	checkKeyType
	checkLeaf
	checkChain
	checkRevocation
	checkSignature
	checkCertificateChip
	checkCertificateTCB
	checkDebug
	checkMigration
	checkVMPL
	checkMeasurement
	checkReportData
	checkGuestPolicy
	checkIDBlock
	checkHostData
	checkProductAllowed
	checkHardware
	checkMaskedChip
	checkChip
	checkTCBLayout
	checkReportedTCB
	checkCommittedTCB
	checkLaunchTCB
	checkCurrentTCB
	checkAlias
	numChecks
)

const (
	fromCode        = "code"
	fromPolicy      = "policy"
	fromCertificate = "certificate"
	fromCollateral  = "collateral"
)

var checkTable = [numChecks]Check{
	checkTime:               {Name: "time of the verdict", Code: CodeCollateral, Source: fromCode},
	checkTEE:                {Name: "kind of evidence", Code: CodeFormat, Source: fromCode},
	checkLayout:             {Name: "report layout", Code: CodeFormat, Source: fromCode},
	checkVersion:            {Name: "report version", Code: CodeVersion, Source: fromCode},
	checkSignatureAlgorithm: {Name: "signature algorithm", Code: CodeFormat, Source: fromCode},
	checkProduct:            {Name: "product line", Code: CodeProduct, Source: fromCode},
	checkKeyType:            {Name: "kind of signing key", Code: CodeKeyType, Source: fromCode},
	checkLeaf:               {Name: "certificate of the chip", Code: CodeCollateral, Source: fromCollateral},
	checkChain:              {Name: "certificate chain", Code: CodeChain, Source: fromCollateral},
	checkRevocation:         {Name: "revocation list", Code: CodeCollateral, Source: fromCollateral},
	checkSignature:          {Name: "report signature", Code: CodeSignature, Source: fromCertificate},
	checkCertificateChip:    {Name: "certificate names this chip", Code: CodeChip, Source: fromCertificate},
	checkCertificateTCB:     {Name: "certificate names the reported TCB", Code: CodeTCB, Source: fromCertificate},
	checkDebug:              {Name: "debugging is off", Code: CodeDebug, Source: fromCode},
	checkMigration:          {Name: "no migration agent", Code: CodeMigration, Source: fromCode},
	checkVMPL:               {Name: "privilege level", Code: CodeVMPL, Source: fromCode},
	checkMeasurement:        {Name: "launch measurement", Code: CodeMeasurement, Source: fromPolicy},
	checkReportData:         {Name: "report data", Code: CodeReportData, Source: fromPolicy},
	checkGuestPolicy:        {Name: "guest policy", Code: CodePolicy, Source: fromPolicy},
	checkIDBlock:            {Name: "no identity block", Code: CodeIDBlock, Source: fromCode},
	checkHostData:           {Name: "no host data", Code: CodeHostData, Source: fromCode},
	checkProductAllowed:     {Name: "product line allowed", Code: CodeProduct, Source: fromPolicy},
	checkHardware:           {Name: "genuine or simulated hardware", Code: CodeChain, Source: fromPolicy},
	checkMaskedChip:         {Name: "chip id is shown", Code: CodeChip, Source: fromCode},
	checkChip:               {Name: "registered chip", Code: CodeChip, Source: fromPolicy},
	checkTCBLayout:          {Name: "reserved TCB bytes", Code: CodeTCB, Source: fromCode},
	checkReportedTCB:        {Name: "reported TCB", Code: CodeTCB, Source: fromPolicy},
	checkCommittedTCB:       {Name: "committed TCB", Code: CodeTCB, Source: fromPolicy},
	checkLaunchTCB:          {Name: "TCB at launch", Code: CodeTCB, Source: fromPolicy},
	checkCurrentTCB:         {Name: "committed TCB is not above the current", Code: CodeTCB, Source: fromCode},
	checkAlias:              {Name: "memory alias check", Code: CodePlatform, Source: fromPolicy},
}

// verdict collects the checks of one verification.
type verdict struct {
	checks []Check
	detail [numChecks]string
	failed bool
}

func newVerdict() *verdict {
	v := &verdict{checks: make([]Check, numChecks)}
	copy(v.checks, checkTable[:])
	for i := range v.checks {
		v.checks[i].Status = NotJudged
	}
	return v
}

func (v *verdict) pass(c check, got string) {
	v.checks[c].Status, v.checks[c].Got = Passed, got
}

// fail records a failure. The detail is a sentence for the log and must be made
// of constants and expectations: no byte of the evidence belongs in it.
func (v *verdict) fail(c check, expected, got, detail string) {
	v.failed = true
	v.checks[c].Status, v.checks[c].Expected, v.checks[c].Got = Failed, expected, got
	v.detail[c] = detail
}

// judge records a comparison.
func (v *verdict) judge(c check, ok bool, expected, got, detail string) {
	if !ok {
		v.fail(c, expected, got, detail)
		return
	}
	v.checks[c].Status, v.checks[c].Expected, v.checks[c].Got = Passed, expected, got
}

// skip says why a check was not judged.
func (v *verdict) skip(c check, why string) { v.checks[c].Got = why }

// refusal returns the typed error of the first failure in the order of precedence.
func (v *verdict) refusal() *Refusal {
	for i, c := range v.checks {
		if c.Status == Failed {
			return &Refusal{Code: c.Code, Check: c.Name, Detail: v.detail[i], Checks: v.checks}
		}
	}
	return nil
}
