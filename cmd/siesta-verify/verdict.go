package main

import (
	"errors"
	"slices"

	"github.com/eosc-siesta/siestad/internal/attest"
)

const (
	accepted = "accepted"
	refused  = "refused"
)

// noReference is the check that stands where a policy would: genuine evidence
// without anything to compare it with says nothing about the guest.
var noReference = attest.Check{
	Name: "no reference value", Status: attest.Failed, Code: "no_reference_value",
	Expected: "a policy", Got: "none", Source: "code",
}

// ownFloor asks for nothing, so that only the gates of the code are judged. It is
// never the policy of an acceptance: noReference fails beside it.
func ownFloor() attest.Policy {
	return attest.NovaPolicy(map[string]attest.TCB{attest.Milan: {}, attest.Genoa: {}, attest.Turin: {}})
}

// judge gives the answer to a question.
func (q *question) judge() (*answer, error) {
	policy := ownFloor()
	if q.policy != nil {
		policy = *q.policy
	}
	if q.data != nil {
		policy.ReportData = *q.data
	}
	a := &answer{TEE: string(q.evidence.TEE), Verdict: accepted}
	res, err := attest.Verify(q.evidence, q.collateral, policy, q.at)
	var refusal *attest.Refusal
	switch {
	case err == nil:
		a.Checks = slices.Clone(res.Checks)
	case errors.As(err, &refusal):
		a.Checks = slices.Clone(refusal.Checks)
	default:
		return nil, err
	}
	a.Genuine = genuine(a.Checks)
	if q.policy == nil {
		q.withoutPolicy(a)
	}
	for _, c := range a.Checks {
		if c.Name == checkProduct && c.Status == attest.Passed {
			a.Product = c.Got
		}
		if c.Status == attest.Failed && a.Verdict == accepted {
			a.Verdict, a.Code = refused, c.Code
		}
	}
	return a, nil
}

// withoutPolicy takes back what was judged against a policy that nobody gave.
func (q *question) withoutPolicy(a *answer) {
	for i := range a.Checks {
		c := &a.Checks[i]
		if c.Source != "policy" || c.Name == checkReportData && q.data != nil {
			continue
		}
		c.Status, c.Expected = attest.NotJudged, ""
	}
	a.Checks = append(a.Checks, noReference)
}

// Names of the checks that this command asks for by name; TestNames holds them to
// those of the judge.
const (
	checkProduct    = "product line"
	checkChain      = "certificate chain"
	checkSignature  = "report signature"
	checkRevocation = "revocation list"
	checkReportData = "report data"
)

// genuine says that hardware made this evidence: the chain holds down to the root
// in this program, nothing in it is revoked, and the evidence is signed under it.
func genuine(checks []attest.Check) bool {
	proved := 0
	for _, c := range checks {
		switch {
		case c.Name == checkRevocation && c.Status == attest.Failed && c.Got == "revoked":
			return false
		case (c.Name == checkChain || c.Name == checkSignature) && c.Status == attest.Passed:
			proved++
		}
	}
	return proved == 2
}
