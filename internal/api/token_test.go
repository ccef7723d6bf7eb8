package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestGoodTokens(t *testing.T) {
	f := newFakeIssuer(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	f.signers = append(f.signers, signer{"rs", jose.RS256, rsaKey}, signer{"ps", jose.PS256, rsaKey})
	f.signers[1].key, f.signers[2].key = rsaKey.Public(), rsaKey.Public()
	tokens, err := newTokens([]Issuer{f.config()}, (&testClock{}).now)
	must(t, err)
	base := f.claims("ann", "researcher", "operator", "researcher", "admin")
	for name, token := range map[string]string{
		"ES256":         f.token(t, base),
		"RS256":         signed(t, signer{"rs", jose.RS256, rsaKey}, map[string]any{"typ": "JWT"}, base),
		"PS256":         signed(t, signer{"ps", jose.PS256, rsaKey}, map[string]any{"typ": "JWT"}, base),
		"at+jwt":        signed(t, f.signers[0], map[string]any{"typ": "at+jwt"}, base),
		"no header typ": signed(t, f.signers[0], nil, base),
		"aud a string":  f.token(t, changed(base, "aud", "siestad")),
	} {
		c, err := tokens.verify(context.Background(), token)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Subject != f.url+"|ann" || c.Kind != "person" || !slices.Equal(c.Roles, []string{"researcher", "operator"}) {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for _, name := range []any{"service-account-portal", "", nil} {
		c, err := tokens.verify(context.Background(), f.token(t, changed(base, "preferred_username", name)))
		if err != nil || c.Kind != "service" {
			t.Errorf("a token of %v is one of a %s: %v", name, c.Kind, err)
		}
	}
	// Client credentials under a name that could be a person's.
	for name, value := range map[string]any{"sub": "siesta-cli", "client_id": "ann", "clientHost": "192.0.2.9"} {
		c, err := tokens.verify(context.Background(), f.token(t, changed(base, name, value)))
		if err != nil || c.Kind != "service" {
			t.Errorf("with %s %v it is a token of a %s: %v", name, value, c.Kind, err)
		}
	}
	if c, err := tokens.verify(context.Background(), f.token(t, changed(base, "client_id", "siesta-cli"))); err != nil || c.Kind != "person" {
		t.Errorf("a person's token that names its client is one of a %s: %v", c.Kind, err)
	}
	// realm_access and other clients' roles are not ours.
	c, err := tokens.verify(context.Background(), f.token(t, changed(base, "resource_access", map[string]any{"account": map[string]any{"roles": []string{"operator"}}})))
	if err != nil || len(c.Roles) != 0 {
		t.Errorf("roles of other clients: %v %v", c.Roles, err)
	}
}

func changed(claims map[string]any, name string, value any) map[string]any {
	c := maps.Clone(claims)
	if c[name] = value; value == nil {
		delete(c, name)
	}
	return c
}

// TestBadTokens is the corpus: every one is refused, most with the word that says why.
func TestBadTokens(t *testing.T) {
	f, stranger := newFakeIssuer(t), newFakeIssuer(t)
	good := f.claims("ann", "operator")
	now := start.Unix()
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	f.signers = append(f.signers, signer{"es384", jose.ES384, p384})
	valid := f.token(t, good)
	parts := strings.Split(valid, ".")
	segment := func(v any) string {
		data, err := json.Marshal(v)
		must(t, err)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	with := func(name string, value any) string { return f.token(t, changed(good, name, value)) }
	hmacKey := make([]byte, 32)
	raw := func(payload string) string { return signed(t, f.signers[0], nil, []byte(payload)) }
	base, err := json.Marshal(good)
	must(t, err)

	corpus := []struct {
		name, token string
		want        tokenFault // empty: any
	}{
		{"none at all", "", faultAbsent},
		{"one word", "x", faultMalformed},
		{"two parts", parts[0] + "." + parts[1], faultMalformed},
		{"four parts", valid + ".x", faultMalformed},
		{"five parts (a JWE)", "a.b.c.d.e", faultMalformed},
		{"empty parts", "..", ""},
		{"too long", strings.Repeat("a", maxToken+1), faultMalformed},
		{"white space inside", parts[0] + ". " + parts[1] + "." + parts[2], faultMalformed},
		{"trailing new line", valid + "\n", faultMalformed},
		{"padding", valid + "==", faultMalformed},
		{"JSON serialisation", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, faultMalformed},
		{"header is no JSON", base64.RawURLEncoding.EncodeToString([]byte("{")) + "." + parts[1] + "." + parts[2], faultMalformed},
		{"alg none", segment(map[string]any{"alg": "none", "kid": "k1"}) + "." + parts[1] + ".", ""},
		{"alg None", segment(map[string]any{"alg": "None", "kid": "k1"}) + "." + parts[1] + ".", ""},
		{"alg none with a signature", segment(map[string]any{"alg": "none", "kid": "k1"}) + "." + parts[1] + "." + parts[2], faultAlgorithm},
		{"HS256 with a secret", signed(t, signer{"k1", jose.HS256, hmacKey}, nil, good), faultAlgorithm},
		{"HS256 with the public key as secret", signed(t, signer{"k1", jose.HS256, []byte(segment(f.signers[0].key.(*ecdsa.PrivateKey).X) + strings.Repeat("x", 32))}, nil, good), faultAlgorithm},
		{"ES384, though its key is in the set", signed(t, f.signers[1], nil, good), faultAlgorithm},
		{"RS512", signed(t, signer{"k1", jose.RS512, small}, nil, good), faultAlgorithm},
		{"RS256 under an EC key's id", signed(t, signer{"k1", jose.RS256, small}, nil, good), faultKey},
		{"unknown kid", signed(t, signer{"k9", jose.ES256, f.signers[0].key}, nil, good), faultKey},
		{"no kid", signed(t, signer{"", jose.ES256, f.signers[0].key}, nil, good), faultKey},
		{"signed by a stranger under our kid", signed(t, stranger.signers[0], nil, good), faultSignature},
		{"signature of another token", parts[0] + "." + segment(changed(good, "sub", "eve")) + "." + parts[2], faultSignature},
		{"signature cut", valid[:len(valid)-4], ""},
		{"signature empty", parts[0] + "." + parts[1] + ".", ""},
		{"unknown critical header", signed(t, f.signers[0], map[string]any{"crit": []string{"x"}, "x": 1}, good), ""},
		{"header typ logout+jwt", signed(t, f.signers[0], map[string]any{"typ": "logout+jwt"}, good), faultType},
		{"header typ dpop+jwt", signed(t, f.signers[0], map[string]any{"typ": "dpop+jwt"}, good), faultType},
		{"header typ a number", signed(t, f.signers[0], map[string]any{"typ": 7}, good), faultType},
		{"payload is no JSON", raw("hello"), faultMalformed},
		{"payload is an array", raw("[]"), faultMalformed},
		{"payload empty", raw(""), ""},
		{"claim given twice", raw(`{"aud":"siestad",` + string(base[1:])), faultMalformed},
		{"payload with something after", raw(string(base) + "{}"), faultMalformed},
		{"issuer of a stranger", stranger.token(t, stranger.claims("ann", "operator")), faultIssuer},
		{"issuer with a slash more", with("iss", f.url+"/"), faultIssuer},
		{"issuer in upper case", with("iss", strings.ToUpper(f.url)), faultIssuer},
		{"issuer missing", with("iss", nil), faultIssuer},
		{"issuer an array", with("iss", []string{f.url}), faultMalformed},
		{"ID token", with("typ", "ID"), faultType},
		{"refresh token", with("typ", "Refresh"), faultType},
		{"logout token", with("typ", "Logout"), faultType},
		{"typ missing", with("typ", nil), faultType},
		{"typ bearer in lower case", with("typ", "bearer"), faultType},
		{"audience missing", with("aud", nil), faultAudience},
		{"audience of another", with("aud", "account"), faultAudience},
		{"audience a prefix", with("aud", []string{"siestad-test", "siesta"}), faultAudience},
		{"audience empty", with("aud", []string{}), faultAudience},
		{"audience an object", with("aud", map[string]any{"siestad": true}), faultMalformed},
		{"another client", with("azp", "evil-app"), faultClient},
		{"client missing", with("azp", nil), faultClient},
		{"client is the audience", with("azp", "siestad"), faultClient},
		{"expired", with("exp", now-60), faultExpired},
		{"expired long ago", with("exp", 1), ""},
		{"exp missing", with("exp", nil), faultTime},
		{"exp a string", with("exp", "tomorrow"), faultMalformed},
		{"exp negative", with("exp", -1), faultTime},
		{"exp beyond all time", with("exp", 1e18), faultTime},
		{"iat missing", with("iat", nil), faultTime},
		{"iat in the future", f.token(t, changed(changed(good, "iat", now+3600), "exp", now+7200)), faultTime},
		{"iat after exp", f.token(t, changed(changed(good, "iat", now+20), "exp", now+10)), faultTime},
		{"nbf in the future", with("nbf", now+3600), faultTime},
		{"sub missing", with("sub", nil), faultSubject},
		{"sub empty", with("sub", ""), faultSubject},
		{"sub too long", with("sub", strings.Repeat("a", 129)), faultSubject},
		{"sub with a bar", with("sub", "x|ann"), faultSubject},
		{"sub with a space at its end", with("sub", "ann "), faultSubject},
		{"sub with a space before it", with("sub", "\u00a0ann"), faultSubject},
		{"sub with a new line", with("sub", "ann\nbob"), faultSubject},
		{"sub a number", with("sub", 7), faultMalformed},
		{"bound to a certificate", with("cnf", map[string]any{"x5t#S256": "abc"}), faultBound},
		{"bound to a DPoP key", with("cnf", map[string]any{"jkt": "abc"}), faultBound},
		{"roles not a list", with("resource_access", map[string]any{"siestad": map[string]any{"roles": "operator"}}), faultMalformed},
	}
	if len(corpus) < 40 {
		t.Fatalf("the corpus has shrunk to %d", len(corpus))
	}
	tokens, err := newTokens([]Issuer{f.config()}, (&testClock{}).now)
	must(t, err)
	if _, err := tokens.verify(context.Background(), valid); err != nil {
		t.Fatal(err)
	}
	for _, row := range corpus {
		c, err := tokens.verify(context.Background(), row.token)
		var got tokenFault
		if !errors.As(err, &got) || row.want != "" && got != row.want {
			t.Errorf("%s: got %v (%+v), want %q", row.name, err, c.Principal, row.want)
		}
	}
	if f.fetched() > 2 {
		t.Errorf("%d bad tokens made us fetch the keys %d times", len(corpus), f.fetched())
	}
}

// TestIssuerOutage: an issuer that is away delays its tokens only, and keys once seen are kept.
func TestIssuerOutage(t *testing.T) {
	f := newFakeIssuer(t)
	now := start
	clock := func() time.Time { return now }
	f.set(func() { f.down = true })
	tokens, err := newTokens([]Issuer{f.config()}, clock)
	must(t, err)
	if _, err := tokens.verify(context.Background(), f.token(t, f.claims("ann"))); !errors.Is(err, errIssuerAway) {
		t.Fatalf("an issuer never seen: %v", err)
	}
	f.set(func() { f.down = false })
	if _, err := tokens.verify(context.Background(), f.token(t, f.claims("ann"))); !errors.Is(err, errIssuerAway) {
		t.Fatalf("asked again within %v: %v", fetchFloor, err)
	}
	now = now.Add(fetchFloor)
	if _, err := tokens.verify(context.Background(), f.token(t, f.claims("ann"))); err != nil {
		t.Fatalf("the issuer is back: %v", err)
	}

	// A rotated key signs at once; it is found when the floor allows, and the old ones are kept through an outage.
	old := f.signers[0]
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	f.set(func() { f.signers = []signer{{"k2", jose.ES256, key}, old} })
	now = now.Add(fetchFloor)
	if _, err := tokens.verify(context.Background(), f.token(t, f.claims("bob"))); err != nil {
		t.Fatalf("a rotated key: %v", err)
	}
	f.set(func() { f.down = true })
	now = now.Add(fetchFloor)
	if _, err := tokens.verify(context.Background(), signed(t, signer{"k3", jose.ES256, key}, nil, f.claims("eve"))); !errors.Is(err, faultKey) {
		t.Fatalf("an unknown key during an outage: %v", err)
	}
	if _, err := tokens.verify(context.Background(), signed(t, old, nil, f.claims("cyd"))); err != nil {
		t.Fatalf("a known key during an outage: %v", err)
	}
}

// TestWithdrawnKeys: a key that the issuer no longer shows is good for keysFresh at most, whether its tokens were seen before
// or not, and for keysKept while the issuer does not answer.
func TestWithdrawnKeys(t *testing.T) {
	f, clock := newFakeIssuer(t), &testClock{}
	tokens, err := newTokens([]Issuer{f.config()}, clock.now)
	must(t, err)
	old := f.signers[0]
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	fresh := signer{"k2", jose.ES256, key}
	lasting := func(s signer, sub string) string {
		return signed(t, s, nil, changed(f.claims(sub), "exp", start.Unix()+86400))
	}
	ann, bob := lasting(old, "ann"), lasting(old, "bob")
	verify := func(token string) error { _, err := tokens.verify(context.Background(), token); return err }
	must(t, verify(ann))

	f.set(func() { f.signers = []signer{fresh} })
	clock.advance(keysFresh - time.Second)
	if err := verify(ann); err != nil {
		t.Errorf("the issuer is asked for every token: %v", err)
	}
	clock.advance(time.Second)
	for name, token := range map[string]string{"one seen before": ann, "a new one": bob} {
		if err := verify(token); !errors.Is(err, faultKey) {
			t.Errorf("a token of a withdrawn key, %s: %v", name, err)
		}
	}

	// Another key under an id that was seen before.
	cyd := lasting(fresh, "cyd")
	must(t, verify(cyd))
	f.set(func() { f.signers = []signer{{fresh.kid, jose.ES256, old.key}} })
	clock.advance(keysFresh)
	if err := verify(cyd); !errors.Is(err, faultSignature) {
		t.Errorf("a token of a replaced key: %v", err)
	}

	// While the issuer is away, it is asked now and then, and what was known is kept for a while.
	dee := lasting(signer{fresh.kid, jose.ES256, old.key}, "dee")
	must(t, verify(dee))
	f.set(func() { f.down = true })
	clock.advance(keysKept - time.Second)
	must(t, verify(dee))
	f.set(func() { f.down = false })
	clock.advance(time.Second)
	f.set(func() { f.down = true })
	if err := verify(dee); !errors.Is(err, errIssuerAway) {
		t.Errorf("keys of an hour ago: %v", err)
	}
	f.set(func() { f.down = false })
	clock.advance(fetchFloor)
	must(t, verify(dee))
}

// TestAKeySetWithoutKeysCounts: an issuer that shows no key that signs has withdrawn them all. One that shows no key set
// has not answered.
func TestAKeySetWithoutKeysCounts(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	encrypts, err := json.Marshal(jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Algorithm: "ECDH-ES", Use: "enc"})
	must(t, err)
	for shown, want := range map[string]error{
		`{"keys":[]}`:                             faultKey,
		`{"keys":[` + string(encrypts) + `]}`:     faultKey,
		`{"keys":[{"kty":"of another century"}]}`: faultKey,
		`{"keys":null}`:                           nil,
		`{"keys":{}}`:                             nil,
		`{}`:                                      nil,
		`[]`:                                      nil,
		`<html>`:                                  nil,
	} {
		f, clock := newFakeIssuer(t), &testClock{}
		tokens, err := newTokens([]Issuer{f.config()}, clock.now)
		must(t, err)
		lasting := func(sub string) string { return f.token(t, changed(f.claims(sub), "exp", start.Unix()+86400)) }
		ann, bob := lasting("ann"), lasting("bob")
		_, err = tokens.verify(context.Background(), ann)
		must(t, err)
		f.set(func() { f.shown = shown })
		clock.advance(keysFresh)
		for name, token := range map[string]string{"one seen before": ann, "a new one": bob} {
			if _, err := tokens.verify(context.Background(), token); !errors.Is(err, want) {
				t.Errorf("%s: a token, %s: got %v, want %v", shown, name, err, want)
			}
		}
		f.set(func() { f.shown = "" })
		clock.advance(keysRetry)
		if _, err := tokens.verify(context.Background(), bob); err != nil {
			t.Errorf("after %s, when the issuer shows its keys again: %v", shown, err)
		}
	}
	f := newFakeIssuer(t)
	f.shown = `{"keys":[]}` // from the beginning
	tokens, err := newTokens([]Issuer{f.config()}, (&testClock{}).now)
	must(t, err)
	if _, err := tokens.verify(context.Background(), f.token(t, f.claims("ann"))); !errors.Is(err, faultKey) {
		t.Errorf("an issuer that has never had a key: %v", err)
	}
}

// TestTheSameKeysAreTheSameSet: what was verified with them is not verified again because they were asked for.
func TestTheSameKeysAreTheSameSet(t *testing.T) {
	f, clock := newFakeIssuer(t), &testClock{}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	f.signers = append(f.signers, signer{"rs", jose.RS256, rsaKey.Public()})
	keys := newKeySet(f.url, f.Client(), clock.now)
	for i, want := range []int{1, 1, 2, 2} {
		if i == 2 {
			f.set(func() { f.signers = f.signers[:1] })
		}
		round, err := keys.current(context.Background())
		if must(t, err); round != want || f.fetched() != i+1 {
			t.Errorf("after %d of %d fetches the set is number %d, want %d", f.fetched(), i+1, round, want)
		}
		clock.advance(keysFresh)
	}
}

// TestKeysAreFetchedSeldom: once in keysFresh, and once in keysRetry while the issuer is away.
func TestKeysAreFetchedSeldom(t *testing.T) {
	f, clock := newFakeIssuer(t), &testClock{}
	tokens, err := newTokens([]Issuer{f.config()}, clock.now)
	must(t, err)
	token := f.token(t, changed(f.claims("ann"), "exp", start.Unix()+86400))
	for range 3600 {
		_, err := tokens.verify(context.Background(), token)
		must(t, err)
		clock.advance(time.Second)
	}
	if want := int(time.Hour / keysFresh); f.fetched() != want {
		t.Errorf("the keys were fetched %d times in an hour, want %d", f.fetched(), want)
	}
	f.set(func() { f.fetches, f.broken = 0, true })
	for range int((keysKept - keysFresh) / time.Second) {
		_, err := tokens.verify(context.Background(), token)
		must(t, err)
		clock.advance(time.Second)
	}
	if most := int(keysKept / keysRetry); f.fetched() > most || f.fetched() < 10 {
		t.Errorf("the keys of an issuer that is away were asked for %d times, at most %d", f.fetched(), most)
	}
}

func TestCacheForgetsWhatExpired(t *testing.T) {
	f := newFakeIssuer(t)
	now := start
	tokens, err := newTokens([]Issuer{f.config()}, func() time.Time { return now })
	must(t, err)
	token := f.token(t, f.claims("ann"))
	for range 2 {
		if _, err := tokens.verify(context.Background(), token); err != nil {
			t.Fatal(err)
		}
	}
	if len(tokens.cache) != 1 {
		t.Fatalf("%d tokens are cached", len(tokens.cache))
	}
	now = now.Add(10 * time.Minute)
	if _, err := tokens.verify(context.Background(), token); !errors.Is(err, faultExpired) {
		t.Fatalf("a cached token outlived itself: %v", err)
	}
	for i := range tokenCached + 10 {
		tokens.remember([32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}, verified{caller: caller{expires: now.Add(time.Minute)}}, now)
	}
	if len(tokens.cache) > tokenCached {
		t.Fatalf("the cache grew to %d", len(tokens.cache))
	}
}

func FuzzToken(f *testing.F) {
	issuer := newFakeIssuer(f)
	tokens, err := newTokens([]Issuer{issuer.config()}, (&testClock{}).now)
	must(f, err)
	f.Add(issuer.token(f, issuer.claims("ann", "operator")))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := tokens.verify(context.Background(), token)
		if err == nil && c.Subject != issuer.url+"|ann" {
			t.Fatalf("accepted %q", token)
		}
	})
}
