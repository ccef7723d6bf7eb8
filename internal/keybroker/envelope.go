package keybroker

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/eosc-siesta/siestad/internal/door"
)

const (
	dekSize = 64
	kekSize = 32

	labelDEK       = "siesta/dek/v1"
	labelKEK       = "siesta/kek/v1"
	labelLUKS      = "siesta/luks/v1"
	labelHeaderMAC = "siesta/header-mac/v1"

	labelSecret    = "siesta/secret/v1"
	labelSecretKEK = "siesta/secret-kek/v1"

	// A blob says what it is: magic, custody kind, key version. All of it is authenticated.
	blobMagic      = "siestaK1"
	secretMagic    = "siestaS1"
	custodyWrapped = 1
	blobPrefix     = len(blobMagic) + 1 + 4
	sealedExtra    = 12 + 16 // nonce and tag
	blobSize       = blobPrefix + sealedExtra + dekSize
)

// custody tells apart what an envelope can hold: one kind never opens as the other.
type custody struct{ magic, payload, kek string }

var (
	volumeCustody = custody{blobMagic, labelDEK, labelKEK}
	secretCustody = custody{secretMagic, labelSecret, labelSecretKEK}
)

// scope is where a key belongs; it enters every wrapping, so that nothing opens in another place.
type scope struct {
	installation, site, workspace string
	version                       int
}

func (s scope) aad(label string) []byte {
	return door.LP([]byte(label), []byte(s.installation), []byte(s.site), []byte(s.workspace), door.Decimal(s.version))
}

// envelope is one version of a volume's key as it is stored: the blob in the key store, the rest in the database.
type envelope struct {
	epoch    int
	kek      []byte // wrapped under the epoch root
	blob     []byte // the data key, wrapped under the KEK
	blobHash [32]byte
}

// newEnvelope makes a data key and a KEK and forgets both in the clear before it returns.
func newEnvelope(ctx context.Context, ring Keyring, s scope) (envelope, error) {
	dek := make([]byte, dekSize)
	defer clear(dek)
	_, _ = rand.Read(dek)
	return wrap(ctx, ring, volumeCustody, s, dek)
}

// wrap makes a KEK, wraps the payload under it and it under the newest root.
func wrap(ctx context.Context, ring Keyring, c custody, s scope, payload []byte) (envelope, error) {
	epochs, err := ring.Epochs(ctx)
	if err != nil {
		return envelope{}, fmt.Errorf("listing epoch roots: %w", err)
	}
	if len(epochs) == 0 {
		return envelope{}, fmt.Errorf("making a key: the keyring is empty")
	}
	e := envelope{epoch: epochs[len(epochs)-1]}
	kek := make([]byte, kekSize)
	defer clear(kek)
	_, _ = rand.Read(kek)
	if e.kek, err = ring.Wrap(ctx, e.epoch, s.aad(c.kek), kek); err != nil {
		return envelope{}, err
	}
	aead, err := newGCM(kek)
	if err != nil {
		return envelope{}, fmt.Errorf("wrapping the data key: %w", err)
	}
	prefix := make([]byte, 0, blobPrefix+sealedExtra+len(payload))
	prefix = append(prefix, c.magic...)
	prefix = append(prefix, custodyWrapped)
	prefix = binary.BigEndian.AppendUint32(prefix, uint32(s.version))
	e.blob = append(prefix, seal(aead, append(s.aad(c.payload), prefix...), payload)...)
	e.blobHash = sha256.Sum256(e.blob)
	return e, nil
}

// volumeKeys is what a guest gets. Whoever holds it clears it.
type volumeKeys struct {
	luks, headerMAC door.Secret
}

func (k volumeKeys) clear() {
	k.luks.Clear()
	k.headerMAC.Clear()
}

// open unwraps a volume's blob and derives the two keys of the volume.
func (e envelope) open(ctx context.Context, ring Keyring, s scope) (volumeKeys, error) {
	if len(e.blob) != blobSize {
		return volumeKeys{}, fmt.Errorf("opening the data key: blob has %d bytes, want %d", len(e.blob), blobSize)
	}
	dek, err := e.unwrap(ctx, ring, volumeCustody, s)
	if err != nil {
		return volumeKeys{}, err
	}
	defer clear(dek)
	return deriveKeys(dek, s)
}

// unwrap gives the payload, which the caller clears.
func (e envelope) unwrap(ctx context.Context, ring Keyring, c custody, s scope) ([]byte, error) {
	if got := sha256.Sum256(e.blob); got != e.blobHash {
		return nil, fmt.Errorf("opening the data key: the blob is not the recorded one")
	}
	prefix, err := c.prefix(e.blob, s.version)
	if err != nil {
		return nil, fmt.Errorf("opening the data key: %w", err)
	}
	kek, err := ring.Unwrap(ctx, e.epoch, s.aad(c.kek), e.kek)
	if err != nil {
		return nil, fmt.Errorf("opening the KEK: %w", err)
	}
	defer clear(kek)
	aead, err := newGCM(kek)
	if err != nil {
		return nil, fmt.Errorf("opening the data key: %w", err)
	}
	payload, err := unseal(aead, append(s.aad(c.payload), prefix...), e.blob[blobPrefix:])
	if err != nil {
		return nil, fmt.Errorf("opening the data key: %w", err)
	}
	return payload, nil
}

// deriveKeys gives the volume's keys. They do not depend on the key version: wrapping the same data key again must not
// change what opens the disk.
func deriveKeys(dek []byte, s scope) (volumeKeys, error) {
	info := func(label string) string {
		return string(door.LP([]byte(label), []byte(s.installation), []byte(s.workspace)))
	}
	luks, err := hkdf.Key(sha256.New, dek, nil, info(labelLUKS), door.LUKSKeySize)
	if err != nil {
		return volumeKeys{}, fmt.Errorf("deriving the LUKS key: %w", err)
	}
	mac, err := hkdf.Key(sha256.New, dek, nil, info(labelHeaderMAC), door.HeaderMACKeySize)
	if err != nil {
		clear(luks)
		return volumeKeys{}, fmt.Errorf("deriving the header MAC key: %w", err)
	}
	return volumeKeys{luks: luks, headerMAC: mac}, nil
}

// prefix checks the plain part of a blob and returns it, for it is authenticated with the rest.
func (c custody) prefix(blob []byte, version int) ([]byte, error) {
	switch {
	case len(blob) < blobPrefix+sealedExtra:
		return nil, fmt.Errorf("blob has only %d bytes", len(blob))
	case !bytes.HasPrefix(blob, []byte(c.magic)):
		return nil, fmt.Errorf("blob is not one of ours")
	case blob[len(c.magic)] != custodyWrapped:
		return nil, fmt.Errorf("blob has an unknown kind of custody")
	case int64(binary.BigEndian.Uint32(blob[len(c.magic)+1:])) != int64(version):
		return nil, fmt.Errorf("blob is of another key version")
	}
	return blob[:blobPrefix:blobPrefix], nil
}
