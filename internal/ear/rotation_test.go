package ear_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/eosc-siesta/siestad/internal/ear"
)

// TestRotation: a token verifies from before its key signs until its key is two
// rotations old, and the set always holds the key of the next token.
func TestRotation(t *testing.T) {
	cfg := config(t)
	cfg.Next = newKey(t)
	first := newSigner(t, cfg)
	second, err := first.Rotate(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	third, err := second.Rotate(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	signers := []*ear.Signer{first, second, third}
	for i, by := range signers {
		token := sign(t, by, claims())
		for j, s := range signers {
			// The set of j holds the keys j-1, j and j+1.
			_, err := s.Verify(token, at)
			if want := i-j >= -1 && i-j <= 1; (err == nil) != want {
				t.Errorf("token of %d at signer %d: %v", i, j, err)
			}
			if err := elsewhere(s.JWKS(), token); (err == nil) != (i-j >= -1 && i-j <= 1) {
				t.Errorf("token of %d by the published set of %d: %v", i, j, err)
			}
		}
	}
	if _, err := newSigner(t, config(t)).Rotate(newKey(t)); err == nil {
		t.Error("rotated without a next key")
	}
	if _, err := first.Rotate(ear.Key{}); err == nil {
		t.Error("rotated to no key")
	}
}

// elsewhere verifies as a relying party does that has nothing but the set.
func elsewhere(jwks []byte, token string) error {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(jwks, &set); err != nil {
		return err
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	keys := set.Key(signed.Signatures[0].Header.KeyID)
	if len(keys) != 1 {
		return fmt.Errorf("%d keys", len(keys))
	}
	_, err = signed.Verify(keys[0])
	return err
}

func TestJWKS(t *testing.T) {
	cfg := config(t)
	cfg.Next, cfg.Previous = newKey(t), newKey(t).Public()
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(newSigner(t, cfg).JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 3 {
		t.Fatalf("%d keys", len(set.Keys))
	}
	for i, k := range []ear.PublicKey{cfg.Current.Public(), cfg.Next.Public(), cfg.Previous} {
		got := set.Keys[i]
		if got["kid"] != k.ID() || got["alg"] != "ES256" || got["use"] != "sig" || got["crv"] != "P-256" || len(got) != 7 {
			t.Errorf("key %d: %v", i, got)
		}
		if _, there := got["d"]; there {
			t.Errorf("key %d is private", i)
		}
		// RFC 7638, section 3: the required members, sorted, no blank.
		sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, got["x"], got["y"]))
		if b64.EncodeToString(sum[:]) != k.ID() {
			t.Errorf("key %d: id %s", i, k.ID())
		}
	}
}

func TestNewSignerRefuses(t *testing.T) {
	for name, change := range map[string]func(c *ear.Config){
		"nothing":       func(c *ear.Config) { *c = ear.Config{} },
		"no issuer":     func(c *ear.Config) { c.Issuer = "" },
		"no audience":   func(c *ear.Config) { c.Audience = "" },
		"no clock":      func(c *ear.Config) { c.Now = nil },
		"no key":        func(c *ear.Config) { c.Current = ear.Key{} },
		"next twice":    func(c *ear.Config) { c.Next = c.Current },
		"previous back": func(c *ear.Config) { c.Previous = c.Current.Public() },
	} {
		cfg := config(t)
		change(&cfg)
		if _, err := ear.NewSigner(cfg); err == nil {
			t.Errorf("made a signer: %s", name)
		}
	}
}
