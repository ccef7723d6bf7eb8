package attest

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"testing"

	"github.com/google/go-sev-guest/abi"
)

// BenchmarkVerify compares a verdict with the one signature that it cannot do
// without. "cached" is what a release costs; "whole chain" is the first report of
// a chip.
func BenchmarkVerify(b *testing.B) {
	s := sienaV5(b)
	col := amd()
	b.Run("P-384 alone", func(b *testing.B) {
		leaf, err := parseLeaf(s.evidence.Certificates)
		if err != nil {
			b.Fatal(err)
		}
		der, err := abi.ReportToSignatureDER(s.evidence.Report)
		if err != nil {
			b.Fatal(err)
		}
		digest := sha512.Sum384(abi.SignedComponent(s.evidence.Report))
		b.ReportAllocs()
		for b.Loop() {
			if !ecdsa.VerifyASN1(leaf.key, digest[:], der) {
				b.Fatal("bad signature")
			}
		}
	})
	b.Run("cached", func(b *testing.B) {
		var v Verifier
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(s.evidence, col, s.policy, s.at); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("whole chain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Verify(s.evidence, col, s.policy, s.at); err != nil {
				b.Fatal(err)
			}
		}
	})
}
