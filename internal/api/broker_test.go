package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/ear"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// setup is what a test may choose of the real broker.
type setup struct {
	verifier   keybroker.Verifier
	collateral attest.Collateral
	now        func() time.Time // nil: a testClock's
	noTokens   bool
	endorsers  []corim.PublicKey
	publisher  Publisher
}

// newBroker is a real broker, on the test's database and a key store in memory.
func newBroker(t testing.TB, db *pgxpool.Pool, log *audit.Log, s setup) (*keybroker.Broker, *keyStore) {
	t.Helper()
	ring, err := keybroker.CreateFileKeyring(filepath.Join(t.TempDir(), "keyring"))
	must(t, err)
	key, err := ear.NewKey()
	must(t, err)
	if s.now == nil {
		s.now = (&testClock{}).now
	}
	if s.verifier == nil {
		s.verifier = &attest.Verifier{}
	}
	tokens, err := ear.NewSigner(ear.Config{Issuer: "https://siesta.test", Audience: "siesta", Build: "test", Current: key, Now: s.now})
	must(t, err)
	if s.noTokens {
		tokens = nil
	}
	store := &keyStore{payloads: map[string][]byte{}}
	b, err := keybroker.New(keybroker.Config{
		DB: db, Log: log, Facts: permit.New(db, log.Recorder), Stores: store, Keyring: ring, Verifier: s.verifier, Tokens: tokens,
		Collateral: func(context.Context, keybroker.CollateralQuery) (attest.Collateral, error) { return s.collateral, nil },
		Key:        ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), Installation: "testinst", Logger: zap.NewNop(), Now: s.now,
	})
	must(t, err)
	return b, store
}

// keyStore keeps payloads by name.
type keyStore struct {
	mu       sync.Mutex
	payloads map[string][]byte // nil: made and not written
	fail     error
	calls    int
}

func (k *keyStore) Store(string) (keybroker.KeyStore, error) { return k, nil }

func (k *keyStore) do(fn func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.fail != nil {
		return k.fail
	}
	return fn()
}

func (k *keyStore) EnsureSecret(_ context.Context, name string) (string, error) {
	return name, k.do(func() error {
		if _, ok := k.payloads[name]; !ok {
			k.payloads[name] = nil
		}
		return nil
	})
}

func (k *keyStore) PutPayload(_ context.Context, id string, blob []byte) error {
	return k.do(func() error {
		if k.payloads[id] != nil {
			return keybroker.ErrHasPayload
		}
		k.payloads[id] = bytes.Clone(blob)
		return nil
	})
}

func (k *keyStore) GetPayload(_ context.Context, id string) (blob []byte, err error) {
	err = k.do(func() error {
		if k.payloads[id] == nil {
			return keybroker.ErrNoPayload
		}
		blob = bytes.Clone(k.payloads[id])
		return nil
	})
	return blob, err
}

func (k *keyStore) DeleteSecret(_ context.Context, id string) error {
	return k.do(func() error {
		delete(k.payloads, id)
		return nil
	})
}
