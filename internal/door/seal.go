package door

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
)

// Kinds of guest key. The first is the default: hybrid, so that a recorded grant stays closed to a later quantum
// computer. The second is for guests whose libraries lack it.
const (
	KEMDefault = "MLKEM768X25519"
	KEMX25519  = "X25519"
)

// Modes of a grant.
const (
	Initialise = "initialise" // format, then report the header's hash; write nothing else before it is acknowledged
	Open       = "open"       // open a header that is authentic and whose hash is the recorded one; never format
	Rekey      = "rekey"
)

// Sizes of the two keys that a volume has.
const (
	LUKSKeySize      = 64
	HeaderMACKeySize = 32
)

// Sealed is what a grant carries inside.
type Sealed struct {
	Mode         string
	VolumeSerial string // virtio serial of the data volume: the first 20 characters of its Cinder id
	LUKSKey      Secret
	HeaderMACKey Secret
	HeaderHash   string // hexadecimal; empty in mode initialise
}

// sealedJSON is the one place where secrets have a plain encoding; it exists only inside a box.
type sealedJSON struct {
	Mode         string `json:"mode"`
	VolumeSerial string `json:"volume_serial"`
	LUKSKey      []byte `json:"luks_key"`
	HeaderMACKey []byte `json:"header_mac_key"`
	HeaderHash   string `json:"header_hash"`
}

func (s sealedJSON) check() error {
	switch {
	case s.Mode != Initialise && s.Mode != Open && s.Mode != Rekey:
		return errors.New("mode is unknown")
	case (s.Mode == Initialise) != (s.HeaderHash == ""):
		return errors.New("header_hash belongs to every mode but initialise")
	case !isHashOrEmpty(s.HeaderHash):
		return errors.New("header_hash is not a hexadecimal SHA-256")
	case !isID(s.VolumeSerial):
		return errors.New("volume_serial is missing or malformed")
	case len(s.LUKSKey) != LUKSKeySize || len(s.HeaderMACKey) != HeaderMACKeySize:
		return errors.New("a key has a wrong size")
	}
	return nil
}

func suite(kem string) (hpke.KEM, error) {
	switch kem {
	case KEMDefault:
		return hpke.MLKEM768X25519(), nil
	case KEMX25519:
		return hpke.DHKEM(ecdh.X25519()), nil
	}
	return nil, errors.New("unknown KEM")
}

// publicKeySize is -1 for an unknown KEM, which no key has.
func publicKeySize(kem string) int {
	switch kem {
	case KEMDefault:
		return 1216
	case KEMX25519:
		return 32
	}
	return -1
}

// PrivateKey is the guest's HPKE key of one boot. It never leaves memory.
type PrivateKey struct {
	kem string
	key hpke.PrivateKey
}

// GenerateKey makes a fresh key of one kind.
func GenerateKey(kem string) (*PrivateKey, error) {
	k, err := suite(kem)
	if err != nil {
		return nil, fmt.Errorf("generating an HPKE key: %w", err)
	}
	key, err := k.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("generating an HPKE key: %w", err)
	}
	return &PrivateKey{kem: kem, key: key}, nil
}

// Public is what goes into the report and the request.
func (k *PrivateKey) Public() HPKEKey {
	return HPKEKey{KEM: k.kem, PublicKey: k.key.PublicKey().Bytes()}
}

func (*PrivateKey) String() string   { return redacted }
func (*PrivateKey) GoString() string { return redacted }

// PublicKey is a guest's key that has been checked: not of low order, not off the curve, not outside the lattice.
type PublicKey struct{ key hpke.PublicKey }

// ParseKey checks a guest's key, before anything is spent on a request that carries it.
func ParseKey(k HPKEKey) (PublicKey, error) {
	kem, err := suite(k.KEM)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parsing an HPKE key: %w", err)
	}
	key, err := kem.NewPublicKey(k.PublicKey)
	if err != nil {
		return PublicKey{}, errors.New("parsing an HPKE key: not a valid public key")
	}
	return PublicKey{key: key}, nil
}

// Seal encrypts s to a guest's key under an info that only this grant has. The caller still owns and clears s.
func (p PublicKey) Seal(info []byte, s Sealed) (Box, error) {
	if p.key == nil {
		return Box{}, errors.New("sealing a grant: no key to seal to")
	}
	plain, err := encodeSealed(s)
	if err != nil {
		return Box{}, fmt.Errorf("sealing a grant: %w", err)
	}
	defer clear(plain)
	enc, sender, err := hpke.NewSender(p.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return Box{}, errors.New("sealing a grant: the guest's public key cannot be used")
	}
	ct, err := sender.Seal(nil, plain)
	if err != nil {
		return Box{}, fmt.Errorf("sealing a grant: %w", err)
	}
	return Box{Enc: enc, Ciphertext: ct}, nil
}

// Seal is ParseKey and PublicKey.Seal.
func Seal(to HPKEKey, info []byte, s Sealed) (Box, error) {
	p, err := ParseKey(to)
	if err != nil {
		return Box{}, fmt.Errorf("sealing a grant: %w", err)
	}
	return p.Seal(info, s)
}

// Open is the guest's side. Nothing inside is believed before VerifyGrant has accepted the grant around it.
func (k *PrivateKey) Open(info []byte, b Box) (Sealed, error) {
	r, err := hpke.NewRecipient(b.Enc, k.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return Sealed{}, errors.New("opening a grant: it was not sealed to this key")
	}
	plain, err := r.Open(nil, b.Ciphertext)
	if err != nil {
		return Sealed{}, errors.New("opening a grant: it was not sealed to this key, or for another purpose")
	}
	defer clear(plain)
	s, err := decode[sealedJSON](plain, maxCiphertext, "sealed grant")
	if err != nil {
		return Sealed{}, fmt.Errorf("opening a grant: %w", err)
	}
	return Sealed{Mode: s.Mode, VolumeSerial: s.VolumeSerial, LUKSKey: s.LUKSKey, HeaderMACKey: s.HeaderMACKey, HeaderHash: s.HeaderHash}, nil
}

func encodeSealed(s Sealed) ([]byte, error) {
	j := sealedJSON{Mode: s.Mode, VolumeSerial: s.VolumeSerial, LUKSKey: s.LUKSKey, HeaderMACKey: s.HeaderMACKey, HeaderHash: s.HeaderHash}
	if err := j.check(); err != nil {
		return nil, err
	}
	return json.Marshal(j)
}
