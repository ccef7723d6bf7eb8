package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// chain is a leaf that one of our authorities was proved to have signed. The
// proof holds for every instant of the window.
type chain struct {
	leaf                *vcek
	by                  *authority
	notBefore, notAfter time.Time
	hot                 hotKey
}

func (c *chain) validAt(at time.Time) bool {
	return !at.Before(c.notBefore) && !at.After(c.notAfter)
}

// proveChain checks the signatures from the leaf to the pinned root. Only the
// intermediate and root of the given authorities take part; nothing that came
// with the evidence does.
func proveChain(leaf *vcek, authorities []*authority, at time.Time) (*chain, error) {
	if len(authorities) == 0 {
		return nil, errors.New("no root for this product line")
	}
	var firstErr error
	for _, a := range authorities {
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(a.ark)
		intermediates.AddCert(a.ask)
		_, err := leaf.cert.Verify(x509.VerifyOptions{
			Roots:         roots,
			Intermediates: intermediates,
			// The zero time would mean the wall clock here; judge has refused it.
			CurrentTime: at,
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err == nil {
			notBefore, notAfter := a.window()
			return &chain{
				leaf: leaf, by: a,
				notBefore: later(notBefore, leaf.cert.NotBefore),
				notAfter:  earlier(notAfter, leaf.cert.NotAfter),
			}, nil
		}
		if firstErr == nil {
			firstErr = fmt.Errorf("%s: %w", a.ask.Subject.CommonName, err)
		}
	}
	return nil, firstErr
}

// maxCachedChains bounds the memory of a Verifier: only chains that AMD signed
// get in, one for each chip and patch level, about 10 KiB each.
const maxCachedChains = 4096

type chainKey struct{ roots, leaf [sha256.Size]byte }

// chainCache remembers proofs, never failures, so that nobody can fill it with
// certificates of his own making.
type chainCache struct {
	mu     sync.RWMutex
	chains map[chainKey]*chain
	tables atomic.Int32
}

// get is nil-safe: Verify without memory has no cache.
func (c *chainCache) get(k chainKey) *chain {
	if c == nil {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.chains[k]
}

func (c *chainCache) put(k chainKey, ch *chain) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chains == nil {
		c.chains = make(map[chainKey]*chain)
	}
	if len(c.chains) >= maxCachedChains {
		// Which one goes does not matter for correctness: it is proved again.
		for old, ch := range c.chains {
			c.forget(ch)
			delete(c.chains, old)
			break
		}
	}
	c.chains[k] = ch
}
