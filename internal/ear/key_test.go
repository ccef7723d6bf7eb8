package ear_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/eosc-siesta/siestad/internal/ear"
)

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
	scalar, err := private(t, k).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d := []string{new(big.Int).SetBytes(scalar).String(), hex.EncodeToString(scalar), base64.StdEncoding.EncodeToString(scalar), fmt.Sprintf("%d", scalar)}
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
		if slices.ContainsFunc(d, func(d string) bool { return strings.Contains(s, d) }) || !strings.Contains(s, "[redacted]") {
			t.Errorf("prints %.60s", s)
		}
	}
	var back ear.Key
	if json.Unmarshal([]byte(`"[redacted]"`), &back) == nil {
		t.Error("a redacted key came back")
	}
}
