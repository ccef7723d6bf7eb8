package corim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// COSE algorithms (RFC 9053). Each is taken with the one curve that it was made for.
const (
	algES256 = -7
	algEdDSA = -8
	algES384 = -35
)

// PublicKey is a key under which documents are verified. The zero value verifies none.
type PublicKey struct {
	alg int64
	key any // *ecdsa.PublicKey or ed25519.PublicKey
	id  [32]byte
}

// ParsePublicKey reads one PEM public key: P-256, P-384 or Ed25519.
func ParsePublicKey(text []byte) (PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return PublicKey{}, errors.New("reading a public key: it is not one PEM block PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading a public key: %w", err)
	}
	return newPublicKey(key)
}

func newPublicKey(key any) (PublicKey, error) {
	alg := algorithm(key)
	if alg == 0 {
		return PublicKey{}, errors.New("reading a key: it is neither P-256, P-384 nor Ed25519")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading a key: %w", err)
	}
	return PublicKey{alg: alg, key: key, id: sha256.Sum256(der)}, nil
}

func algorithm(key any) int64 {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return algEdDSA
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return algES256
		case elliptic.P384():
			return algES384
		}
	}
	return 0
}

// ID names the key: the SHA-256, in hex, of its DER form (SubjectPublicKeyInfo).
func (k PublicKey) ID() string {
	if k.key == nil {
		return ""
	}
	return hex.EncodeToString(k.id[:])
}

func (k PublicKey) verify(message, signature []byte) bool {
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		size := (key.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(key, k.digest(message), r, s)
	}
	return false
}

func (k PublicKey) digest(message []byte) []byte {
	hash := crypto.SHA256
	if k.alg == algES384 {
		hash = crypto.SHA384
	}
	h := hash.New()
	h.Write(message)
	return h.Sum(nil)
}

// PrivateKey signs documents. The zero value signs none.
type PrivateKey struct {
	key    any // *ecdsa.PrivateKey or ed25519.PrivateKey
	public PublicKey
}

// ParsePrivateKey reads a PKCS#8 key: P-256, P-384 or Ed25519.
func ParsePrivateKey(der []byte) (PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return PrivateKey{}, errors.New("reading a key: it is not a PKCS#8 key")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return PrivateKey{}, errors.New("reading a key: it does not sign")
	}
	public, err := newPublicKey(signer.Public())
	if err != nil {
		return PrivateKey{}, err
	}
	return PrivateKey{key: key, public: public}, nil
}

// Public is the half for everyone.
func (k PrivateKey) Public() PublicKey { return k.public }

func (PrivateKey) String() string   { return "[redacted]" }
func (PrivateKey) GoString() string { return "[redacted]" }

func (k PrivateKey) sign(message []byte) ([]byte, error) {
	switch key := k.key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(key, message), nil
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, k.public.digest(message))
		if err != nil {
			return nil, err
		}
		size := (key.Curve.Params().BitSize + 7) / 8
		out := make([]byte, 2*size)
		r.FillBytes(out[:size])
		s.FillBytes(out[size:])
		return out, nil
	}
	return nil, errors.New("there is no key")
}
