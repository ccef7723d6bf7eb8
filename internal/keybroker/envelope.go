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

	// A blob says what it is: magic, custody kind, key version. All of it is authenticated.
	blobMagic      = "siestaK1"
	custodyWrapped = 1
	blobPrefix     = len(blobMagic) + 1 + 4
	blobSize       = blobPrefix + 12 + dekSize + 16
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
	epochs, err := ring.Epochs(ctx)
	if err != nil {
		return envelope{}, fmt.Errorf("listing epoch roots: %w", err)
	}
	if len(epochs) == 0 {
		return envelope{}, fmt.Errorf("making a key: the keyring is empty")
	}
	e := envelope{epoch: epochs[len(epochs)-1]}
	dek, kek := make([]byte, dekSize), make([]byte, kekSize)
	defer clear(dek)
	defer clear(kek)
	_, _ = rand.Read(dek)
	_, _ = rand.Read(kek)
	if e.kek, err = ring.Wrap(ctx, e.epoch, s.aad(labelKEK), kek); err != nil {
		return envelope{}, err
	}
	aead, err := newGCM(kek)
	if err != nil {
		return envelope{}, fmt.Errorf("wrapping the data key: %w", err)
	}
	prefix := make([]byte, 0, blobSize)
	prefix = append(prefix, blobMagic...)
	prefix = append(prefix, custodyWrapped)
	prefix = binary.BigEndian.AppendUint32(prefix, uint32(s.version))
	e.blob = append(prefix, seal(aead, append(s.aad(labelDEK), prefix...), dek)...)
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

// open unwraps a blob and derives the two keys of the volume.
func (e envelope) open(ctx context.Context, ring Keyring, s scope) (volumeKeys, error) {
	if got := sha256.Sum256(e.blob); got != e.blobHash {
		return volumeKeys{}, fmt.Errorf("opening the data key: the blob is not the recorded one")
	}
	prefix, err := parseBlob(e.blob, s.version)
	if err != nil {
		return volumeKeys{}, fmt.Errorf("opening the data key: %w", err)
	}
	kek, err := ring.Unwrap(ctx, e.epoch, s.aad(labelKEK), e.kek)
	if err != nil {
		return volumeKeys{}, fmt.Errorf("opening the workspace's KEK: %w", err)
	}
	defer clear(kek)
	aead, err := newGCM(kek)
	if err != nil {
		return volumeKeys{}, fmt.Errorf("opening the data key: %w", err)
	}
	dek, err := unseal(aead, append(s.aad(labelDEK), prefix...), e.blob[blobPrefix:])
	if err != nil {
		return volumeKeys{}, fmt.Errorf("opening the data key: %w", err)
	}
	defer clear(dek)
	return deriveKeys(dek, s)
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

// parseBlob checks the plain part of a blob and returns it, for it is authenticated with the rest.
func parseBlob(blob []byte, version int) (prefix []byte, err error) {
	switch {
	case len(blob) != blobSize:
		return nil, fmt.Errorf("blob has %d bytes, want %d", len(blob), blobSize)
	case !bytes.HasPrefix(blob, []byte(blobMagic)):
		return nil, fmt.Errorf("blob is not one of ours")
	case blob[len(blobMagic)] != custodyWrapped:
		return nil, fmt.Errorf("blob has an unknown kind of custody")
	case int64(binary.BigEndian.Uint32(blob[len(blobMagic)+1:])) != int64(version):
		return nil, fmt.Errorf("blob is of another key version")
	}
	return blob[:blobPrefix:blobPrefix], nil
}
