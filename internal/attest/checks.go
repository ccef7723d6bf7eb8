package attest

import "slices"

// check is the index of one check in the table of its TEE. The order of a table
// is the order of precedence: the first failed one gives a refusal its code. What
// shows that nothing genuine was judged comes first, then what the guest is, then
// how and where it runs. Each table begins with the three that all TEEs share.
type check int

const (
	checkTime check = iota
	checkTEE
	checkLayout
	// firstOwn is the first check of a TEE's own.
	firstOwn
)

const (
	fromCode        = "code"
	fromPolicy      = "policy"
	fromCertificate = "certificate"
	fromCollateral  = "collateral"
)

// verdict collects the checks of one verification.
type verdict struct {
	table  []Check
	checks []Check
	detail []string
	failed bool
}

// newVerdict starts from a table whose rows hold name, code, source, section and
// the advice of a failure.
func newVerdict(table []Check) *verdict {
	v := &verdict{table: table, checks: slices.Clone(table), detail: make([]string, len(table))}
	for i := range v.checks {
		v.checks[i].Status, v.checks[i].Advice = NotJudged, ""
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
	v.checks[c].Advice = v.table[c].Advice
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
// It is asked only after something has failed.
func (v *verdict) refusal() *Refusal {
	for i, c := range v.checks {
		if c.Status == Failed {
			return &Refusal{Code: c.Code, Check: c.Name, Detail: v.detail[i], Checks: v.checks}
		}
	}
	v.fail(checkLayout, "", "", "the verdict is incomplete")
	return v.refusal()
}
