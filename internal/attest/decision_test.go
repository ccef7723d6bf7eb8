package attest

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func bundleOf(t *testing.T, s sample, col Collateral) Bundle {
	t.Helper()
	b := NewBundle(s.evidence, col, s.policy, s.at)
	b.Decision.ID = "01J0000000"
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var back Bundle
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(back)
	if err != nil || !bytes.Equal(data, again) {
		t.Fatalf("the bundle reads back as another: %v", err)
	}
	return back
}

// TestReplay takes decisions again from their bundles: the same checks and code,
// and an error that names what was changed in either.
func TestReplay(t *testing.T) {
	refusedSample := sienaV5(t)
	refusedSample.policy.Measurements = [][]byte{bytes.Repeat([]byte{9}, 48)}
	for _, s := range []sample{sienaV3(t), sienaV5(t), milan(t), debugged(t), refusedSample} {
		got, err := bundleOf(t, s, amd()).Replay()
		if err != nil || got.ID != "01J0000000" {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	s := sienaV5(t)
	registered := amd()
	registered.VCEKs = map[string][][]byte{
		ChipKey(s.policy.Chips[0]): {s.evidence.Certificates}, "another chip": {file(t, "turin-vcek.der")},
	}
	s.evidence.Certificates = nil
	good := bundleOf(t, s, registered)
	if len(good.Collateral) != 1 || good.Decision.Outcome != Accepted {
		t.Fatalf("%d objects, %s", len(good.Collateral), good.Decision.Outcome)
	}
	if _, err := good.Replay(); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		change func(*Bundle)
		word   string
	}{
		"evidence":      {func(b *Bundle) { b.Evidence.Report = slices.Clone(b.Evidence.Report); b.Evidence.Report[0x90] ^= 1 }, "evidence digest"},
		"certificates":  {func(b *Bundle) { b.Evidence.Certificates = []byte{1} }, "evidence digest"},
		"policy":        {func(b *Bundle) { b.Policy.RequireAliasCheck = true }, "policy hash"},
		"report data":   {func(b *Bundle) { b.Policy.ReportData[0] ^= 1 }, "outcome"},
		"collateral":    {func(b *Bundle) { b.Collateral = nil }, "collateral digest"},
		"time":          {func(b *Bundle) { b.At = b.At.AddDate(10, 0, 0) }, "time"},
		"outcome":       {func(b *Bundle) { b.Decision.Outcome = Refused }, "outcome"},
		"code":          {func(b *Bundle) { b.Decision.Code = CodeTCB }, "code"},
		"a check":       {func(b *Bundle) { b.Decision.Checks[4].Got = "other" }, "check"},
		"a check's end": {func(b *Bundle) { b.Decision.Checks = b.Decision.Checks[1:] }, "number of checks"},
		"an object":     {func(b *Bundle) { b.Decision.Objects = nil }, "objects"},
		"garbage":       {func(b *Bundle) { b.Collateral = []Object{{KindVCEK, []byte{1}}} }, "collateral"},
	} {
		b := bundleOf(t, s, registered)
		row.change(&b)
		if _, err := b.Replay(); err == nil || !strings.Contains(err.Error(), row.word) {
			t.Errorf("%s: %v, want a word about %q", name, err, row.word)
		}
	}
	// Prose of the judging program may improve without breaking a replay.
	b := bundleOf(t, s, registered)
	b.Decision.Checks[5].Section, b.Decision.Checks[5].Advice = "another edition", "other words"
	if _, err := b.Replay(); err != nil {
		t.Error(err)
	}
}

func TestBundleIsReadStrictly(t *testing.T) {
	s := sienaV5(t)
	data, err := json.Marshal(NewBundle(s.evidence, amd(), s.policy, s.at))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"version":        {`{"version":1`, `{"version":2`},
		"unknown member": {`{"version":1`, `{"extra":1,"version":1`},
		"policy":         {`"require_policy":"0x30000"`, `"require_policy":"0x030000"`},
		"report data":    {`"report_data":"`, `"report_data":"AAAA`},
	} {
		var b Bundle
		if err := json.Unmarshal([]byte(strings.Replace(string(data), change[0], change[1], 1)), &b); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	var o Object
	if err := json.Unmarshal([]byte(`{"kind":"amd-crl","sha256":"`+strings.Repeat("00", 32)+`","bytes":"AAAA"}`), &o); err == nil {
		t.Error("an object with another's digest was read")
	}
	var d Digest
	for _, text := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("AB", 32), strings.Repeat("zz", 32)} {
		if d.UnmarshalText([]byte(text)) == nil {
			t.Errorf("digest %q was read", text)
		}
	}
}

// TestNewCollateral takes each object for what its kind says, and nothing else.
func TestNewCollateral(t *testing.T) {
	vcek, turin := file(t, "siena-v5-vcek.der"), file(t, "turin-vcek.der")
	c, err := NewCollateral(AMDRoots(), []Object{{KindVCEK, vcek}, {KindVCEK, turin}, {KindVCEK, vcek}, {KindAMDChain, genoaPEM}})
	if err != nil {
		t.Fatal(err)
	}
	chip := make([]byte, 64)
	copy(chip, unhex(t, "1e550a8ee5cf9f4d"))
	if len(c.VCEKs) != 2 || len(c.VCEKs[ChipKey(chip)]) != 1 {
		t.Errorf("%d chips", len(c.VCEKs))
	}
	objects := c.Objects()
	if len(objects) != 2 {
		t.Errorf("%d objects, want two without doubles", len(objects))
	}
	again, err := NewCollateral(AMDRoots(), objects)
	if err != nil || again.Digest() != c.Digest() {
		t.Errorf("another digest: %v", err)
	}
	m := makeAuthority(t)
	stranger := m.list(t, day("2026-01-01"), day("2027-01-01"))
	for name, o := range map[string]Object{
		"VCEK as VLEK": {KindVLEK, vcek}, "noise": {KindVCEK, []byte{1}}, "unknown kind": {"amd-other", vcek}, "no kind": {"", vcek},
		"list of another root": {KindAMDCRL, stranger}, "another chain": {KindAMDChain, encodeChain(m.authority)},
		"too large": {KindVCEK, make([]byte, maxObjectBytes+1)}, "unknown kind of Intel's": {"intel-other", vcek},
	} {
		if _, err := NewCollateral(AMDRoots(), []Object{o}); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if _, err := NewCollateral(nil, []Object{{KindAMDChain, genoaPEM}}); err == nil {
		t.Error("a chain was read without roots")
	}
}
