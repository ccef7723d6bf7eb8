package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// bundled takes a real decision about the Siena guest and stores it.
func bundled(t testing.TB, change func(*attest.Policy)) []byte {
	t.Helper()
	report := load(t, "siena-v5-report.bin")
	text, err := readInput(within(t, report, change), nil, maxPolicyFile)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := attest.ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	copy(policy.ReportData[:], report[0x50:0x90])
	col, err := attest.NewCollateral(attest.AMDRoots(), []attest.Object{{Kind: attest.KindVCEK, Bytes: load(t, "siena-v5-vcek.der")}})
	if err != nil {
		t.Fatal(err)
	}
	b := attest.NewBundle(attest.Evidence{TEE: attest.SEVSNP, Report: report}, col, policy, today)
	b.Decision.ID = "01jdexample"
	out, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDecision(t *testing.T) {
	accepted := bundled(t, nil)
	refused := bundled(t, func(p *attest.Policy) { p.Chips = nil })
	for name, row := range map[string]struct {
		bundle []byte
		says   string
	}{
		"accepted": {accepted, "decision 01jdexample of 2026-11-24T12:00:00Z comes out the same: accepted\n"},
		"refused":  {refused, "comes out the same: refused (chip: registered chip)\n"},
		"pretty":   {indented(t, refused), "comes out the same: refused"},
	} {
		for _, args := range [][]string{{"decision", "-"}, {"decision", put(t, row.bundle)}} {
			if status, out, errs := sv(row.bundle, args...); status != 0 || errs != "" || !strings.Contains(out, row.says) {
				t.Errorf("%s: status %d, %q, %q", name, status, out, errs)
			}
		}
	}

	var record struct {
		Decision struct {
			Policy, Evidence, Collateral string
		}
	}
	if err := json.Unmarshal(accepted, &record); err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("0", 64)
	for name, row := range map[string]struct{ from, to, says string }{
		"outcome":          {`"outcome":"accepted"`, `"outcome":"refused"`, "outcome: on record refused, now accepted"},
		"a code":           {`"outcome":"accepted"`, `"outcome":"accepted","code":"tcb"`, "code: on record tcb"},
		"the time":         {`"at":"2026-11-24T12:00:00Z"}`, `"at":"2026-11-25T12:00:00Z"}`, "time: on record"},
		"before the chip":  {`"at":"2026-11-24T12:00:00Z"`, `"at":"2026-02-01T12:00:00Z"`, "outcome: on record accepted, now refused"},
		"policy's name":    {record.Decision.Policy, zeros, "policy hash"},
		"evidence's name":  {record.Decision.Evidence, zeros, "evidence digest"},
		"collateral":       {record.Decision.Collateral, zeros, "collateral digest"},
		"a check":          {`"name":"debugging is off","status":"passed"`, `"name":"debugging is off","status":"not judged"`, `"debugging is off"`},
		"what a check got": {`"got":"Genoa"`, `"got":"Milan"`, `"product line"`},
		"the policy":       {`"require_policy":"0x30000"`, `"require_policy":"0x30001"`, "policy hash"},
		"the challenge":    {`"report_data":"aGVsbG8`, `"report_data":"aGVsbG9`, "outcome: on record accepted, now refused"},
		"the report":       {`"report":"BQAAAA`, `"report":"BQAAAQ`, "evidence digest"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := bytes.ReplaceAll(accepted, []byte(row.from), []byte(row.to))
			if bytes.Equal(changed, accepted) {
				t.Fatal("nothing was changed")
			}
			status, out, errs := sv(changed, "decision", "-")
			if status != 1 || out != "" || !strings.Contains(errs, row.says) {
				t.Errorf("status %d, %q, %q does not say %q", status, out, errs, row.says)
			}
		})
	}
}

func indented(t *testing.T, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecisionUnreadable(t *testing.T) {
	good := bundled(t, nil)
	swap := func(from, to string) []byte {
		changed := bytes.Replace(good, []byte(from), []byte(to), 1)
		if bytes.Equal(changed, good) {
			t.Fatalf("no %s in the bundle", from)
		}
		return changed
	}
	for name, row := range map[string]struct {
		bundle []byte
		says   string
	}{
		"empty":                {nil, "ends too early"},
		"cut":                  {good[:len(good)/2], "ends too early"},
		"continued":            {append(bytes.Clone(good), good...), "follows"},
		"report":               {load(t, "siena-v5-report.bin"), "breaks at byte"},
		"client's evidence":    {load(t, "siena-v3-kbs-evidence.json"), "no decision in it"},
		"deep":                 {[]byte(strings.Repeat(`{"decision":`, 100_000)), "nested deeper"},
		"huge":                 {make([]byte, maxBundle+1), "more than"},
		"decision twice":       {swap(`{"version":1,`, `{"decision":{},"version":1,`), "twice"},
		"another version":      {swap(`{"version":1,"decision"`, `{"version":7,"decision"`), "version 7"},
		"unknown member":       {swap(`{"version":1,"decision"`, `{"version":1,"note":"x","decision"`), "note"},
		"short report data":    {swap(`"report_data":"`, `"report_data":"","x":"`), "reading decision bundle"},
		"collateral swapped":   {swap(`"bytes":"MII`, `"bytes":"MIJ`), "not those of its digest"},
		"unknown collateral":   {swap(`"kind":"amd-vcek"`, `"kind":"amd-magic"`), "kind is not known"},
		"policy not canonical": {swap(`"simulated":false`, `"simulated":false,"all":true`), "policy"},
		"simulated":            {bundled(t, func(p *attest.Policy) { p.Simulated = true }), "demonstration"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := sv(row.bundle, "decision", "-")
			if status != 2 || out != "" || !strings.Contains(errs, row.says) {
				t.Errorf("status %d, %q, %q does not say %q", status, out, errs, row.says)
			}
		})
	}
	for _, args := range [][]string{{"decision"}, {"decision", "/nonexistent"}, {"decision", t.TempDir()}, {"decision", "-", "--under", "me"}} {
		if status, _, errs := sv(nil, args...); status != 2 || errs == "" {
			t.Errorf("%v: status %d, %q", args, status, errs)
		}
	}
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte(`{"version":1,"decision":{"at":"2026-11-24T12:00:00Z","tee":"tdx","outcome":"refused","checks":[],"objects":[]},"at":"2026-11-24T12:00:00Z"}`))
	f.Add([]byte(`{"version":1,"decision":{},"evidence":{"tee":"sev-snp","report":"AA=="},"policy":{"version":1},"collateral":[{"kind":"amd-vcek"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := readBundle(text)
		if err != nil {
			return
		}
		if got, err := b.Replay(); err == nil && got.Outcome != b.Decision.Outcome {
			t.Error("another outcome passes as the same")
		}
	})
}
