package attest

import (
	"errors"
	"fmt"
	"strings"
)

// Bits of PLATFORM_INFO (AMD 56860 §7.3, PLATFORM_INFO).
const (
	platformSMT              = 1 << 0
	platformTSME             = 1 << 1
	platformECC              = 1 << 2
	platformRAPLDisabled     = 1 << 3
	platformCiphertextHiding = 1 << 4
	platformAliasCheck       = 1 << 5
	platformTIO              = 1 << 7
	platformKnown            = platformSMT | platformTSME | platformECC | platformRAPLDisabled |
		platformCiphertextHiding | platformAliasCheck | platformTIO
)

// Rule is what a policy asks of one property of the machine.
type Rule string

const (
	// Any is the zero value: the property is shown, and decides nothing.
	Any      Rule = ""
	Required Rule = "required"
	Barred   Rule = "refused"
)

// MarshalText writes "any" for the zero value.
func (r Rule) MarshalText() ([]byte, error) {
	switch r {
	case Any:
		return []byte("any"), nil
	case Required, Barred:
		return []byte(r), nil
	}
	return nil, errors.New("unknown rule")
}

// UnmarshalText reads "any", "required" or "refused".
func (r *Rule) UnmarshalText(text []byte) error {
	switch Rule(text) {
	case "any":
		*r = Any
	case Required, Barred:
		*r = Rule(text)
	default:
		return errors.New("a rule is neither any, required nor refused")
	}
	return nil
}

// met reports whether a machine with or without the property meets a rule that
// asks for something. One that is none of the known is met by nothing.
func (r Rule) met(set bool) bool {
	switch r {
	case Required:
		return set
	case Barred:
		return !set
	}
	return false
}

// PlatformRules are the rules on the configuration that a machine's firmware
// reports. The check for memory aliases has a member of its own in Policy.
type PlatformRules struct {
	SMT              Rule `json:"smt"`
	TSME             Rule `json:"tsme"`
	ECC              Rule `json:"ecc"`
	RAPLDisabled     Rule `json:"rapl_disabled"`
	CiphertextHiding Rule `json:"ciphertext_hiding"`
	TIO              Rule `json:"tio"`
}

type platformRule struct {
	name string
	rule Rule
	bit  uint64
}

func (p PlatformRules) list() []platformRule {
	return []platformRule{
		{"smt", p.SMT, platformSMT},
		{"tsme", p.TSME, platformTSME},
		{"ecc", p.ECC, platformECC},
		{"rapl_disabled", p.RAPLDisabled, platformRAPLDisabled},
		{"ciphertext_hiding", p.CiphertextHiding, platformCiphertextHiding},
		{"tio", p.TIO, platformTIO},
	}
}

// platform judges the configuration of the machine against the policy.
func (j *judgement) platform(info uint64) {
	if j.pol.RequireAliasCheck {
		j.judge(checkAlias, info&platformAliasCheck != 0, "complete", "", "the firmware has not checked memory for aliases")
	} else {
		j.skip(checkAlias, "the policy does not ask")
	}
	got := fmt.Sprintf("0x%x", info)
	var asked, missed []string
	for _, r := range j.pol.Platform.list() {
		if r.rule == Any {
			continue
		}
		asked = append(asked, r.name+" "+string(r.rule))
		if !r.rule.met(info&r.bit != 0) {
			missed = append(missed, r.name)
		}
	}
	if asked == nil {
		j.skip(checkPlatform, "the policy does not ask; "+got)
		return
	}
	j.judge(checkPlatform, missed == nil, strings.Join(asked, ", "), got, "the machine is configured otherwise: "+strings.Join(missed, ", "))
}

// mitigations judges the vectors of a version 5 report: what the firmware had
// mitigated when the guest was launched, and has now (AMD 56860 §7.3,
// LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR). Earlier versions cannot tell, which
// does not satisfy a policy that asks.
func (j *judgement) mitigations(version uint32, launch, current uint64) {
	want := j.pol.RequireMitigations
	switch {
	case want == 0:
		j.skip(checkMitigations, "the policy does not ask")
	case version < 5:
		j.fail(checkMitigations, hexWord(want), "not reported", "this version of the report does not tell what the firmware mitigates")
	default:
		j.judge(checkMitigations, launch&current&want == want, hexWord(want), "launch "+hexWord(launch)+", now "+hexWord(current),
			"the firmware lacks a mitigation of the policy")
	}
}
