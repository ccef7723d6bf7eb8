package attest

import (
	"bytes"
	"testing"
)

// A chip that is asked often gets a table, and its verdicts stay what they were.
func TestHotKey(t *testing.T) {
	var v Verifier
	s := sienaV5(t)
	forged := s.evidence
	forged.Report = bytes.Clone(forged.Report)
	forged.Report[0x50] ^= 1 // report data, under the signature
	for i := range usesBeforeTable + 4 {
		if _, err := v.Verify(s.evidence, amd(), s.policy, s.at); err != nil {
			t.Fatalf("use %d: %v", i, err)
		}
	}
	if n := v.cache.tables.Load(); n != 1 {
		t.Fatalf("%d tables", n)
	}
	_, err := v.Verify(forged, amd(), s.policy, s.at)
	if r := refused(t, err); status(r.Checks, "report signature") != Failed {
		t.Errorf("a forged report under a table: %v", err)
	}
	// A place given back is a place for another.
	for i := range maxCachedChains + 1 {
		v.cache.put(chainKey{leaf: [32]byte{byte(i), byte(i >> 8), 1}}, &chain{})
	}
	want := int32(0)
	for _, ch := range v.cache.chains {
		if ch.hot.table.Load() != nil {
			want++
		}
	}
	if n := v.cache.tables.Load(); n != want {
		t.Errorf("%d tables counted, %d in memory", n, want)
	}
}

func TestTablesAreBounded(t *testing.T) {
	var v Verifier
	s := sienaV5(t)
	v.cache.tables.Store(maxTables)
	for range usesBeforeTable + 3 {
		if _, err := v.Verify(s.evidence, amd(), s.policy, s.at); err != nil {
			t.Fatal(err)
		}
	}
	if n := v.cache.tables.Load(); n != maxTables {
		t.Errorf("%d tables, the bound is %d", n, maxTables)
	}
}
