package attest

import (
	"crypto/ecdsa"
	"sync/atomic"

	"github.com/eosc-siesta/siestad/internal/attest/p384"
)

// A table costs about five signatures to make and makes each later one six times
// cheaper; a chip that renews its guests' leases repays it within minutes. The
// bound is 68 MiB; beyond it, signatures are judged the ordinary way.
const (
	usesBeforeTable = 4
	maxTables       = 256
)

// hotKey is the table of a chip's key, once it is worth having. Only chains that
// were proved to the pinned roots have one, so that nobody can make us build
// tables for keys of his own making.
type hotKey struct {
	uses  atomic.Uint32
	table atomic.Pointer[p384.Key]
}

// signed says whether the key of the leaf signed the digest. ch is the proved
// chain of that leaf, or nil.
func (j *judgement) signed(ch *chain, leaf *vcek, digest, der []byte) bool {
	if ch != nil && j.cache != nil {
		if t := j.cache.table(ch); t != nil {
			return t.VerifyASN1(digest, der)
		}
	}
	return ecdsa.VerifyASN1(leaf.key, digest, der)
}

// table counts a use of the chain's key and makes its table at the fifth.
func (c *chainCache) table(ch *chain) *p384.Key {
	if t := ch.hot.table.Load(); t != nil {
		return t
	}
	if ch.hot.uses.Add(1) != usesBeforeTable+1 {
		return nil
	}
	if c.tables.Add(1) > maxTables {
		c.tables.Add(-1)
		return nil
	}
	t, err := p384.NewKey(ch.leaf.key)
	if err != nil {
		// A key that was read as P-384 is one; the ordinary way will say no if not.
		c.tables.Add(-1)
		return nil
	}
	ch.hot.table.Store(t)
	return t
}

// forget gives back the place of an evicted chain's table.
func (c *chainCache) forget(ch *chain) {
	if ch.hot.table.Load() != nil {
		c.tables.Add(-1)
	}
}
