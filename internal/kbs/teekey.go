package kbs

import (
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// The algorithms under which a secret is sealed. RSA1_5, which stock servers
// still take, is not among them: its padding is an oracle (CVE-2003-0131 and its
// descendants), and AKP is experimental upstream.
const (
	AlgECDH    = "ECDH-ES+A256KW"
	AlgRSAOAEP = "RSA-OAEP-256"
)

// Sizes of RSA moduli, in bytes: 2048 to 4096 bits.
const (
	minModulus = 256
	maxModulus = 512
	exponent   = 65537
)

// TEEKey is the public key of a guest, bound into its report. The zero value is
// no key, and nothing seals to it.
type TEEKey struct {
	ec  *ecdh.PublicKey
	rsa *rsa.PublicKey
}

// curves by their names in JOSE, with the length of a coordinate (RFC 7518,
// section 6.2.1.2: leading zeros are kept).
var curves = []struct {
	name  string
	curve ecdh.Curve
	size  int
}{
	{"P-256", ecdh.P256(), 32},
	{"P-521", ecdh.P521(), 66},
}

// ParseTEEKey reads a JWK of exactly the members that its type has: private
// halves, certificates and anything else unknown are refused, since the key is
// hashed from what is read here.
func ParseTEEKey(jwk json.RawMessage) (TEEKey, error) {
	if len(jwk) > maxKeyBytes {
		return TEEKey{}, fmt.Errorf("reading tee-pubkey: %w", errLong)
	}
	var k TEEKey
	err := read(jwk, func(r *reader) (err error) {
		k, err = r.teeKey()
		return err
	})
	if err != nil {
		return TEEKey{}, fmt.Errorf("reading tee-pubkey: %w", err)
	}
	return k, nil
}

func (r *reader) teeKey() (TEEKey, error) {
	m := map[string]string{}
	err := r.object(func(name string) error {
		s, err := r.text(base64.RawURLEncoding.EncodedLen(maxKeyBytes))
		m[name] = s
		return err
	})
	if err != nil {
		return TEEKey{}, err
	}
	// Together with the members each branch asks for, the count leaves no room for
	// another.
	switch kty := m["kty"]; {
	case kty == "EC" && len(m) == 5 && m["alg"] == AlgECDH:
		return curveKey(m["crv"], m["x"], m["y"])
	case kty == "RSA" && len(m) == 4 && m["alg"] == AlgRSAOAEP:
		return rsaKey(m["n"], m["e"])
	case kty == "RSA" && m["alg"] == "RSA1_5":
		return TEEKey{}, errors.New("RSA1_5 is refused: its padding leaks the plaintext")
	}
	return TEEKey{}, errors.New("neither EC with " + AlgECDH + " nor RSA with " + AlgRSAOAEP)
}

// curveKey refuses coordinates of another length and points that are not on the
// curve; crypto/ecdh checks the latter.
func curveKey(crv, x64, y64 string) (TEEKey, error) {
	for _, c := range curves {
		if c.name != crv {
			continue
		}
		x, errX := decode64(base64.RawURLEncoding, x64)
		y, errY := decode64(base64.RawURLEncoding, y64)
		if errX != nil || errY != nil || len(x) != c.size || len(y) != c.size {
			return TEEKey{}, errors.New("a coordinate has not the length of its curve")
		}
		pub, err := c.curve.NewPublicKey(append(append([]byte{4}, x...), y...))
		if err != nil {
			return TEEKey{}, errors.New("the point is not on its curve")
		}
		return TEEKey{ec: pub}, nil
	}
	return TEEKey{}, errors.New("the curve is neither P-256 nor P-521")
}

func rsaKey(n64, e64 string) (TEEKey, error) {
	n, errN := decode64(base64.RawURLEncoding, n64)
	e, errE := decode64(base64.RawURLEncoding, e64)
	switch {
	case errN != nil || errE != nil:
		return TEEKey{}, errors.New("not base64 in its canonical form")
	case len(n) < minModulus || len(n) > maxModulus || n[0] < 0x80 || n[len(n)-1]&1 == 0:
		return TEEKey{}, errors.New("the modulus is not one of 2048 to 4096 bits")
	case new(big.Int).SetBytes(e).Cmp(big.NewInt(exponent)) != 0 || e[0] == 0:
		return TEEKey{}, errors.New("the exponent is not 65537")
	}
	return TEEKey{rsa: &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: exponent}}, nil
}

func (k TEEKey) valid() bool { return k.ec != nil || k.rsa != nil }

// Equal says whether both are the same key. No key equals none.
func (k TEEKey) Equal(other TEEKey) bool {
	switch {
	case k.ec != nil && other.ec != nil:
		return k.ec.Equal(other.ec)
	case k.rsa != nil && other.rsa != nil:
		return k.rsa.Equal(other.rsa)
	}
	return false
}

// Alg is the algorithm under which Seal seals to the key.
func (k TEEKey) Alg() string {
	switch {
	case k.ec != nil:
		return AlgECDH
	case k.rsa != nil:
		return AlgRSAOAEP
	}
	return ""
}

// JSON is the key's one text, in canonical form, as it stands in a token.
func (k TEEKey) JSON() []byte {
	if !k.valid() {
		return []byte("null")
	}
	return k.jwk().appendJCS(nil)
}

func (k TEEKey) jwk() object {
	b64 := func(b []byte) text { return text(base64.RawURLEncoding.EncodeToString(b)) }
	if k.rsa != nil {
		return object{
			"kty": text("RSA"), "alg": text(AlgRSAOAEP),
			"n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(exponent).Bytes()),
		}
	}
	x, y := k.coordinates()
	return object{"kty": text("EC"), "alg": text(AlgECDH), "crv": text(curveName(k.ec)), "x": b64(x), "y": b64(y)}
}

// coordinates of a key on a curve, each as long as the field; nil for others.
func (k TEEKey) coordinates() (x, y []byte) {
	if k.ec == nil {
		return nil, nil
	}
	point := k.ec.Bytes()[1:]
	return point[:len(point)/2], point[len(point)/2:]
}

func curveName(pub *ecdh.PublicKey) string {
	for _, c := range curves {
		if c.curve == pub.Curve() {
			return c.name
		}
	}
	return ""
}
