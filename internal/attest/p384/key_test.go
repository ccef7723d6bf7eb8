package p384

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/asn1"
	"math/big"
	"math/rand/v2"
	"testing"
)

// keyOf makes a key pair of a given secret scalar: 1 is the generator itself and
// order-1 its negative, where sums of the two tables meet the exceptional cases.
func keyOf(t testing.TB, d *big.Int) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), d.FillBytes(make([]byte, 48)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func scalars(t testing.TB, seed uint64) []*big.Int {
	t.Helper()
	one := big.NewInt(1)
	out := []*big.Int{one, big.NewInt(2), new(big.Int).Sub(order, one)}
	source := rand.NewChaCha8([32]byte{byte(seed)})
	for range 3 {
		raw := make([]byte, 47)
		_, _ = source.Read(raw)
		out = append(out, new(big.Int).SetBytes(raw))
	}
	return out
}

func encode(t testing.TB, r, s *big.Int) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// three is a signature with one number too many.
func three(t testing.TB, r, s *big.Int) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct{ R, S, X *big.Int }{r, s, s})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// signed makes a signature from its parts: with the secret scalar d, nonce k and
// digest e, r = x(kG) and s = (e + r d) / k.
func signed(t testing.TB, d, k, e *big.Int) (r, s *big.Int) {
	t.Helper()
	public, err := keyOf(t, k).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	r = new(big.Int).Mod(new(big.Int).SetBytes(public[1:49]), order)
	s = new(big.Int).Mul(r, d)
	s.Add(s, e).Mul(s, new(big.Int).ModInverse(k, order)).Mod(s, order)
	return r, s
}

func TestEqualsTheStandardLibrary(t *testing.T) {
	accepted := 0
	for _, d := range scalars(t, 1) {
		private := keyOf(t, d)
		key, err := NewKey(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha512.Sum384(d.Bytes())
		for _, digest := range [][]byte{digest[:], make([]byte, 48), bytes.Repeat([]byte{0xff}, 48), order.FillBytes(make([]byte, 48))} {
			e := new(big.Int).SetBytes(digest)
			r, s := signed(t, d, big.NewInt(0xc0ffee), e)
			zero, over := big.NewInt(0), new(big.Int).Add(order, big.NewInt(1))
			for name, der := range map[string][]byte{
				"good":             encode(t, r, s),
				"other half":       encode(t, r, new(big.Int).Sub(order, s)),
				"swapped":          encode(t, s, r),
				"r zero":           encode(t, zero, s),
				"s zero":           encode(t, r, zero),
				"r negative":       encode(t, new(big.Int).Neg(r), s),
				"r is the order":   encode(t, order, s),
				"s is the order":   encode(t, r, order),
				"r over the order": encode(t, new(big.Int).Add(r, order), s),
				"s over the order": encode(t, r, new(big.Int).Add(s, order)),
				"one more":         encode(t, over, over),
				"trailing":         append(encode(t, r, s), 0),
				"a third number":   three(t, r, s),
				"empty":            {},
				"cut":              encode(t, r, s)[:40],
			} {
				want := ecdsa.VerifyASN1(&private.PublicKey, digest, der)
				if got := key.VerifyASN1(digest, der); got != want {
					t.Errorf("key %x, digest %x…, %s: %v, the standard library says %v", d, digest[:4], name, got, want)
				}
				if want {
					accepted++
				}
			}
		}
	}
	if accepted < 40 {
		t.Errorf("only %d signatures were good: the test compares refusals with refusals", accepted)
	}
}

// With the generator as key, e = -r makes both products cancel: the sum is the
// point at infinity, which has no x to compare.
func TestInfinityIsRefused(t *testing.T) {
	private := keyOf(t, big.NewInt(1))
	key, err := NewKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	r := big.NewInt(7)
	digest := new(big.Int).Sub(order, r).FillBytes(make([]byte, 48))
	der := encode(t, r, big.NewInt(3))
	if ecdsa.VerifyASN1(&private.PublicKey, digest, der) || key.VerifyASN1(digest, der) {
		t.Error("a sum at infinity was accepted")
	}
}

func TestRefusesWhatIsNoKey(t *testing.T) {
	other, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(5).FillBytes(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	off := &ecdsa.PublicKey{Curve: elliptic.P384(), X: big.NewInt(1), Y: big.NewInt(1)} //nolint:staticcheck // no other way makes a key that is none
	for name, k := range map[string]*ecdsa.PublicKey{"none": nil, "P-256": &other.PublicKey, "empty": {}, "off the curve": off} {
		if _, err := NewKey(k); err == nil {
			t.Errorf("%s: a table was made", name)
		}
	}
	var zero Key
	d := big.NewInt(99)
	digest := sha512.Sum384(nil)
	r, s := signed(t, d, big.NewInt(3), new(big.Int).SetBytes(digest[:]))
	if zero.VerifyASN1(digest[:], encode(t, r, s)) {
		t.Error("a key without a table accepted a signature")
	}
	private := keyOf(t, d)
	key, err := NewKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if key.VerifyASN1(digest[:47], encode(t, r, s)) {
		t.Error("a short digest was accepted")
	}
}

// FuzzEqualsTheStandardLibrary changes a good signature, its digest and its key in
// every way that the fuzzer finds; the two verifiers may never differ.
func FuzzEqualsTheStandardLibrary(f *testing.F) {
	f.Add([]byte{1}, []byte{3}, []byte("digest"), []byte{}, uint16(0), byte(0))
	f.Add([]byte{9, 9}, []byte{7, 1}, []byte{}, []byte{0x30, 0x06, 2, 1, 1, 2, 1, 1}, uint16(0), byte(0))
	f.Add(new(big.Int).Sub(order, big.NewInt(1)).Bytes(), []byte{2}, []byte("x"), []byte{}, uint16(17), byte(0x80))
	f.Fuzz(func(t *testing.T, secret, nonce, message, signature []byte, at uint16, flip byte) {
		inRange := func(b []byte) *big.Int {
			v := new(big.Int).SetBytes(b[:min(len(b), 64)])
			return v.Mod(v, new(big.Int).Sub(order, big.NewInt(1))).Add(v, big.NewInt(1))
		}
		d := inRange(secret)
		digest := sha512.Sum384(message)
		if len(signature) == 0 {
			r, s := signed(t, d, inRange(nonce), new(big.Int).SetBytes(digest[:]))
			signature = encode(t, r, s)
			signature[int(at)%len(signature)] ^= flip
		}
		private := keyOf(t, d)
		key, err := NewKey(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		want := ecdsa.VerifyASN1(&private.PublicKey, digest[:], signature)
		if got := key.VerifyASN1(digest[:], signature); got != want {
			t.Errorf("%v, the standard library says %v", got, want)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	d := big.NewInt(1 << 40)
	private := keyOf(b, d)
	digest := sha512.Sum384([]byte("report"))
	r, s := signed(b, d, new(big.Int).SetBytes(digest[:40]), new(big.Int).SetBytes(digest[:]))
	der := encode(b, r, s)
	b.Run("standard library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !ecdsa.VerifyASN1(&private.PublicKey, digest[:], der) {
				b.Fatal("bad signature")
			}
		}
	})
	b.Run("with a table", func(b *testing.B) {
		key, err := NewKey(&private.PublicKey)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if !key.VerifyASN1(digest[:], der) {
				b.Fatal("bad signature")
			}
		}
	})
	b.Run("making the table", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := NewKey(&private.PublicKey); err != nil {
				b.Fatal(err)
			}
		}
	})
}
