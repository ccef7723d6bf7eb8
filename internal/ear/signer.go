package ear

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// Life of a token.
	Life = 5 * time.Minute
	// MediaType is the type in a token's header (RFC 9782): a token of another
	// kind, signed by the same key, is not taken for one of these.
	MediaType = "eat+jwt"

	// skew is how far two instances' clocks may stand apart.
	skew = 5 * time.Second
	// maxToken bounds a token before it is parsed.
	maxToken = 16 << 10
)

// Config of a Signer. Keys turn over by way of Next: it is published a while
// before it signs, and stays published as Previous until the last token that it
// signed is dead, so that nobody meets a token whose key he could not know.
type Config struct {
	// Issuer and Audience stand in each token and are compared exactly.
	Issuer, Audience string
	// Build names the verifier's version, for whoever reads the token.
	Build string
	// Current signs.
	Current Key
	// Next is published and not used; another instance may have begun to.
	Next Key
	// Previous is the public half of the key before Current.
	Previous PublicKey
	// Now gives the time of issue.
	Now func() time.Time
}

// Signer makes and verifies tokens. It does not change: Rotate makes another.
type Signer struct {
	cfg    Config
	signer jose.Signer
	keys   map[string]PublicKey
	jwks   []byte
}

// NewSigner refuses a configuration without issuer, audience, current key or
// clock, and one in which two keys are the same.
func NewSigner(cfg Config) (*Signer, error) {
	if cfg.Issuer == "" || cfg.Audience == "" || cfg.Now == nil || cfg.Current.private == nil {
		return nil, errors.New("making a token signer: issuer, audience, clock and current key have to be set")
	}
	s := &Signer{cfg: cfg, keys: map[string]PublicKey{}}
	var set jose.JSONWebKeySet
	for _, k := range []PublicKey{cfg.Current.Public(), cfg.Next.Public(), cfg.Previous} {
		if k.public == nil {
			continue
		}
		if _, twice := s.keys[k.ID()]; twice {
			return nil, errors.New("making a token signer: a key has two roles")
		}
		s.keys[k.ID()] = k
		set.Keys = append(set.Keys, k.jwk())
	}
	var err error
	if s.jwks, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("making a token signer: %w", err)
	}
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: cfg.Current.private, KeyID: cfg.Current.Public().ID()}}
	if s.signer, err = jose.NewSigner(key, (&jose.SignerOptions{}).WithType(MediaType)); err != nil {
		return nil, fmt.Errorf("making a token signer: %w", err)
	}
	return s, nil
}

// Rotate moves each key one role on: Next signs, Current is only published, next
// waits. Callers leave at least Life between two rotations, and as long as others
// keep a fetched key set.
func (s *Signer) Rotate(next Key) (*Signer, error) {
	cfg := s.cfg
	cfg.Previous, cfg.Current, cfg.Next = cfg.Current.Public(), cfg.Next, next
	if next.private == nil {
		return nil, errors.New("rotating token keys: no next key")
	}
	return NewSigner(cfg)
}

// JWKS is the set of public keys, the signing one first, for publication.
func (s *Signer) JWKS() []byte { return append([]byte(nil), s.jwks...) }

// Sign makes a token that says c, from now for Life.
func (s *Signer) Sign(c Claims) (string, error) {
	if err := c.check(); err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	c.IssuedAt = s.cfg.Now()
	c.Expires = c.IssuedAt.Add(Life)
	w := c.wire()
	w.Issuer, w.Audience = s.cfg.Issuer, s.cfg.Audience
	w.Verifier = verifier{Build: s.cfg.Build, Developer: "siestad"}
	payload, err := encode(w)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	signed, err := s.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	if len(token) > maxToken {
		return "", errors.New("signing a token: longer than its limit")
	}
	return token, nil
}

// Verify reads a token of this signer, good at now. What its header says beyond
// algorithm, type and key id (jwk, jku, x5u, x5c) counts for nothing.
func (s *Signer) Verify(token string, now time.Time) (Claims, error) {
	c, err := s.verify(token, now)
	if err != nil {
		return Claims{}, fmt.Errorf("verifying a token: %w", err)
	}
	return c, nil
}

func (s *Signer) verify(token string, now time.Time) (Claims, error) {
	if s == nil {
		return Claims{}, errors.New("no signer")
	}
	if len(token) > maxToken {
		return Claims{}, errors.New("longer than its limit")
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return Claims{}, errors.New("not a compact token under ES256")
	}
	header := signed.Signatures[0].Protected
	if header.ExtraHeaders[jose.HeaderType] != MediaType {
		return Claims{}, errors.New("another type of token")
	}
	key, known := s.keys[header.KeyID]
	if !known {
		return Claims{}, errors.New("a key that is not in the set")
	}
	payload, err := signed.Verify(key.public)
	if err != nil {
		return Claims{}, errors.New("the signature does not hold")
	}
	w, c, err := decode(payload)
	switch {
	case err != nil:
		return Claims{}, err
	case w.Issuer != s.cfg.Issuer || w.Audience != s.cfg.Audience:
		return Claims{}, errors.New("another issuer or audience")
	case c.Expires.Sub(c.IssuedAt) != Life:
		return Claims{}, errors.New("another life than a token's")
	case c.IssuedAt.After(now.Add(skew)):
		return Claims{}, errors.New("not yet valid")
	case !now.Before(c.Expires):
		return Claims{}, errors.New("expired")
	}
	return c, nil
}
