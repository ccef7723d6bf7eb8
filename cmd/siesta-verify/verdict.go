package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// noReference is the check that stands where a policy would: genuine evidence
// without anything to compare it with says nothing about the guest.
var noReference = attest.Check{
	Name: "no reference value", Status: attest.Failed, Code: "no_reference_value",
	Expected: "a policy", Got: "none", Source: "code", Section: "RFC 9334 §8.3, Reference Values",
	Advice: "give the guest's policy with --policy, and what it was challenged with by --report-data",
}

// ownFloor is what stands in for a policy: the gates of the code, hardware that is
// no simulation, no service TD, and of Intel's words only UpToDate. It is never
// the policy of an acceptance: noReference fails beside it.
func ownFloor() attest.Policy {
	p := attest.NovaPolicy(map[string]attest.TCB{attest.Milan: {}, attest.Genoa: {}, attest.Turin: {}})
	tdx := attest.NovaTDXPolicy()
	p.TDX = &tdx
	return p
}

// ownChecks are the checks of a policy that ownFloor judges all the same.
var ownChecks = []string{"genuine or simulated hardware", "service TD", checkStatus}

// judge gives the answer to a question.
func (q *question) judge() *answer {
	policy := ownFloor()
	if q.policy != nil {
		policy = *q.policy
	}
	if q.data != nil {
		policy.ReportData = *q.data
	}
	a := &answer{TEE: string(q.evidence.TEE), Verdict: attest.Accepted}
	res, err := attest.Verify(q.evidence, q.collateral, policy, q.at)
	var refusal *attest.Refusal
	if errors.As(err, &refusal) {
		a.Checks, a.Product = slices.Clone(refusal.Checks), refusal.Product
	} else {
		a.Checks, a.Product = slices.Clone(res.Checks), res.Product
	}
	a.Genuine = genuine(q.evidence.TEE, a.Checks)
	if q.doubt != "" {
		a.Checks = append(a.Checks, attest.Check{
			Name: "collateral as its vendor signed it", Status: attest.Failed, Code: attest.CodeCollateral,
			Expected: "all of it", Got: "not used", Source: "collateral", Advice: q.doubt + "; fetch it from the vendor again",
		})
	}
	if q.policy == nil {
		q.withoutPolicy(a)
	}
	a.TCBStatus = tcbStatus(a.Checks)
	for i, c := range a.Checks {
		if c.Status != attest.Failed {
			continue
		}
		if c.Name == checkReportData && q.data == nil {
			a.Checks[i].Expected = "--report-data"
			a.Checks[i].Advice = "give what the guest was challenged with by --report-data: without it an old report is as good as a new one"
		}
		if c.Name == checkSignature && q.unknown > 0 {
			a.Checks[i].Advice = fmt.Sprintf("the client names %d fields that this program does not know and cannot put back into the report: update it, or give the raw report", q.unknown)
		}
		if a.Verdict == attest.Accepted {
			a.Verdict, a.Code = attest.Refused, c.Code
		}
	}
	return a
}

// withoutPolicy takes back what was judged against a policy that nobody gave.
func (q *question) withoutPolicy(a *answer) {
	for i := range a.Checks {
		c := &a.Checks[i]
		if c.Source != "policy" || slices.Contains(ownChecks, c.Name) || c.Name == checkReportData && q.data != nil {
			continue
		}
		c.Status, c.Expected, c.Advice = attest.NotJudged, "", ""
	}
	a.Checks = append(a.Checks, noReference)
}

const (
	checkReportData = "report data"
	checkSignature  = "report signature"
	checkStatus     = "TCB status"
	checkTCBRevoked = "TCB not revoked"
)

// proofs names the checks that together show that hardware made the evidence: the
// chain down to the root in this program, and each signature below it. The tests
// on genuine evidence fail when the judge calls them otherwise.
var proofs = map[attest.TEE][]string{
	attest.SEVSNP: {"certificate chain", checkSignature},
	attest.TDX: {
		"certificate chain", "signature of the quoting enclave's report", "attestation key of the quoting enclave", "quote signature",
	},
}

// genuine says that hardware made this evidence, and that nothing in its chain is
// revoked as far as the collateral tells.
func genuine(tee attest.TEE, checks []attest.Check) bool {
	proved := 0
	for _, c := range checks {
		switch {
		case c.Code == attest.CodeRevoked && c.Status == attest.Failed:
			return false
		case slices.Contains(proofs[tee], c.Name) && c.Status == attest.Passed:
			proved++
		}
	}
	return proved > 0 && proved == len(proofs[tee])
}

// tcbStatus is Intel's word for a quote, or nothing where Intel lists no level. AMD publishes no list, so for a report it
// says how its three patch levels stand to the policy's floor, if there is one.
func tcbStatus(checks []attest.Check) string {
	at := 0
	for _, c := range checks {
		switch {
		case (c.Name == checkStatus || c.Name == checkTCBRevoked) && c.Status != attest.NotJudged:
			// The advisories follow the word.
			word, _, _ := strings.Cut(c.Got, " ")
			return word
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
