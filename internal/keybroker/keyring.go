package keybroker

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// Keyring holds the epoch roots under which the key-encryption keys of workspaces are wrapped. A root is one AES-256
// key. New keys go under the newest root; older ones stay until they are destroyed, and whatever was wrapped under a
// destroyed root is gone from every backup.
type Keyring interface {
	// Wrap encrypts under the root of an epoch that Epochs lists.
	Wrap(ctx context.Context, epoch int, aad, plaintext []byte) ([]byte, error)
	// Unwrap is its inverse; it fails if epoch, aad or a single bit differs. The caller clears the result.
	Unwrap(ctx context.Context, epoch int, aad, wrapped []byte) ([]byte, error)
	// Epochs lists the living epochs, ascending; the last is the one for new keys.
	Epochs(ctx context.Context) ([]int, error)
	// Rotate makes the next root, durably, and returns its epoch.
	Rotate(ctx context.Context) (int, error)
	// Destroy removes a root for good; an absent one is success, the newest is refused.
	Destroy(ctx context.Context, epoch int) error
}

// errUnwrap tells nothing about why: a wrong root, a moved blob and a flipped bit look alike.
var errUnwrap = errors.New("not wrapped under this key for this purpose")

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal is nonce, then ciphertext and tag. A key here wraps a handful of values in its life, far from where random
// 96-bit nonces begin to collide.
func seal(aead cipher.AEAD, aad, plaintext []byte) []byte {
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plaintext)+aead.Overhead())
	_, _ = rand.Read(nonce) // never fails: the runtime ends the process instead
	return aead.Seal(nonce, nonce, plaintext, aad)
}

func unseal(aead cipher.AEAD, aad, wrapped []byte) ([]byte, error) {
	if len(wrapped) < aead.NonceSize()+aead.Overhead() {
		return nil, errUnwrap
	}
	plain, err := aead.Open(nil, wrapped[:aead.NonceSize()], wrapped[aead.NonceSize():], aad)
	if err != nil {
		return nil, errUnwrap
	}
	return plain, nil
}

func noEpoch(epoch int) error { return fmt.Errorf("no root of epoch %d in the keyring", epoch) }
