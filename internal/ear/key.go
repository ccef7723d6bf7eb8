package ear

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/go-jose/go-jose/v4"
)

const redacted = "[redacted]"

// Key signs tokens: P-256, for ES256. The zero value is no key.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey makes a key.
func NewKey() (Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("making a token key: %w", err)
	}
	return Key{private: k}, nil
}

// ParseKey reads what Key.PKCS8 wrote. Its error says nothing of the bytes.
func ParseKey(der []byte) (Key, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Key{}, errors.New("reading a token key: not PKCS #8")
	}
	k, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return Key{}, errors.New("reading a token key: not a key on P-256")
	}
	// One key has one text; the library lets bytes behind it pass.
	if again, err := x509.MarshalPKCS8PrivateKey(k); err != nil || !bytes.Equal(again, der) {
		return Key{}, errors.New("reading a token key: not as this package writes it")
	}
	return Key{private: k}, nil
}

// PKCS8 gives the private key for storage. Whoever asks wraps and clears it.
func (k Key) PKCS8() ([]byte, error) {
	if k.private == nil {
		return nil, errors.New("writing a token key: there is none")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, errors.New("writing a token key: it cannot be encoded")
	}
	return der, nil
}

// Public gives the half that may be known; the zero value for no key.
func (k Key) Public() PublicKey {
	if k.private == nil {
		return PublicKey{}
	}
	return PublicKey{public: &k.private.PublicKey}
}

func (Key) String() string { return redacted }

// GoString covers %#v, which ignores String.
func (Key) GoString() string { return redacted }

// Format covers the verbs that would walk the struct.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText keeps the key out of JSON, YAML and text encoders.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText refuses, so that a redacted key never comes back as one.
func (*Key) UnmarshalText([]byte) error {
	return errors.New("reading a token key: text carries none")
}

// LogValue covers log/slog.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// PublicKey verifies tokens. The zero value verifies none.
type PublicKey struct{ public *ecdsa.PublicKey }

// ParsePublicKey reads what PublicKey.JSON wrote.
func ParsePublicKey(jwk []byte) (PublicKey, error) {
	var j jose.JSONWebKey
	if len(jwk) > 1024 || json.Unmarshal(jwk, &j) != nil {
		return PublicKey{}, errors.New("reading a public token key: not a JWK")
	}
	k, ok := j.Key.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return PublicKey{}, errors.New("reading a public token key: not a public key on P-256")
	}
	return PublicKey{public: k}, nil
}

// ID is the key's thumbprint (RFC 7638), the kid of its tokens; empty for no key.
func (k PublicKey) ID() string {
	if k.public == nil {
		return ""
	}
	// The only errors are of kinds of keys that this type cannot hold.
	sum, err := (&jose.JSONWebKey{Key: k.public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// JSON is the key as a JWK; null for no key.
func (k PublicKey) JSON() []byte {
	if k.public == nil {
		return []byte("null")
	}
	out, err := json.Marshal(k.jwk())
	if err != nil {
		return []byte("null")
	}
	return out
}

func (k PublicKey) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.public, KeyID: k.ID(), Algorithm: string(jose.ES256), Use: "sig"}
}
