package keybroker

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	keyringVersion  = 1
	rootSize        = 32
	maxKeyringBytes = 1 << 20
)

// FileKeyring keeps the roots in one file that only its owner may read. Destroying a root overwrites the old file, but a
// disk may keep copies of its own: an installation that must prove destruction uses the PKCS#11 keyring.
type FileKeyring struct {
	path  string
	mu    sync.RWMutex
	roots map[int][]byte
	aeads map[int]cipher.AEAD
	next  int
}

type keyringFile struct {
	Version int           `json:"version"`
	Next    int           `json:"next_epoch"` // never reused, so that a destroyed epoch stays destroyed
	Roots   []keyringRoot `json:"roots"`
}

type keyringRoot struct {
	Epoch int    `json:"epoch"`
	Key   []byte `json:"key"`
}

// CreateFileKeyring makes a keyring file with a first root. It refuses to touch an existing file.
func CreateFileKeyring(path string) (*FileKeyring, error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("creating keyring %s: it exists already", path)
	}
	k := &FileKeyring{path: path, roots: map[int][]byte{}, aeads: map[int]cipher.AEAD{}, next: 1}
	if _, err := k.rotate(); err != nil {
		return nil, fmt.Errorf("creating keyring: %w", err)
	}
	return k, nil
}

// OpenFileKeyring reads a keyring file. It never makes one: starting with a new empty keyring beside an old database
// would look healthy and open nothing.
func OpenFileKeyring(path string) (*FileKeyring, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("opening keyring %s: not a regular file", path)
	case info.Mode().Perm()&^0o600 != 0:
		return nil, fmt.Errorf("opening keyring %s: mode is %#o, want 0600: chmod 600 it", path, info.Mode().Perm())
	case !ok || int(owner.Uid) != os.Geteuid():
		return nil, fmt.Errorf("opening keyring %s: it belongs to another user", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyringBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading keyring: %w", err)
	}
	defer clear(data)
	var file keyringFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if len(data) > maxKeyringBytes || d.Decode(&file) != nil || file.Version != keyringVersion {
		return nil, fmt.Errorf("reading keyring %s: not a keyring file of version %d", path, keyringVersion)
	}
	k := &FileKeyring{path: path, roots: map[int][]byte{}, aeads: map[int]cipher.AEAD{}, next: file.Next}
	for _, r := range file.Roots {
		if r.Epoch < 1 || r.Epoch >= file.Next || len(r.Key) != rootSize || k.roots[r.Epoch] != nil {
			return nil, fmt.Errorf("reading keyring %s: the root of epoch %d is malformed", path, r.Epoch)
		}
		aead, err := newGCM(r.Key)
		if err != nil {
			return nil, fmt.Errorf("reading keyring: %w", err)
		}
		k.roots[r.Epoch], k.aeads[r.Epoch] = r.Key, aead
	}
	if len(k.roots) == 0 {
		return nil, fmt.Errorf("reading keyring %s: no root in it", path)
	}
	return k, nil
}

func (k *FileKeyring) String() string   { return "file keyring " + k.path }
func (k *FileKeyring) GoString() string { return k.String() }

func (k *FileKeyring) aead(epoch int) (cipher.AEAD, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if a := k.aeads[epoch]; a != nil {
		return a, nil
	}
	return nil, noEpoch(epoch)
}

// Wrap implements Keyring.
func (k *FileKeyring) Wrap(_ context.Context, epoch int, aad, plaintext []byte) ([]byte, error) {
	a, err := k.aead(epoch)
	if err != nil {
		return nil, fmt.Errorf("wrapping a key: %w", err)
	}
	return seal(a, aad, plaintext), nil
}

// Unwrap implements Keyring.
func (k *FileKeyring) Unwrap(_ context.Context, epoch int, aad, wrapped []byte) ([]byte, error) {
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
func (k *FileKeyring) Epochs(context.Context) ([]int, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.epochs(), nil
}

func (k *FileKeyring) epochs() []int {
	list := make([]int, 0, len(k.roots))
	for e := range k.roots {
		list = append(list, e)
	}
	slices.Sort(list)
	return list
}

// Rotate implements Keyring. The new root is on disk before anything can be wrapped under it.
func (k *FileKeyring) Rotate(context.Context) (int, error) { return k.rotate() }

func (k *FileKeyring) rotate() (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := make([]byte, rootSize)
	_, _ = rand.Read(key)
	aead, err := newGCM(key)
	if err != nil {
		return 0, fmt.Errorf("making a root: %w", err)
	}
	epoch := k.next
	k.roots[epoch], k.next = key, epoch+1
	if err := k.write(); err != nil {
		delete(k.roots, epoch)
		k.next = epoch
		return 0, fmt.Errorf("making the root of epoch %d: %w", epoch, err)
	}
	k.aeads[epoch] = aead
	return epoch, nil
}

// Destroy implements Keyring.
func (k *FileKeyring) Destroy(_ context.Context, epoch int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.roots[epoch]
	if !ok {
		return nil
	}
	if list := k.epochs(); epoch == list[len(list)-1] {
		return fmt.Errorf("destroying the root of epoch %d: it is the newest, rotate first", epoch)
	}
	old, err := os.OpenFile(k.path, os.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("destroying the root of epoch %d: %w", epoch, err)
	}
	defer old.Close()
	delete(k.roots, epoch)
	if err := k.write(); err != nil {
		k.roots[epoch] = key
		return fmt.Errorf("destroying the root of epoch %d: %w", epoch, err)
	}
	delete(k.aeads, epoch)
	clear(key)
	// The new file is in place; the old one has no name any more. A crash here leaves its blocks unwritten, no more.
	info, err := old.Stat()
	if err == nil {
		_, err = old.WriteAt(make([]byte, info.Size()), 0)
	}
	if err == nil {
		err = old.Sync()
	}
	if err != nil {
		return fmt.Errorf("overwriting the old keyring file: %w", err)
	}
	return nil
}

// write replaces the file: after a crash either the old or the new content is there, whole.
func (k *FileKeyring) write() error {
	file := keyringFile{Version: keyringVersion, Next: k.next}
	for _, e := range k.epochs() {
		file.Roots = append(file.Roots, keyringRoot{Epoch: e, Key: k.roots[e]})
	}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding keyring: %w", err)
	}
	defer clear(data)
	dir := filepath.Dir(k.path)
	tmp, err := os.CreateTemp(dir, ".keyring-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("writing keyring: %w", err)
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), k.path)
	}
	if err != nil {
		return fmt.Errorf("writing keyring: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("writing keyring: %w", err)
	}
	defer d.Close()
	if err := unix.Fsync(int(d.Fd())); err != nil {
		return fmt.Errorf("writing keyring: %w", err)
	}
	return nil
}
