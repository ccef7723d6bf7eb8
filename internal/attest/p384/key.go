package p384

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"math/big"
	"sync"

	"filippo.io/nistec"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A scalar is cut into teeth strips of 48 bits, and each strip into combs pieces
// of 12. One table holds the sums of all subsets of the strips' bases for one
// piece, so that 12 doublings and combs*12 additions give a product (Lim and Lee,
// CRYPTO '94). These numbers make a table of 180 KiB that is built in the time of
// about four signatures; more combs would save few of the doublings, which two
// products share.
const (
	scalarBits = 384
	teeth      = 8
	strip      = scalarBits / teeth
	combs      = 4
	piece      = strip / combs
)

// TableBytes is about the memory that one Key holds, nearly all of it its table.
const TableBytes = combs << teeth * pointBytes

// three coordinates of 48 bytes and the pointers to them and to the point
const pointBytes = 3*48 + 4*8

// table is indexed by piece, then by the subset of strips. Entry 0 is the point at
// infinity, which the complete addition takes like any other.
type table [combs][1 << teeth]*nistec.P384Point

func newTable(p *nistec.P384Point) *table {
	t := new(table)
	base := nistec.NewP384Point().Set(p)
	for i := range teeth {
		for j := range combs {
			t[j][1<<i] = nistec.NewP384Point().Set(base)
			for range piece {
				base.Double(base)
			}
		}
	}
	for j := range t {
		t[j][0] = nistec.NewP384Point()
		for s := 1; s < 1<<teeth; s++ {
			if lowest := s & -s; lowest != s {
				t[j][s] = nistec.NewP384Point().Add(t[j][s^lowest], t[j][lowest])
			}
		}
	}
	return t
}

// subset gathers bit k of piece j of every strip of a big-endian scalar.
func subset(scalar *[scalarBits / 8]byte, j, k int) (s int) {
	for i := range teeth {
		bit := i*strip + j*piece + k
		s |= int(scalar[len(scalar)-1-bit/8]>>(bit%8)&1) << i
	}
	return s
}

var generator = sync.OnceValue(func() *table { return newTable(nistec.NewP384Point().SetGenerator()) })

// order is that of the group, and of its generator.
var order = elliptic.P384().Params().N

// Key is a public key with its table. It is safe for concurrent use; its zero
// value refuses every signature.
type Key struct{ table *table }

// NewKey makes the table of a key, which must lie on P-384.
func NewKey(public *ecdsa.PublicKey) (*Key, error) {
	if public == nil || public.Curve != elliptic.P384() {
		return nil, errors.New("making a table: not a P-384 key")
	}
	encoded, err := public.Bytes()
	if err != nil {
		return nil, fmt.Errorf("making a table: %w", err)
	}
	// Refuses what is off the curve, and the point at infinity has no such encoding.
	p, err := nistec.NewP384Point().SetBytes(encoded)
	if err != nil {
		return nil, fmt.Errorf("making a table: %w", err)
	}
	return &Key{newTable(p)}, nil
}

// VerifyASN1 says whether signature, an ASN.1 SEQUENCE of r and s, is this key's
// over a digest of 48 bytes. It is crypto/ecdsa.VerifyASN1 for one key and one
// length of digest.
func (k *Key) VerifyASN1(digest, signature []byte) bool {
	if k.table == nil || len(digest) != scalarBits/8 {
		return false
	}
	var r, s big.Int
	var inner cryptobyte.String
	input := cryptobyte.String(signature)
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !input.Empty() ||
		!inner.ReadASN1Integer(&r) || !inner.ReadASN1Integer(&s) || !inner.Empty() {
		return false
	}
	if r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(order) >= 0 || s.Cmp(order) >= 0 {
		return false
	}
	// The digest has as many bits as the order, so that nothing is cut off.
	e := new(big.Int).SetBytes(digest)
	w := new(big.Int).ModInverse(&s, order)
	u1, u2 := scalar(e.Mul(e, w)), scalar(w.Mul(w, &r))

	g, sum := generator(), nistec.NewP384Point()
	for bit := piece - 1; bit >= 0; bit-- {
		sum.Double(sum)
		for j := range combs {
			sum.Add(sum, g[j][subset(&u1, j, bit)])
			sum.Add(sum, k.table[j][subset(&u2, j, bit)])
		}
	}
	x, err := sum.BytesX()
	if err != nil { // infinity
		return false
	}
	v := new(big.Int).SetBytes(x)
	return v.Mod(v, order).Cmp(&r) == 0
}

func scalar(v *big.Int) (out [scalarBits / 8]byte) {
	v.Mod(v, order).FillBytes(out[:])
	return out
}
