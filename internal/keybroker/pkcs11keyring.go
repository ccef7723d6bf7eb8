//go:build pkcs11

package keybroker

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/ThalesGroup/crypto11"
)

// PKCS11Keyring keeps the roots inside a token: AES-256 keys that are made there, never leave it, and can be proved
// destroyed. A root's CKA_ID is its epoch, four bytes big-endian; its label names the installation.
type PKCS11Keyring struct {
	token *crypto11.Context
	label string
	mu    sync.Mutex
	roots map[int]*crypto11.SecretKey
}

// PKCS11Config says where the token is. The PIN is in a file, never on a command line.
type PKCS11Config struct {
	Module       string // path of the PKCS#11 library
	Token        string // label of the token
	PINFile      string
	Installation string
}

// OpenPKCS11Keyring opens a token that has a root for this installation. Like OpenFileKeyring it makes none.
func OpenPKCS11Keyring(c PKCS11Config) (*PKCS11Keyring, error) {
	k, err := openToken(c)
	if err != nil {
		return nil, err
	}
	if len(k.roots) == 0 {
		return nil, fmt.Errorf("opening token %s: no root of installation %s in it", c.Token, c.Installation)
	}
	return k, nil
}

// CreatePKCS11Keyring makes the first root of an installation in a token. It refuses if there is one.
func CreatePKCS11Keyring(c PKCS11Config) (*PKCS11Keyring, error) {
	k, err := openToken(c)
	if err != nil {
		return nil, err
	}
	if len(k.roots) > 0 {
		return nil, fmt.Errorf("creating a keyring in token %s: installation %s has a root there already", c.Token, c.Installation)
	}
	if _, err := k.rotate(); err != nil {
		return nil, err
	}
	return k, nil
}

func openToken(c PKCS11Config) (*PKCS11Keyring, error) {
	pin, err := os.ReadFile(c.PINFile)
	if err != nil {
		return nil, fmt.Errorf("reading the token's PIN: %w", err)
	}
	defer clear(pin)
	token, err := crypto11.Configure(&crypto11.Config{Path: c.Module, TokenLabel: c.Token, Pin: strings.TrimSpace(string(pin))})
	if err != nil {
		return nil, fmt.Errorf("opening token %s: %w", c.Token, err)
	}
	k := &PKCS11Keyring{token: token, label: "siesta-root-" + c.Installation, roots: map[int]*crypto11.SecretKey{}}
	keys, err := token.FindKeys(nil, []byte(k.label))
	if err != nil {
		return nil, fmt.Errorf("listing the roots of token %s: %w", c.Token, err)
	}
	for _, key := range keys {
		id, err := token.GetAttribute(key, crypto11.CkaId)
		if err != nil || len(id.Value) != 4 {
			return nil, fmt.Errorf("reading the epoch of a root in token %s: %w", c.Token, err)
		}
		epoch := int(binary.BigEndian.Uint32(id.Value))
		if k.roots[epoch] != nil {
			return nil, fmt.Errorf("token %s has two roots of epoch %d", c.Token, epoch)
		}
		k.roots[epoch] = key
	}
	return k, nil
}

// Close gives the token's sessions back.
func (k *PKCS11Keyring) Close() error { return k.token.Close() }

func (k *PKCS11Keyring) aead(epoch int) (cipher.AEAD, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := k.roots[epoch]
	if key == nil {
		return nil, noEpoch(epoch)
	}
	return key.NewGCM()
}

// Wrap implements Keyring.
func (k *PKCS11Keyring) Wrap(_ context.Context, epoch int, aad, plaintext []byte) (wrapped []byte, err error) {
	a, err := k.aead(epoch)
	if err != nil {
		return nil, fmt.Errorf("wrapping a key: %w", err)
	}
	defer func() {
		// crypto11 panics when the token fails to encrypt, because cipher.AEAD has no error there.
		if p := recover(); p != nil {
			wrapped, err = nil, fmt.Errorf("wrapping a key: the token failed: %v", p)
		}
	}()
	return seal(a, aad, plaintext), nil
}

// Unwrap implements Keyring.
func (k *PKCS11Keyring) Unwrap(_ context.Context, epoch int, aad, wrapped []byte) ([]byte, error) {
	a, err := k.aead(epoch)
	if err != nil {
		return nil, fmt.Errorf("unwrapping a key: %w", err)
	}
	plain, err := unseal(a, aad, wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrapping a key: %w", err)
	}
	return plain, nil
}

// Epochs implements Keyring.
func (k *PKCS11Keyring) Epochs(context.Context) ([]int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.epochs(), nil
}

func (k *PKCS11Keyring) epochs() []int {
	list := make([]int, 0, len(k.roots))
	for e := range k.roots {
		list = append(list, e)
	}
	slices.Sort(list)
	return list
}

// Rotate implements Keyring. The newest root is never destroyed, so one above it was never used.
func (k *PKCS11Keyring) Rotate(context.Context) (int, error) { return k.rotate() }

func (k *PKCS11Keyring) rotate() (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	epoch := 1
	if list := k.epochs(); len(list) > 0 {
		epoch = list[len(list)-1] + 1
	}
	id := binary.BigEndian.AppendUint32(nil, uint32(epoch))
	key, err := k.token.GenerateSecretKeyWithLabel(id, []byte(k.label), 8*rootSize, crypto11.CipherAES)
	if err != nil {
		return 0, fmt.Errorf("making the root of epoch %d: %w", epoch, err)
	}
	k.roots[epoch] = key
	return epoch, nil
}

// Destroy implements Keyring.
func (k *PKCS11Keyring) Destroy(_ context.Context, epoch int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := k.roots[epoch]
	if key == nil {
		return nil
	}
	if list := k.epochs(); epoch == list[len(list)-1] {
		return fmt.Errorf("destroying the root of epoch %d: it is the newest, rotate first", epoch)
	}
	if err := key.Delete(); err != nil {
		return fmt.Errorf("destroying the root of epoch %d: %w", epoch, err)
	}
	delete(k.roots, epoch)
	return nil
}
