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

// A scalar is cut into teeth strips of equal length, and each strip into combs
// pieces of 8 bits. A comb is the sums of all subsets of the strips' bases for one
// piece, so that a product costs one addition for each comb and bit of a piece,
// and both products of a verification share its 8 doublings (Lim and Lee,
// CRYPTO '94).
//
// A key's table of 270 KiB is built in the time of about five signatures. That of
// the generator is built once and serves every key, so it may be larger: 2.8 MiB
// save another third of its additions.
const (
	scalarBits = 384
	piece      = 8

	keyTeeth       = 8
	generatorTeeth = 12
)

// TableBytes is about the memory that one Key holds, nearly all of it its table.
const TableBytes = scalarBits / keyTeeth / piece << keyTeeth * pointBytes

// three coordinates of 48 bytes and the pointers to them and to the point
const pointBytes = 3*48 + 4*8

// table has the combs of a point. In each the index is a subset of the strips;
// entry 0 is the point at infinity, which the complete addition takes like any
// other.
type table struct {
	teeth int
	combs [][]*nistec.P384Point
}

// newTable makes a table; teeth times piece must divide the bits of a scalar.
func newTable(p *nistec.P384Point, teeth int) *table {
	t := &table{teeth, make([][]*nistec.P384Point, scalarBits/teeth/piece)}
	for j := range t.combs {
		t.combs[j] = make([]*nistec.P384Point, 1<<teeth)
	}
	base := nistec.NewP384Point().Set(p)
	for i := range teeth {
		for _, comb := range t.combs {
			comb[1<<i] = nistec.NewP384Point().Set(base)
			for range piece {
				base.Double(base)
			}
		}
	}
	for _, comb := range t.combs {
		comb[0] = nistec.NewP384Point()
		for s := 1; s < len(comb); s++ {
			if lowest := s & -s; lowest != s {
				comb[s] = nistec.NewP384Point().Add(comb[s^lowest], comb[lowest])
			}
		}
	}
	return t
}

// add adds what bit k of every piece of a big-endian scalar contributes.
func (t *table) add(sum *nistec.P384Point, scalar *[scalarBits / 8]byte, k int) {
	strip := scalarBits / t.teeth
	for j, comb := range t.combs {
		subset := 0
		for i := range t.teeth {
			bit := i*strip + j*piece + k
			subset |= int(scalar[len(scalar)-1-bit/8]>>(bit%8)&1) << i
		}
		sum.Add(sum, comb[subset])
	}
}

var generator = sync.OnceValue(func() *table { return newTable(nistec.NewP384Point().SetGenerator(), generatorTeeth) })

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
	return &Key{newTable(p, keyTeeth)}, nil
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
		g.add(sum, &u1, bit)
		k.table.add(sum, &u2, bit)
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
