package kbs_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

func TestTEEKeyHasOneText(t *testing.T) {
	const want = `{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	if got := parsedKey(t, vectorKey).JSON(); string(got) != want {
		t.Errorf("%s", got)
	}
	for _, kind := range kinds {
		k := guestKey(t, kind).public
		again, err := kbs.ParseTEEKey(k.JSON())
		if err != nil || !again.Equal(k) || !bytes.Equal(again.JSON(), k.JSON()) {
			t.Errorf("%s: %v", kind, err)
		}
		for _, other := range kinds {
			if o := guestKey(t, other).public; o.Equal(k) != (other == kind) {
				t.Errorf("%s equals %s: %v", kind, other, o.Equal(k))
			}
		}
	}
	var none kbs.TEEKey
	if none.Equal(none) || none.Alg() != "" || string(none.JSON()) != "null" {
		t.Error("no key is a key")
	}
}

// TestTEEKeysRefused: algorithms that leak, keys that are none, texts that are
// not the key's one text.
func TestTEEKeysRefused(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	ec := func(crv string, x, y []byte) string {
		return fmt.Sprintf(`{"kty":"EC","crv":%q,"alg":"ECDH-ES+A256KW","x":%q,"y":%q}`, crv, enc(x), enc(y))
	}
	rsa := func(alg string, n, e []byte) string {
		return fmt.Sprintf(`{"kty":"RSA","alg":%q,"n":%q,"e":%q}`, alg, enc(n), enc(e))
	}
	odd := func(bits int) []byte {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
		if err != nil {
			t.Fatal(err)
		}
		n.SetBit(n.SetBit(n, 0, 1), bits-1, 1)
		return n.Bytes()
	}
	n, e := odd(2048), []byte{1, 0, 1}
	even := bytes.Clone(n)
	even[len(even)-1] &^= 1
	var point struct{ X, Y string }
	if err := json.Unmarshal(guestKey(t, "P-256").public.JSON(), &point); err != nil {
		t.Fatal(err)
	}
	x, err := base64.RawURLEncoding.DecodeString(point.X)
	if err != nil {
		t.Fatal(err)
	}
	y, err := base64.RawURLEncoding.DecodeString(point.Y)
	if err != nil {
		t.Fatal(err)
	}
	off := bytes.Clone(y)
	off[31] ^= 1
	prime, _ := new(big.Int).SetString("ffffffff00000001000000000000000000000000ffffffffffffffffffffffff", 16)

	for _, good := range []string{ec("P-256", x, y), rsa("RSA-OAEP-256", n, e), rsa("RSA-OAEP-256", odd(4096), e)} {
		if _, err := kbs.ParseTEEKey(json.RawMessage(good)); err != nil {
			t.Errorf("%.80s: %v", good, err)
		}
	}
	swap := func(old, replacement string) string {
		return strings.Replace(vectorKey, old, replacement, 1)
	}
	for name, jwk := range map[string]string{
		"RSA1_5":                   rsa("RSA1_5", n, e),
		"RSA-OAEP with SHA-1":      rsa("RSA-OAEP", n, e),
		"RSA without alg":          fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB"}`, enc(n)),
		"RSA of 1024 bits":         rsa("RSA-OAEP-256", odd(1024), e),
		"RSA of 2047 bits":         rsa("RSA-OAEP-256", odd(2047), e),
		"RSA of 8192 bits":         rsa("RSA-OAEP-256", odd(8192), e),
		"RSA, even modulus":        rsa("RSA-OAEP-256", even, e),
		"RSA, leading zero":        rsa("RSA-OAEP-256", append([]byte{0}, n...), e),
		"RSA, exponent 1":          rsa("RSA-OAEP-256", n, []byte{1}),
		"RSA, exponent 3":          rsa("RSA-OAEP-256", n, []byte{3}),
		"RSA, exponent zero-led":   rsa("RSA-OAEP-256", n, []byte{0, 1, 0, 1}),
		"RSA, no exponent":         rsa("RSA-OAEP-256", n, nil),
		"RSA, no modulus":          rsa("RSA-OAEP-256", nil, e),
		"RSA with a curve's alg":   rsa("ECDH-ES+A256KW", n, e),
		"AKP":                      `{"kty":"AKP","alg":"ML-KEM-768+A192KW","pub":"AAAA"}`,
		"oct":                      `{"kty":"oct","k":"AAAA"}`,
		"P-384":                    ec("P-384", make([]byte, 48), make([]byte, 48)),
		"secp256k1":                ec("secp256k1", x, y),
		"off the curve":            ec("P-256", x, off),
		"the point zero":           ec("P-256", make([]byte, 32), make([]byte, 32)),
		"x not reduced":            ec("P-256", prime.Bytes(), y),
		"x with a leading zero":    ec("P-256", append([]byte{0}, x...), y),
		"x and y parted elsewhere": ec("P-256", append(bytes.Clone(x), y[0]), y[1:]),
		"EC with a modulus":        swap(`"kty"`, `"n":"AAAA","kty"`),
		"EC with pub":              swap(`"kty"`, `"pub":"AAAA","kty"`),
		"RSA with x":               strings.Replace(rsa("RSA-OAEP-256", n, e), `"kty"`, `"x":"AAAA","kty"`, 1),
		"x cut":                    ec("P-256", x[:31], y),
		"x and y swapped curve":    ec("P-521", x, y),
		"ECDH-ES direct":           swap("ECDH-ES+A256KW", "ECDH-ES"),
		"ECDH-ES+A128KW":           swap("ECDH-ES+A256KW", "ECDH-ES+A128KW"),
		"alg none":                 swap("ECDH-ES+A256KW", "none"),
		"padded":                   swap(`F1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"`, `F1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU="`),
		"padding bits":             swap("RVEU", "RVEV"),
		"standard alphabet":        swap("x_FEz", "x/FEz"),
		"private half":             swap(`"kty"`, `"d":"AAAA","kty"`),
		"key id":                   swap(`"kty"`, `"kid":"AAAA","kty"`),
		"x twice":                  swap(`"x"`, `"x":"AAAA","x"`),
		"y an integer":             `{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"AAAA","y":1}`,
		"y null":                   `{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"AAAA","y":null}`,
		"without y":                `{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"AAAA"}`,
		"EC with RSA's members":    fmt.Sprintf(`{"kty":"EC","alg":"ECDH-ES+A256KW","crv":"P-256","n":%q,"e":"AQAB"}`, enc(n)),
		"another case":             swap(`"kty"`, `"KTY"`),
		"text":                     `"key"`,
		"null":                     `null`,
		"empty":                    ``,
		"trailing":                 vectorKey + `,`,
		"long":                     vectorKey + strings.Repeat(" ", 4<<10),
		"line break in the base64": swap("x_FEz", `x_\nFEz`),
	} {
		k, err := kbs.ParseTEEKey(json.RawMessage(jwk))
		if err == nil || k != (kbs.TEEKey{}) {
			t.Errorf("accepted: %s", name)
		}
	}
}
