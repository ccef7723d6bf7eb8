package main

import (
	"slices"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// noReference is the check that stands where a policy would: genuine evidence
// without anything to compare it with says nothing about the guest.
var noReference = attest.Check{
	Name: "no reference value", Status: attest.Failed, Code: "no_reference_value",
	Expected: "a policy", Got: "none", Source: "code", Section: "RFC 9334 §8.3, Reference Values",
	Advice: "give the guest's policy with --policy, and what it was challenged with by --report-data",
}

// ownFloor asks for nothing, so that only the gates of the code are judged. It is
// never the policy of an acceptance: noReference fails beside it.
func ownFloor() attest.Policy {
	p := attest.NovaPolicy(map[string]attest.TCB{attest.Milan: {}, attest.Genoa: {}, attest.Turin: {}})
	p.TDX = &attest.TDXPolicy{}
	return p
}

// judge gives the answer to a question.
func (q *question) judge() *answer {
	policy := ownFloor()
	if q.policy != nil {
		policy = *q.policy
	}
	if q.data != nil {
		policy.ReportData = *q.data
	}
	d := attest.Judge(q.evidence, q.collateral, policy, q.at)
	a := &answer{TEE: string(d.TEE), Checks: slices.Clone(d.Checks), Verdict: attest.Accepted}
	a.Genuine = genuine(a.Checks)
	if q.doubt != "" {
		a.Checks = append(a.Checks, attest.Check{
			Name: "collateral as its vendor signed it", Status: attest.Failed, Code: attest.CodeCollateral,
			Expected: "all of it", Got: "not used", Source: "collateral", Advice: q.doubt + "; fetch it from the vendor again",
		})
	}
	if q.policy == nil {
		q.withoutPolicy(a)
	}
	a.Product, a.TCBStatus = product(a.Checks), tcbStatus(a.Checks)
	for i, c := range a.Checks {
		if c.Status != attest.Failed {
			continue
		}
		if c.Name == checkReportData && q.data == nil {
			a.Checks[i].Expected = "--report-data"
			a.Checks[i].Advice = "give what the guest was challenged with by --report-data: without it an old report is as good as a new one"
		}
		if a.Verdict == attest.Accepted {
			a.Verdict, a.Code = attest.Refused, c.Code
		}
	}
	if d.Outcome != attest.Accepted && a.Verdict == attest.Accepted {
		// The judge refused and no check says why: its word counts.
		a.Verdict, a.Code = attest.Refused, d.Code
	}
	return a
}

// withoutPolicy takes back what was judged against a policy that nobody gave.
func (q *question) withoutPolicy(a *answer) {
	for i := range a.Checks {
		c := &a.Checks[i]
		if c.Source != "policy" || c.Name == checkReportData && q.data != nil {
			continue
		}
		c.Status, c.Expected, c.Advice = attest.NotJudged, "", ""
	}
	a.Checks = append(a.Checks, noReference)
}

// Names of the checks that are asked for by name; the tests on genuine evidence
// fail when the judge calls them otherwise.
const (
	checkReportData = "report data"
	checkProduct    = "product line"
	checkChain      = "certificate chain"
	checkSignature  = "report signature"
)

// genuine says that hardware made this evidence: the chain holds down to the root
// in this program, nothing in it is revoked, and the evidence is signed under it.
func genuine(checks []attest.Check) bool {
	proved := 0
	for _, c := range checks {
		switch {
		case c.Code == attest.CodeRevoked && c.Status == attest.Failed:
			return false
		case (c.Name == checkChain || c.Name == checkSignature) && c.Status == attest.Passed:
			proved++
		}
	}
	return proved == 2
}

func product(checks []attest.Check) string {
	for _, c := range checks {
		if c.Name == checkProduct && c.Status == attest.Passed {
			return c.Got
		}
	}
	return ""
}

// tcbStatus is Intel's word for a quote. AMD publishes no list, so for a report it
// says how its three patch levels stand to the policy's floor, if there is one.
func tcbStatus(checks []attest.Check) string {
	at := 0
	for _, c := range checks {
		switch {
		case c.Code == attest.CodeTCBStatus && c.Got != "":
			return c.Got
		case !slices.Contains([]string{"reported TCB", "committed TCB", "TCB at launch"}, c.Name):
		case c.Status == attest.Failed:
			return "below-floor"
		case c.Status == attest.Passed:
			at++
		}
	}
	if at == 3 {
		return "at-floor"
	}
	return ""
}
