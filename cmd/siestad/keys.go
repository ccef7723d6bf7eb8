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
	"runtime/debug"
	"time"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/ear"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// initKeys makes the broker's key, the log's key, the key of tokens and a keyring in dir. It never touches a file that exists: a second
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
	if err := writeTokenKey(filepath.Join(dir, "tokens.pem")); err != nil {
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
	return public, writePEM(path, der)
}

// writeTokenKey makes a key that signs attestation results, in a file that was not there.
func writeTokenKey(path string) error {
	key, err := ear.NewKey()
	if err != nil {
		return fmt.Errorf("making key %s: %w", path, err)
	}
	der, err := key.PKCS8()
	if err != nil {
		return fmt.Errorf("making key %s: %w", path, err)
	}
	return writePEM(path, der)
}

func writePEM(path string, der []byte) error {
	defer clear(der)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making key: %w", err)
	}
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("making key %s: %w", path, err)
	}
	return nil
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("reading key %s: it is not PEM", path)
	}
	return block.Bytes, nil
}

// tokenSigner is nil where the configuration names no tokens.
func tokenSigner(c TokensConfig) (*ear.Signer, error) {
	if c == (TokensConfig{}) {
		return nil, nil //nolint:nilnil // no tokens is an answer, which the broker knows
	}
	var keys [3]ear.Key
	for i, path := range []string{c.KeyFile, c.NextKeyFile, c.PreviousKeyFile} {
		if path == "" {
			continue
		}
		der, err := readPEM(path)
		if err != nil {
			return nil, err
		}
		if keys[i], err = ear.ParseKey(der); err != nil {
			return nil, fmt.Errorf("reading key %s: %w", path, err)
		}
	}
	audience := c.Audience
	if audience == "" {
		audience = "siesta"
	}
	return ear.NewSigner(ear.Config{
		Issuer: c.Issuer, Audience: audience, Build: buildName(), Current: keys[0], Next: keys[1], Previous: keys[2].Public(), Now: time.Now,
	})
}

// buildName names this program in tokens: its version as the module system knows it.
func buildName() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "siestad " + info.Main.Version
	}
	return "siestad"
}

func readKey(path string) (ed25519.PrivateKey, error) {
	der, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading key %s: it is not a PKCS#8 key", path)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading key %s: it is not an Ed25519 key", path)
	}
	return key, nil
}
