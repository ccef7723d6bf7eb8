package ear_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/eosc-siesta/siestad/internal/ear"
)

var (
	b64 = base64.RawURLEncoding
	at  = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
)

func newKey(t testing.TB) ear.Key {
	t.Helper()
	k, err := ear.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// private gives the key to a test that forges with it.
func private(t testing.TB, k ear.Key) *ecdsa.PrivateKey {
	t.Helper()
	der, err := k.PKCS8()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(*ecdsa.PrivateKey)
}

func config(t testing.TB) ear.Config {
	return ear.Config{
		Issuer: "https://siesta.example", Audience: "https://siesta.example/kbs/v0", Build: "siestad test",
		Current: newKey(t), Now: func() time.Time { return at },
	}
}

func newSigner(t testing.TB, cfg ear.Config) *ear.Signer {
	t.Helper()
	s, err := ear.NewSigner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func claims() ear.Claims {
	return ear.Claims{
		ID: "01JDECISION", Nonce: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", TEE: "snp",
		Vector:     ear.Vector{InstanceIdentity: 2, Hardware: 2, Executables: 3, Configuration: 2},
		PolicyHash: sha256.Sum256([]byte("policy")), TCBStatus: "at-floor", Advisories: []string{"AMD-SB-3019", "<&>"},
		Measurement: make([]byte, 48), ReportData: make([]byte, 64), InitData: make([]byte, 32),
		TEEKey: json.RawMessage(`{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"AA","y":"<&>"}`),
	}
}

func sign(t testing.TB, s *ear.Signer, c ear.Claims) string {
	t.Helper()
	token, err := s.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// payload of a token as a stock client reads it: three parts, no padding.
func payload(t testing.TB, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	data, err := b64.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	s := newSigner(t, config(t))
	for _, tee := range []string{"snp", "tdx"} {
		want := claims()
		want.TEE = tee
		got, err := s.Verify(sign(t, s, want), at)
		if err != nil {
			t.Fatal(err)
		}
		want.IssuedAt, want.Expires = at, at.Add(5*time.Minute)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestTokenShape: where stock clients and servers look for things.
func TestTokenShape(t *testing.T) {
	cfg := config(t)
	s := newSigner(t, cfg)
	token := sign(t, s, claims())
	header, err := b64.DecodeString(strings.Split(token, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var h map[string]any
	if err := json.Unmarshal(header, &h); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"alg": "ES256", "typ": "eat+jwt", "kid": cfg.Current.Public().ID()}, h); diff != "" {
		t.Error(diff)
	}
	hash := sha256.Sum256([]byte("policy"))
	want := map[string]any{
		"eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
		"iss":         cfg.Issuer, "aud": cfg.Audience, "jti": "01JDECISION",
		"iat": float64(at.Unix()), "exp": float64(at.Unix() + 300),
		"eat_nonce":       claims().Nonce,
		"ear.verifier-id": map[string]any{"build": "siestad test", "developer": "siestad"},
		"submods": map[string]any{"cpu0": map[string]any{
			"ear.status": "affirming",
			"ear.trustworthiness-vector": map[string]any{
				"instance-identity": 2.0, "configuration": 2.0, "executables": 3.0, "file-system": 0.0,
				"hardware": 2.0, "runtime-opaque": 0.0, "storage-opaque": 0.0, "sourced-data": 0.0,
			},
			"ear.appraisal-policy-id": fmt.Sprintf("sha256:%x", hash),
			"ear.veraison.annotated-evidence": map[string]any{
				"snp": map[string]any{
					"measurement": strings.Repeat("00", 48), "tcb_status": "at-floor", "advisory_ids": []any{"AMD-SB-3019", "<&>"},
				},
				"init_data": strings.Repeat("00", 32), "report_data": strings.Repeat("00", 64),
				"runtime_data_claims": map[string]any{
					"nonce":      claims().Nonce,
					"tee-pubkey": map[string]any{"alg": "ECDH-ES+A256KW", "crv": "P-256", "kty": "EC", "x": "AA", "y": "<&>"},
				},
			},
		}},
	}
	if diff := cmp.Diff(want, payload(t, token)); diff != "" {
		t.Error(diff)
	}
}

func TestSignRefuses(t *testing.T) {
	s := newSigner(t, config(t))
	for name, change := range map[string]func(c *ear.Claims){
		"nothing":         func(c *ear.Claims) { *c = ear.Claims{} },
		"no decision":     func(c *ear.Claims) { c.ID = "" },
		"no nonce":        func(c *ear.Claims) { c.Nonce = "" },
		"a short nonce":   func(c *ear.Claims) { c.Nonce = "1234567" },
		"a long nonce":    func(c *ear.Claims) { c.Nonce = strings.Repeat("n", 89) },
		"sample":          func(c *ear.Claims) { c.TEE = "sample" },
		"no policy":       func(c *ear.Claims) { c.PolicyHash = [32]byte{} },
		"no judgement":    func(c *ear.Claims) { c.Vector = ear.Vector{} },
		"no report data":  func(c *ear.Claims) { c.ReportData = nil },
		"no key":          func(c *ear.Claims) { c.TEEKey = nil },
		"null key":        func(c *ear.Claims) { c.TEEKey = json.RawMessage("null") },
		"half a key":      func(c *ear.Claims) { c.TEEKey = json.RawMessage(`{"a":`) },
		"a very long one": func(c *ear.Claims) { c.Advisories = []string{strings.Repeat("x", 16<<10)} },
	} {
		c := claims()
		change(&c)
		if token, err := s.Sign(c); err == nil || token != "" {
			t.Errorf("signed: %s", name)
		}
	}
}

func TestVectorStatus(t *testing.T) {
	for part, want := range map[int8]ear.Status{
		0: ear.None, 1: ear.None, -1: ear.None, 2: ear.Affirming, 31: ear.Affirming, -2: ear.Affirming, -32: ear.Affirming,
		32: ear.Warning, 95: ear.Warning, -33: ear.Warning, -96: ear.Warning,
		96: ear.Contraindicated, 127: ear.Contraindicated, -97: ear.Contraindicated, -128: ear.Contraindicated,
	} {
		if got := (ear.Vector{SourcedData: part}).Status(); got != want {
			t.Errorf("%d: %s, want %s", part, got, want)
		}
	}
	if got := (ear.Vector{Hardware: 2, Executables: 33, Configuration: 2}).Status(); got != ear.Warning {
		t.Errorf("the worst part decides: %s", got)
	}
}

// TestLife is the clock's side: five minutes, no more, and five seconds for
// another instance's clock.
func TestLife(t *testing.T) {
	s := newSigner(t, config(t))
	token := sign(t, s, claims())
	for after, ok := range map[time.Duration]bool{
		0: true, 5*time.Minute - time.Second: true, 5 * time.Minute: false, time.Hour: false, -5 * time.Second: true, -6 * time.Second: false,
	} {
		if _, err := s.Verify(token, at.Add(after)); (err == nil) != ok {
			t.Errorf("%v after issue: %v", after, err)
		}
	}
	if _, err := s.Verify(token, time.Time{}); err == nil {
		t.Error("verified at no time")
	}
}

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
		"a short policy":    forge(t, jose.ES256, own, typed(nil), with(func(c map[string]any) { cpu(c)["ear.appraisal-policy-id"] = "sha256:00" })),
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
		"long":              good + strings.Repeat("A", 16<<10),
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
	signed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
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

func TestKeys(t *testing.T) {
	k := newKey(t)
	der, err := k.PKCS8()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ear.ParseKey(der)
	if err != nil || again.Public().ID() != k.Public().ID() {
		t.Errorf("%v", err)
	}
	public, err := ear.ParsePublicKey(k.Public().JSON())
	if err != nil || public.ID() != k.Public().ID() || len(public.ID()) != 43 {
		t.Errorf("%v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, other, der[:len(der)-1], append(der, 0)} {
		if _, err := ear.ParseKey(bad); err == nil {
			t.Errorf("read a key of %d bytes", len(bad))
		}
	}
	own, err := json.Marshal(jose.JSONWebKey{Key: private(t, k)})
	if err != nil {
		t.Fatal(err)
	}
	p384JWK, err := json.Marshal(jose.JSONWebKey{Key: &p384.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "null", "{}", string(own), string(p384JWK), strings.Repeat(" ", 2000)} {
		if _, err := ear.ParsePublicKey([]byte(bad)); err == nil {
			t.Errorf("read a public key from %.40s", bad)
		}
	}
	var none ear.Key
	if _, err := none.PKCS8(); err == nil || none.Public().ID() != "" || string(none.Public().JSON()) != "null" {
		t.Error("no key is a key")
	}
}

// TestKeyPrintsRedacted: attack 41, keys in logs.
func TestKeyPrintsRedacted(t *testing.T) {
	k := newKey(t)
	d := private(t, k).D.String()
	type holder struct{ Key ear.Key }
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		out = append(out, fmt.Sprintf(verb, k), fmt.Sprintf(verb, holder{k}), fmt.Sprintf(verb, &k))
	}
	data, err := json.Marshal(map[string]any{"a": k, "b": holder{k}})
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, string(data), k.LogValue().String())
	for _, s := range out {
		if strings.Contains(s, d) || !strings.Contains(s, "[redacted]") {
			t.Errorf("prints %.60s", s)
		}
	}
	var back ear.Key
	if json.Unmarshal([]byte(`"[redacted]"`), &back) == nil {
		t.Error("a redacted key came back")
	}
}

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
