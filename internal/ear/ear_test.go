package ear_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

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
