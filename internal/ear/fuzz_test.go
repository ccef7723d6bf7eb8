package ear_test

import (
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

func FuzzVerify(f *testing.F) {
	cfg := config(f)
	s := newSigner(f, cfg)
	good := sign(f, s, claims())
	parts := strings.Split(good, ".")
	f.Add(parts[0], parts[1], parts[2])
	f.Add(b64.EncodeToString([]byte(`{"alg":"none","typ":"eat+jwt"}`)), parts[1], "")
	f.Fuzz(func(t *testing.T, header, claims, signature string) {
		token := header + "." + claims + "." + signature
		if _, err := s.Verify(token, at); err == nil && (claims != parts[1]) {
			t.Errorf("verified %q", token)
		}
	})
}

// FuzzClaims: a payload that is signed and no token's is refused, one that is
// taken says the same when it is signed again.
func FuzzClaims(f *testing.F) {
	cfg := config(f)
	s := newSigner(f, cfg)
	f.Add(mustDecode(f, strings.Split(sign(f, s, claims()), ".")[1]))
	f.Add([]byte(`{"aud":["x"],"exp":1e300}`))
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private(f, cfg.Current), KeyID: cfg.Current.Public().ID()}},
		(&jose.SignerOptions{}).WithType("eat+jwt"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		signed, err := signer.Sign(data)
		if err != nil {
			t.Fatal(err)
		}
		token, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Verify(token, at)
		if err != nil {
			return
		}
		again, err := s.Verify(sign(t, s, c), at)
		if err != nil {
			t.Fatal(err)
		}
		c.IssuedAt, c.Expires = again.IssuedAt, again.Expires
		if len(c.Advisories) == 0 {
			c.Advisories = again.Advisories
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Error(diff)
		}
	})
}
