package main

import (
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// TestGenuine: the chain and the signature together, and nothing revoked.
func TestGenuine(t *testing.T) {
	chain := attest.Check{Name: proofs[attest.SEVSNP][0], Code: attest.CodeChain, Status: attest.Passed}
	signature := attest.Check{Name: proofs[attest.SEVSNP][1], Code: attest.CodeSignature, Status: attest.Passed}
	revoked := attest.Check{Name: "certificates not revoked", Code: attest.CodeRevoked, Status: attest.Failed}
	other := attest.Check{Name: "launch measurement", Code: attest.CodeMeasurement, Status: attest.Failed}
	bad := func(c attest.Check, s attest.Status) attest.Check { c.Status = s; return c }
	for name, row := range map[string]struct {
		checks []attest.Check
		want   bool
	}{
		"nothing":              {nil, false},
		"chain only":           {[]attest.Check{chain}, false},
		"signature only":       {[]attest.Check{signature}, false},
		"both":                 {[]attest.Check{chain, signature, other}, true},
		"chain failed":         {[]attest.Check{bad(chain, attest.Failed), signature}, false},
		"signature not judged": {[]attest.Check{chain, bad(signature, attest.NotJudged)}, false},
		"revoked":              {[]attest.Check{chain, signature, revoked}, false},
		"not revoked":          {[]attest.Check{chain, signature, bad(revoked, attest.Passed)}, true},
		"nobody looked":        {[]attest.Check{chain, signature, bad(revoked, attest.NotJudged)}, true},
	} {
		if got := genuine(attest.SEVSNP, row.checks); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
		if genuine(attest.TDX, row.checks) || genuine("sample", row.checks) {
			t.Errorf("%s: genuine as something else", name)
		}
	}
}

func TestTCBStatus(t *testing.T) {
	levels := func(s ...attest.Status) (out []attest.Check) {
		for i, name := range []string{"reported TCB", "committed TCB", "TCB at launch"} {
			out = append(out, attest.Check{Name: name, Code: attest.CodeTCB, Status: s[i]})
		}
		return out
	}
	for want, checks := range map[string][]attest.Check{
		"at-floor":    levels(attest.Passed, attest.Passed, attest.Passed),
		"below-floor": levels(attest.Passed, attest.Failed, attest.Passed),
		"":            levels(attest.NotJudged, attest.NotJudged, attest.NotJudged),
		"OutOfDate":   {{Name: checkStatus, Code: attest.CodeTCBStatus, Status: attest.Failed, Got: "OutOfDate INTEL-SA-00001 INTEL-SA-00002"}},
		"UpToDate":    {{Name: checkTCBRevoked, Status: attest.Passed, Got: "UpToDate"}, {Name: checkStatus, Status: attest.Passed, Got: "UpToDate"}},
		"Revoked": {
			{Name: checkTCBRevoked, Code: attest.CodeRevoked, Status: attest.Failed, Got: "Revoked"},
			{Name: checkStatus, Code: attest.CodeTCBStatus, Status: attest.NotJudged, Got: "a part has no TCB level"},
		},
	} {
		if got := tcbStatus(checks); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, none := range []attest.Check{
		{Name: checkStatus, Status: attest.NotJudged, Got: "a part has no TCB level"},
		{Name: "TCB evaluation data number", Code: attest.CodeTCBStatus, Status: attest.Passed, Got: "17"},
	} {
		if got := tcbStatus([]attest.Check{none}); got != "" {
			t.Errorf("%q is no status", got)
		}
	}
	if got := tcbStatus(levels(attest.Passed, attest.Passed, attest.NotJudged)); got != "" {
		t.Errorf("two of three levels: %q", got)
	}
}

// TestTerminal: no byte of evidence reaches a terminal that could steer it.
func TestTerminal(t *testing.T) {
	a := answer{TEE: "sev-snp\x1b[2J", Product: "Gen\u202eoa", Verdict: attest.Refused, Code: "x", Checks: []attest.Check{
		{Name: "a\nb", Status: attest.Failed, Got: "\x1b]0;x\x07\u009b1m", Expected: strings.Repeat("ab", 48), Advice: "c\rd"},
	}}
	var out strings.Builder
	if err := a.writeTable(&out); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\x07\r\u009b\u202e") || strings.Contains(out.String(), "a\nb") {
		t.Errorf("%q", out.String())
	}
	if !strings.Contains(out.String(), strings.Repeat("ab", 11)+"a…") || strings.Contains(out.String(), strings.Repeat("ab", 13)) {
		t.Errorf("long hex is not cut: %s", out.String())
	}
}
