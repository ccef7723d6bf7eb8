package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	maxCheckpoint = 8 << 10
	algEd25519    = 1 // signed-note signature type
)

// Verifier checks the signatures of one log. Its zero value refuses everything.
type Verifier struct {
	origin string
	note   note.Verifier
}

// VerifierKey returns the public key of a log in the signed-note form,
// name+hash+key, as NewVerifier reads it.
func VerifierKey(origin string, key ed25519.PublicKey) string {
	encoded := append([]byte{algEd25519}, key...)
	return fmt.Sprintf("%s+%08x+%s", origin, keyHash(origin, key), base64.StdEncoding.EncodeToString(encoded))
}

func keyHash(origin string, key ed25519.PublicKey) uint32 {
	sum := sha256.New()
	sum.Write([]byte(origin + "\n"))
	sum.Write([]byte{algEd25519})
	sum.Write(key)
	return binary.BigEndian.Uint32(sum.Sum(nil))
}

// NewVerifier reads a public key in the signed-note form. The key's name is
// the origin of the log's checkpoints.
func NewVerifier(key string) (Verifier, error) {
	if len(key) > 1024 {
		return Verifier{}, errors.New("reading log key: too long")
	}
	v, err := note.NewVerifier(strings.TrimSpace(key))
	if err != nil {
		return Verifier{}, fmt.Errorf("reading log key: %w", err)
	}
	return Verifier{v.Name(), v}, nil
}

// Origin returns the name of the log.
func (v Verifier) Origin() string { return v.origin }

// Checkpoint is a verified, signed head of the log.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
	Text   []byte // the signed note it came from
}

// Checkpoint verifies the signature of a checkpoint and that it is this log's.
func (v Verifier) Checkpoint(text []byte) (Checkpoint, error) {
	if v.note == nil {
		return Checkpoint{}, errors.New("verifying checkpoint: no key")
	}
	if len(text) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("verifying checkpoint: more than %d bytes", maxCheckpoint)
	}
	opened, err := note.Open(text, note.VerifierList(v.note))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("verifying checkpoint: %w", err)
	}
	c, err := parseHead(opened.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.origin {
		return Checkpoint{}, fmt.Errorf("verifying checkpoint: it is of log %q, not %q", c.Origin, v.origin)
	}
	c.Text = bytes.Clone(text)
	return c, nil
}

// parseHead reads the signed part: origin, size, root, then lines of extensions.
func parseHead(text string) (Checkpoint, error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 || lines[0] == "" {
		return Checkpoint{}, errors.New("reading checkpoint: not origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, errors.New("reading checkpoint: size is not a number")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, errors.New("reading checkpoint: root is not a hash")
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}, nil
}

// signer signs heads for one origin.
type signer struct {
	origin string
	note   note.Signer
}

func newSigner(origin string, key ed25519.PrivateKey) (signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return signer{}, errors.New("the log's signing key is missing or not an Ed25519 key")
	}
	if origin == "" || len(origin) > 200 || strings.Contains(origin, "+") || strings.ContainsFunc(origin, unicode.IsSpace) {
		return signer{}, errors.New("the log's origin must have 1 to 200 characters, no spaces and no plus sign")
	}
	public := key.Public().(ed25519.PublicKey)
	return signer{origin, &noteSigner{origin, keyHash(origin, public), key}}, nil
}

// noteSigner holds the key itself, so that it never passes through text.
type noteSigner struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
}

func (s *noteSigner) Name() string                    { return s.name }
func (s *noteSigner) KeyHash() uint32                 { return s.hash }
func (s *noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

func (s signer) sign(tree tlog.Tree) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", s.origin, tree.N, tree.Hash)
	signed, err := note.Sign(&note.Note{Text: text}, s.note)
	if err != nil {
		return nil, fmt.Errorf("signing head of size %d: %w", tree.N, err)
	}
	return signed, nil
}
