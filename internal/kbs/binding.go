package kbs

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
)

// Hash is a digest that the binding of a key may use. The zero value is none.
type Hash string

// The names are the protocol's. sm3 is offered by clients and not taken.
const (
	SHA256 Hash = "sha256"
	// SHA384 is what a client uses when the challenge selects nothing.
	SHA384 Hash = "sha384"
	SHA512 Hash = "sha512"
)

func (h Hash) sum(data []byte) ([]byte, error) {
	switch h {
	case SHA256:
		d := sha256.Sum256(data)
		return d[:], nil
	case SHA384:
		d := sha512.Sum384(data)
		return d[:], nil
	case SHA512:
		d := sha512.Sum512(data)
		return d[:], nil
	}
	return nil, errors.New("a digest that is not known")
}

// Binding is what the report of a guest has to carry as REPORT_DATA: the digest
// of nonce, key and additional evidence in canonical form, zeros behind it. The
// comparison is over all 64 bytes (protocol 0.4.0, "Attestation"; facts hold for
// SNP, report offset 0x50, and for TDX, REPORTDATA of the quote's body, alike).
func Binding(nonce string, key TEEKey, additional string, h Hash) (data [64]byte, err error) {
	return bind(object{"additional-evidence": text(additional), "nonce": text(nonce)}, key, h)
}

// bind adds the key and hashes.
func bind(o object, key TEEKey, h Hash) (data [64]byte, err error) {
	if !key.valid() {
		return data, errors.New("binding a key: there is none")
	}
	o["tee-pubkey"] = key.jwk()
	d, err := h.sum(o.appendJCS(nil))
	if err != nil {
		return data, err
	}
	copy(data[:], d)
	return data, nil
}

// nonceSize is that of the challenges this side makes, before base64.
const nonceSize = 32

// SVSMBinding is REPORT_DATA in the dialect of coconut-svsm: SHA-512 over the
// coordinates of the key, each as long as its field, and the bytes of the nonce.
// Lengths are fixed by the curve and by nonceSize, so the parts cannot shift.
func SVSMBinding(nonce string, key TEEKey) (data [64]byte, err error) {
	raw, err := decode64(base64.StdEncoding, nonce)
	if err != nil || len(raw) != nonceSize {
		return data, errors.New("binding a key: not a nonce of this server")
	}
	x, y := key.coordinates()
	if x == nil {
		return data, errors.New("binding a key: SVSM has keys on curves only")
	}
	h := sha512.New()
	h.Write(x)
	h.Write(y)
	h.Write(raw)
	h.Sum(data[:0])
	return data, nil
}
