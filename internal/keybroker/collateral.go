package keybroker

import (
	"crypto/sha256"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// CollateralQuery is whose evidence is to be judged. Nothing in the evidence has been proved yet.
type CollateralQuery struct {
	Site, Project string
	Evidence      attest.Evidence
}

// collateralKey tells two sets of collateral apart without reading them: they are replaced, never changed in place, and a
// set that is kept here keeps its parts alive, so that no other can come to lie where they do.
type collateralKey struct {
	crls        *attest.CRLs
	tdx         *attest.TDXCollateral
	vcek, vlek  *[]byte
	nvcek, nlek int
	grace       time.Duration
}

// heldCollateral is what was at hand for a verdict: of all collateral, what concerns the evidence.
type heldCollateral struct {
	about   attest.Collateral
	objects []attest.Object
	digest  attest.Digest
}

// hold names the collateral of a verdict. Its objects are hashed once, not with every release.
func (b *Broker) hold(ev attest.Evidence, c attest.Collateral) heldCollateral {
	h := heldCollateral{about: c.About(ev)}
	key := collateralKey{crls: h.about.CRLs, tdx: h.about.TDX, vlek: first(h.about.VLEKs), nlek: len(h.about.VLEKs), grace: h.about.Grace}
	for _, certificates := range h.about.VCEKs { // one chip's at most
		key.vcek, key.nvcek = first(certificates), len(certificates)
	}
	if known, ok := b.held.get(key); ok {
		return known
	}
	h.objects = h.about.Objects()
	h.digest = h.about.Digest()
	b.held.put(key, h)
	return h
}

// first tells a list from any other that is alive.
func first(list [][]byte) *[]byte {
	if len(list) == 0 {
		return nil
	}
	return &list[0]
}

// keep queues the objects of the collateral, once for each set of them.
func (h heldCollateral) keep(b *Broker, batch *pgx.Batch) {
	if _, known := b.stored.get(h.digest); known {
		return
	}
	for _, o := range h.objects {
		sum := sha256.Sum256(o.Bytes)
		batch.Queue(`INSERT INTO broker_blob (sha256, body) VALUES ($1, $2) ON CONFLICT DO NOTHING`, sum[:], o.Bytes)
		batch.Queue(`INSERT INTO broker_collateral (digest, kind, object) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, h.digest[:], o.Kind, sum[:])
	}
}
