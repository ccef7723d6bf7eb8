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
	issuer              *x509.Certificate
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
		issuer := a.issuer(leaf)
		if issuer == nil {
			continue
		}
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(a.ark)
		intermediates.AddCert(issuer)
		_, err := leaf.cert.Verify(x509.VerifyOptions{
			Roots:         roots,
			Intermediates: intermediates,
			// The zero time would mean the wall clock here; judge has refused it.
			CurrentTime: at,
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err == nil {
			ch := &chain{leaf: leaf, by: a, issuer: issuer, notBefore: leaf.cert.NotBefore, notAfter: leaf.cert.NotAfter}
			for _, c := range []*x509.Certificate{a.ark, issuer} {
				ch.notBefore, ch.notAfter = later(ch.notBefore, c.NotBefore), earlier(ch.notAfter, c.NotAfter)
			}
			return ch, nil
		}
		if firstErr == nil {
			firstErr = fmt.Errorf("%s: %w", issuer.Subject.CommonName, err)
		}
	}
	if firstErr == nil {
		firstErr = errors.New("no root vouches for keys of this kind")
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
	// platforms are the proofs of TDX.
	platforms platformCache
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
