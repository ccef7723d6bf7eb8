package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"
)

// BenchmarkTDXVerifyWarm is what a release costs: the platform proved earlier, the
// collateral parsed.
func BenchmarkTDXVerifyWarm(b *testing.B) { benchmarkTDX(b, true) }

// BenchmarkTDXVerifyCold is the first quote of a platform.
func BenchmarkTDXVerifyCold(b *testing.B) { benchmarkTDX(b, false) }

func benchmarkTDX(b *testing.B, warm bool) {
	raw := tdxFile(b, "v4-quote-uptodate.dat")
	ev, col, pol, at := Evidence{TEE: TDX, Report: raw}, Collateral{TDX: june2025(b)}, ownPolicy(b, raw), onDay(b, "2025-06-25")
	var v Verifier
	b.ReportAllocs()
	for b.Loop() {
		verify := v.Verify
		if !warm {
			verify = Verify
		}
		if _, err := verify(ev, col, pol, at); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkP256Verify is the unit in which the two are counted.
func BenchmarkP256Verify(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("digest"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
			b.Fatal("bad signature")
		}
	}
}
