package keybroker

import (
	"crypto/sha256"
	"maps"
	"reflect"
	"slices"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
)

// collateralKey tells two sets of collateral apart without reading them: they are replaced, never changed in place.
type collateralKey struct {
	roots *attest.Roots
	crls  *attest.CRLs
	vceks uintptr
}

// collateralDigest names the certificates that were at hand for a verdict.
func (b *Broker) collateralDigest(c attest.Collateral) [32]byte {
	key := collateralKey{roots: c.Roots, crls: c.CRLs, vceks: reflect.ValueOf(c.VCEKs).Pointer()}
	if d, ok := b.digests.get(key); ok {
		return d
	}
	parts := [][]byte{[]byte("siesta/collateral/v1")}
	for _, chip := range slices.Sorted(maps.Keys(c.VCEKs)) {
		parts = append(parts, []byte(chip))
		parts = append(parts, c.VCEKs[chip]...)
	}
	d := sha256.Sum256(door.LP(parts...))
	b.digests.put(key, d)
	return d
}
