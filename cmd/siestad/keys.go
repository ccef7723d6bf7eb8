package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// initKeys makes the broker's key, the log's key and a keyring in dir. It never touches a file that exists: a second
// broker key would lock out every guest.
func initKeys(dir, origin string, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making keys: %w", err)
	}
	broker, err := writeKey(filepath.Join(dir, "broker.pem"))
	if err != nil {
		return err
	}
	log, err := writeKey(filepath.Join(dir, "log.pem"))
	if err != nil {
		return err
	}
	if _, err := keybroker.CreateFileKeyring(filepath.Join(dir, "keyring")); err != nil {
		return err
	}
	verifier := audit.VerifierKey(origin, log)
	if err := os.WriteFile(filepath.Join(dir, "log.pub"), []byte(verifier+"\n"), 0o644); err != nil { //nolint:gosec // the public key is for everyone
		return fmt.Errorf("making keys: %w", err)
	}
	fmt.Fprintf(out, "broker key hash (siesta.kb): %s\nlog verifier key (give it to your auditors): %s\n", door.KeyHash(broker), verifier)
	return nil
}

func writeKey(path string) (ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", path, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("making key %s: %w", path, err)
	}
	return public, nil
}

func readKey(path string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("reading key %s: it is not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading key %s: it is not a PKCS#8 key", path)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading key %s: it is not an Ed25519 key", path)
	}
	return key, nil
}
