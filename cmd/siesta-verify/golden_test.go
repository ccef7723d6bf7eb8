package main

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata; docs/verify.md shows some of them.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: want -, got +\n%s", path, diff)
	}
}

// TestExamples holds the policy and the bundle that docs/verify.md uses: both are
// stored forms, which later programs must still read and judge alike.
func TestExamples(t *testing.T) {
	policy, err := os.ReadFile(within(t, load(t, "siena-v5-report.bin"), nil))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "siena-policy.json", string(policy)+"\n")
	golden(t, "siena-decision.json", string(bundled(t, nil))+"\n")
}

// TestTable holds what a person reads, to the byte.
func TestTable(t *testing.T) {
	for name, row := range map[string]struct {
		args   []string
		status int
	}{
		"milan-refused.txt":   {[]string{data + "milan-v2-report.bin", "--cert", data + "milan-v2-vcek.der"}, 1},
		"siena-no-policy.txt": {[]string{data + "siena-v5-report.bin", "--cert", data + "siena-v5-vcek.der"}, 1},
		"siena-accepted.txt": {[]string{
			data + "siena-v5-report.bin", "--cert", data + "siena-v5-vcek.der", "--report-data", "68656c6c6f2d6174746573746174696f6e",
			"--policy", within(t, load(t, "siena-v5-report.bin"), nil),
		}, 0},
		"tdx-uptodate.txt": {[]string{tdxQuote, "--collateral", data + tdxCollateral, "--at", "2025-06-25T00:00:00Z"}, 1},
	} {
		status, out, errs := sv(nil, append([]string{"evidence"}, row.args...)...)
		if status != row.status || errs != "" {
			t.Errorf("%s: status %d, %q", name, status, errs)
		}
		golden(t, name, out)
	}
}
