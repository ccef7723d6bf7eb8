package kbs_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

var b64 = base64.RawURLEncoding

// guest is a key pair of a guest.
type guest struct {
	public kbs.TEEKey
	ec     *ecdsa.PrivateKey
	rsa    *rsa.PrivateKey
}

// guestKeys are made once: RSA keys are slow.
var guestKeys = map[string]func() (guest, error){
	"P-256":    sync.OnceValues(func() (guest, error) { return curveGuest(elliptic.P256(), ecdh.P256(), "P-256") }),
	"P-521":    sync.OnceValues(func() (guest, error) { return curveGuest(elliptic.P521(), ecdh.P521(), "P-521") }),
	"RSA-2048": sync.OnceValues(func() (guest, error) { return rsaGuest(2048) }),
	"RSA-3072": sync.OnceValues(func() (guest, error) { return rsaGuest(3072) }),
}

func guestKey(t testing.TB, kind string) guest {
	t.Helper()
	g, err := guestKeys[kind]()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func curveGuest(curve elliptic.Curve, dh ecdh.Curve, name string) (g guest, err error) {
	if g.ec, err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
		return g, err
	}
	private, err := g.ec.ECDH()
	if err != nil || private.Curve() != dh {
		return g, errors.Join(errors.New("another curve"), err)
	}
	point := private.PublicKey().Bytes()[1:]
	x, y := point[:len(point)/2], point[len(point)/2:]
	g.public, err = kbs.ParseTEEKey(fmt.Appendf(nil, `{"kty":"EC","crv":%q,"alg":"ECDH-ES+A256KW","x":%q,"y":%q}`,
		name, b64.EncodeToString(x), b64.EncodeToString(y)))
	return g, err
}

func rsaGuest(bits int) (g guest, err error) {
	if g.rsa, err = rsa.GenerateKey(rand.Reader, bits); err != nil {
		return g, err
	}
	g.public, err = kbs.ParseTEEKey(fmt.Appendf(nil, `{"kty":"RSA","alg":"RSA-OAEP-256","n":%q,"e":"AQAB"}`,
		b64.EncodeToString(g.rsa.N.Bytes())))
	return g, err
}

// pair is a member of a JSON object that remembers where it stood.
type pair struct {
	name  string
	value json.RawMessage
}

func pairs(object json.RawMessage) (out []pair, err error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not an object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		p := pair{name: name.(string)}
		if err := d.Decode(&p.value); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func take(from *[]pair, name string) json.RawMessage {
	for i, p := range *from {
		if p.name == name {
			*from = slices.Delete(*from, i, i+1)
			return p.value
		}
	}
	return nil
}

// rewrite is how a stock client gets from a parsed header back to bytes: alg and
// enc are fields of its own, the rest is a map, which its JSON library keeps in
// the order received or sorts, depending on how it was built.
func rewrite(header []byte, sorted bool) ([]byte, error) {
	members, err := pairs(header)
	if err != nil {
		return nil, err
	}
	alg, enc := take(&members, "alg"), take(&members, "enc")
	if alg == nil || enc == nil {
		return nil, errors.New("no alg or enc")
	}
	return object(append([]pair{{"alg", alg}, {"enc", enc}}, order(members, sorted)...), sorted)
}

func order(members []pair, sorted bool) []pair {
	if sorted {
		slices.SortFunc(members, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	}
	return members
}

func object(members []pair, sorted bool) ([]byte, error) {
	out := []byte{'{'}
	for i, p := range members {
		if i > 0 {
			out = append(out, ',')
		}
		value := []byte(p.value)
		if value[0] == '{' {
			inner, err := pairs(p.value)
			if err != nil {
				return nil, err
			}
			if value, err = object(order(inner, sorted), sorted); err != nil {
				return nil, err
			}
		}
		out = append(append(out, fmt.Sprintf("%q:", p.name)...), bytes.TrimSpace(value)...)
	}
	return append(out, '}'), nil
}

// stockClient opens an answer as strictly as kbs-client and trustee-attester do:
// all five members, text each; aad, if given, text; the authenticated data made
// from the header as rewritten. Its cryptography is go-jose's, not ours.
func stockClient(g guest, jwe []byte, sorted bool) ([]byte, error) {
	var w struct {
		Protected    *string         `json:"protected"`
		EncryptedKey *string         `json:"encrypted_key"`
		IV           *string         `json:"iv"`
		Ciphertext   *string         `json:"ciphertext"`
		Tag          *string         `json:"tag"`
		AAD          json.RawMessage `json:"aad"`
	}
	if err := json.Unmarshal(jwe, &w); err != nil {
		return nil, err
	}
	parts := make([][]byte, 5)
	for i, p := range []*string{w.Protected, w.EncryptedKey, w.IV, w.Ciphertext, w.Tag} {
		if p == nil {
			return nil, errors.New("a member is missing")
		}
		var err error
		if parts[i], err = b64.DecodeString(*p); err != nil {
			return nil, err
		}
	}
	if w.AAD != nil && w.AAD[0] != '"' {
		return nil, errors.New("aad is not text")
	}
	header, err := rewrite(parts[0], sorted)
	if err != nil {
		return nil, err
	}
	var h struct {
		Alg, Enc string
		EPK      *struct{ Kty, Crv, X, Y string }
	}
	if err := json.Unmarshal(header, &h); err != nil || h.Enc != "A256GCM" {
		return nil, errors.New("header is not understood")
	}
	cek, err := unwrap(g, h.Alg, h.EPK, parts[1])
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil || len(parts[2]) != gcm.NonceSize() {
		return nil, errors.New("not a nonce")
	}
	return gcm.Open(nil, parts[2], append(parts[3], parts[4]...), []byte(b64.EncodeToString(header)))
}

func unwrap(g guest, alg string, epk *struct{ Kty, Crv, X, Y string }, wrapped []byte) ([]byte, error) {
	if alg == "RSA-OAEP-256" && g.rsa != nil {
		return rsa.DecryptOAEP(sha256.New(), nil, g.rsa, wrapped, nil)
	}
	if alg != "ECDH-ES+A256KW" || g.ec == nil || epk == nil {
		return nil, errors.New("another algorithm")
	}
	x, errX := b64.DecodeString(epk.X)
	y, errY := b64.DecodeString(epk.Y)
	if err := errors.Join(errX, errY); err != nil {
		return nil, err
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(g.ec.Curve, append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, err
	}
	kek, err := aes.NewCipher(josecipher.DeriveECDHES(alg, nil, nil, g.ec, pub, 32))
	if err != nil {
		return nil, err
	}
	return josecipher.KeyUnwrap(kek, wrapped)
}
