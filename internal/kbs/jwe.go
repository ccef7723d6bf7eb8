package kbs

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// maxSecret bounds what is sealed into one answer.
const maxSecret = 1 << 20

// Seal encrypts a secret to a guest's key and writes it as the flattened JWE
// (RFC 7516, section 7.2.2) that the protocol wants.
//
// The client does not authenticate the header's bytes as received: it parses the
// header and writes it again, alg, enc, then the rest, in the order received or
// sorted, whichever way its JSON library was built. Only the order alg, enc,
// epk{crv,kty,x,y}, without a space and without any other member, survives both.
// General JOSE libraries write another, hence this function. "aad" stays out:
// clients fail on it, even on null.
func Seal(key TEEKey, plaintext []byte) ([]byte, error) {
	if len(plaintext) > maxSecret {
		return nil, errors.New("sealing a secret: longer than its limit")
	}
	cek := make([]byte, 32)
	defer clear(cek)
	_, _ = rand.Read(cek) // never fails: the process would end

	var header, wrapped []byte
	var err error
	switch {
	case key.ec != nil:
		header, wrapped, err = toCurve(key.ec, cek)
	case key.rsa != nil:
		header = object{"alg": text(AlgRSAOAEP), "enc": text("A256GCM")}.appendJCS(nil)
		wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, key.rsa, cek, nil)
	default:
		err = errors.New("there is no key")
	}
	if err != nil {
		return nil, fmt.Errorf("sealing a secret: %w", err)
	}

	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, fmt.Errorf("sealing a secret: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("sealing a secret: %w", err)
	}
	// The key is new for every message, so a random nonce cannot repeat under it.
	iv := make([]byte, gcm.NonceSize())
	_, _ = rand.Read(iv)
	protected := base64.RawURLEncoding.EncodeToString(header)
	sealed := gcm.Seal(nil, iv, plaintext, []byte(protected))
	cut := len(sealed) - gcm.Overhead()

	out := appendText([]byte(`{"protected":`), protected)
	for _, part := range []struct {
		name  string
		bytes []byte
	}{{"encrypted_key", wrapped}, {"iv", iv}, {"ciphertext", sealed[:cut]}, {"tag", sealed[cut:]}} {
		out = append(appendText(append(out, ','), part.name), ':')
		out = appendText(out, base64.RawURLEncoding.EncodeToString(part.bytes))
	}
	return append(out, '}'), nil
}

// toCurve wraps the content key by ECDH-ES+A256KW (RFC 7518, section 4.6) with a
// new ephemeral key.
func toCurve(guest *ecdh.PublicKey, cek []byte) (header, wrapped []byte, err error) {
	ephemeral, err := guest.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	z, err := ephemeral.ECDH(guest)
	if err != nil {
		return nil, nil, err
	}
	defer clear(z)
	kek := concatKDF(z)
	defer clear(kek)
	if wrapped, err = wrapKey(kek, cek); err != nil {
		return nil, nil, err
	}
	x, y := TEEKey{ec: ephemeral.PublicKey()}.coordinates()
	b64 := func(b []byte) text { return text(base64.RawURLEncoding.EncodeToString(b)) }
	// The canonical order of names is the safe one.
	header = object{
		"alg": text(AlgECDH),
		"enc": text("A256GCM"),
		"epk": object{"crv": text(curveName(guest)), "kty": text("EC"), "x": b64(x), "y": b64(y)},
	}.appendJCS(nil)
	return header, wrapped, nil
}

// concatKDF derives the wrapping key (RFC 7518, section 4.6.2; NIST SP 800-56A,
// section 5.8.1), one round of SHA-256 with empty apu and apv.
func concatKDF(z []byte) []byte {
	h := sha256.New()
	field := func(s string) {
		_ = binary.Write(h, binary.BigEndian, uint32(len(s)))
		h.Write([]byte(s))
	}
	_ = binary.Write(h, binary.BigEndian, uint32(1))
	h.Write(z)
	field(AlgECDH)
	field("")
	field("")
	_ = binary.Write(h, binary.BigEndian, uint32(256))
	return h.Sum(nil)
}
