package ear_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/eosc-siesta/siestad/internal/ear"
)

// forge makes a token with a header and claims of the test's choosing.
func forge(t testing.TB, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, claims any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	for k, v := range header {
		opts.WithHeader(k, v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	data, ok := claims.([]byte)
	if !ok {
		if data, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := s.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestForgeries: attack 37 of the list, algorithm confusion and keys in headers.
func TestForgeries(t *testing.T) {
	cfg := config(t)
	s := newSigner(t, cfg)
	good := sign(t, s, claims())
	own, kid := private(t, cfg.Current), cfg.Current.Public().ID()
	stranger := private(t, newKey(t))
	body := payload(t, good)
	parts := strings.Split(good, ".")
	typed := func(extra map[jose.HeaderKey]any) map[jose.HeaderKey]any {
		h := map[jose.HeaderKey]any{"typ": "eat+jwt", "kid": kid}
		for k, v := range extra {
			if h[k] = v; v == nil {
				delete(h, k)
			}
		}
		return h
	}
	raw := func(header string) string { return b64.EncodeToString([]byte(header)) }
	hs256 := func(secret []byte) string {
		input := raw(`{"alg":"HS256","typ":"eat+jwt","kid":"`+kid+`"}`) + "." + parts[1]
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(input))
		return input + "." + b64.EncodeToString(m.Sum(nil))
	}
	spki, err := x509.MarshalPKIXPublicKey(&own.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(c map[string]any)) map[string]any {
		c := payload(t, good)
		change(c)
		return c
	}
	cpu := func(c map[string]any) map[string]any { return c["submods"].(map[string]any)["cpu0"].(map[string]any) }

	if _, err := s.Verify(forge(t, jose.ES256, own, typed(nil), body), at); err != nil {
		t.Fatalf("the forge does not make good tokens: %v", err)
	}
	// A header may say what it likes about keys: it is not listened to.
	embedded := jose.JSONWebKey{Key: &stranger.PublicKey}
	if _, err := s.Verify(forge(t, jose.ES256, own, typed(map[jose.HeaderKey]any{
		"jwk": embedded, "jku": "https://evil.example/", "x5u": "https://evil.example/", "x5t": "AAAA",
	}), body), at); err != nil {
		t.Errorf("a token of ours with a key of a stranger in its header: %v", err)
	}
	for name, token := range map[string]string{
		"alg none":                      raw(`{"alg":"none","typ":"eat+jwt","kid":"`+kid+`"}`) + "." + parts[1] + ".",
		"alg none, signed":              raw(`{"alg":"none","typ":"eat+jwt","kid":"`+kid+`"}`) + "." + parts[1] + "." + parts[2],
		"HS256 under the public key":    hs256(spki),
		"HS256 under the thumbprint":    hs256([]byte(kid)),
		"HS256 under nothing":           hs256(nil),
		"ES384":                         forge(t, jose.ES384, p384, typed(nil), body),
		"RS256":                         forge(t, jose.RS256, rsaKey, typed(nil), body),
		"stranger's key, our kid":       forge(t, jose.ES256, stranger, typed(nil), body),
		"stranger's key in jwk":         forge(t, jose.ES256, stranger, typed(map[jose.HeaderKey]any{"jwk": embedded}), body),
		"stranger's key in jwk, no kid": forge(t, jose.ES256, stranger, typed(map[jose.HeaderKey]any{"jwk": embedded, "kid": nil}), body),
		"stranger's key at jku":         forge(t, jose.ES256, stranger, typed(map[jose.HeaderKey]any{"jku": "https://evil.example/"}), body),
		"stranger's key at x5u":         forge(t, jose.ES256, stranger, typed(map[jose.HeaderKey]any{"x5u": "https://evil.example/"}), body),
		"no kid":                        forge(t, jose.ES256, own, typed(map[jose.HeaderKey]any{"kid": nil}), body),
		"another kid":                   forge(t, jose.ES256, own, typed(map[jose.HeaderKey]any{"kid": "1"}), body),
		"no type":                       forge(t, jose.ES256, own, typed(map[jose.HeaderKey]any{"typ": nil}), body),
		"type JWT":                      forge(t, jose.ES256, own, typed(map[jose.HeaderKey]any{"typ": "JWT"}), body),
		"type in capitals":              forge(t, jose.ES256, own, typed(map[jose.HeaderKey]any{"typ": "EAT+JWT"}), body),
		"a critical header":             forge(t, jose.ES256, own, typed(map[jose.HeaderKey]any{"crit": []string{"x"}, "x": "y"}), body),
		"another issuer":                forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["iss"] = "https://siesta.example/" })),
		"another audience":              forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["aud"] = "x" })),
		"a list of audiences":           forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["aud"] = []string{cfg.Audience, "x"} })),
		"no audience":                   forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { delete(c, "aud") })),
		"another profile":               forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["eat_profile"] = "tag:github.com,2023:veraison/ear" })),
		"a longer life":                 forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["exp"] = at.Unix() + 3600 })),
		"no expiry":                     forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { delete(c, "exp") })),
		"an overflowing expiry":         forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["exp"] = 1e300 })),
		"another claim":                 forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["scope"] = "all" })),
		"a better status":               forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { cpu(c)["ear.status"] = "none" })),
		"two kinds of hardware": forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) {
			e := cpu(c)["ear.veraison.annotated-evidence"].(map[string]any)
			e["tdx"] = e["snp"]
		})),
		"no hardware": forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) {
			delete(cpu(c)["ear.veraison.annotated-evidence"].(map[string]any), "snp")
		})),
		"two nonces":        forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { c["eat_nonce"] = "another nonce" })),
		"a named policy":    forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { cpu(c)["ear.appraisal-policy-id"] = "default" })),
		"a short policy":    forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { cpu(c)["ear.appraisal-policy-id"] = "sha256:01" })),
		"no JSON":           forge(t, jose.ES256, own, typed(nil), []byte("claims")),
		"claims and more":   forge(t, jose.ES256, own, typed(nil), append(mustDecode(t, parts[1]), "{}"...)),
		"null":              forge(t, jose.ES256, own, typed(nil), []byte("null")),
		"cut signature":     good[:len(good)-1],
		"no signature":      parts[0] + "." + parts[1] + ".",
		"two parts":         parts[0] + "." + parts[1],
		"four parts":        good + ".AAAA",
		"other claims":      parts[0] + "." + b64.EncodeToString(append(mustDecode(t, parts[1]), ' ')) + "." + parts[2],
		"padded":            parts[0] + "." + parts[1] + "." + parts[2] + "==",
		"a JSON serialised": `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`,
		"opaque":            "opaque",
		"empty":             "",
		"long, opaque":      strings.Repeat("A", 17<<10),
		"long": forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) {
			cpu(c)["ear.veraison.annotated-evidence"].(map[string]any)["snp"].(map[string]any)["tcb_status"] = strings.Repeat("x", 16<<10)
		})),
	} {
		if c, err := s.Verify(token, at); err == nil || c.ID != "" {
			t.Errorf("verified: %s", name)
		} else if strings.Contains(err.Error(), claims().Nonce) {
			t.Errorf("%s: the error tells a nonce: %v", name, err)
		}
	}
	var none *ear.Signer
	if _, err := none.Verify(good, at); err == nil {
		t.Error("no signer verified")
	}
}

func mustDecode(t testing.TB, s string) []byte {
	t.Helper()
	data, err := b64.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
