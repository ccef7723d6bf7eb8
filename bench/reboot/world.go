//go:build devtee

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/collateral"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/vendors"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// world is a broker with its database and log, a vendor, and guests on chips.
type world struct {
	db         *pgxpool.Pool
	audit      *audit.Recorder
	broker     *keybroker.Broker
	roots      *attest.Roots
	vendor     *vendors.Service
	address    string
	known      atomic.Pointer[collateral.Service]
	stop       func()
	guests     []*guest
	registered int // the first of the guests are on registered chips
	peers      atomic.Uint64
	closers    []func()
}

type guest struct {
	workspace string
	psp       *softpsp.PSP
	hpke      *door.PrivateKey
	signing   ed25519.PublicKey
	request   door.ChallengeRequest
}

var measurement = [48]byte(bytes.Repeat([]byte{0x42}, 48))

func (w *world) close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
}

// background runs fn until the returned function is called.
func background(ctx context.Context, fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = fn(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func newWorld(ctx context.Context, dir string, guests, chips int) (w *world, err error) {
	w = &world{stop: func() {}, registered: guests, vendor: &vendors.Service{Now: time.Now}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	dsn, drop, err := pgtest.Database(ctx, true)
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, func() { _ = drop() })
	if w.db, err = postgres.Open(ctx, dsn); err != nil {
		return nil, err
	}
	w.closers = append(w.closers, w.db.Close)
	log, err := audit.New(ctx, audit.Config{DB: w.db, Origin: "bench.example/log", Signer: ed25519.NewKeyFromSeed(make([]byte, 32)), Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	w.audit = log.Recorder
	w.closers = append(w.closers, background(ctx, log.Run))
	machines, err := w.machines(2 * chips)
	if err != nil {
		return nil, err
	}
	server := httptest.NewServer(w.vendor)
	w.closers = append(w.closers, server.Close)
	w.address = server.URL
	w.closers = append(w.closers, func() { w.stop() })
	if err := w.restart(ctx); err != nil {
		return nil, err
	}
	if err := w.register(ctx, machines[:chips]); err != nil {
		return nil, err
	}
	ring, err := keybroker.CreateFileKeyring(filepath.Join(dir, "keyring"))
	if err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	w.broker, err = keybroker.New(keybroker.Config{
		DB: w.db, Log: log, Facts: permit.New(w.db, log.Recorder), Stores: &memoryStore{payloads: map[string][]byte{}}, Keyring: ring,
		Verifier: &attest.Verifier{}, Key: key, Installation: "benchins", Logger: zap.NewNop(), Lease: time.Hour, InitialiseLease: time.Hour,
		Collateral: w.collateral,
	})
	if err != nil {
		return nil, err
	}
	if err := w.seed(ctx); err != nil {
		return nil, err
	}
	for i := range guests + chips {
		psp := machines[i%chips]
		if i >= guests {
			psp = machines[chips+i-guests]
		}
		if err := w.addGuest(ctx, i, psp); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// collateral is what the daemon hands to the broker: a refusal is left to the verdict.
func (w *world) collateral(ctx context.Context, q keybroker.CollateralQuery) (attest.Collateral, error) {
	col, _, err := w.known.Load().For(ctx, q.Project, q.Evidence)
	var missing *attest.Refusal
	if errors.As(err, &missing) {
		return col, nil
	}
	return col, err
}

// machines makes chips under one root. The vendor knows the first half of them.
func (w *world) machines(count int) ([]*softpsp.PSP, error) {
	first, err := softpsp.New(softpsp.Config{Now: time.Now()})
	if err != nil {
		return nil, err
	}
	if w.roots, err = attest.AMDRoots().WithSimulated(softpsp.Line, first.Roots()); err != nil {
		return nil, err
	}
	list, err := first.RevocationList(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
	if err != nil {
		return nil, err
	}
	w.vendor.PutCRL(softpsp.Line, list)
	all := []*softpsp.PSP{first}
	for len(all) < count {
		other, err := first.Sibling()
		if err != nil {
			return nil, err
		}
		all = append(all, other)
	}
	for _, m := range all[:count/2] {
		w.vendor.PutChip(m)
	}
	return all, nil
}

// restart replaces the service by one with nothing in memory but what it loads.
func (w *world) restart(ctx context.Context) error {
	s, err := collateral.New(collateral.Config{
		DB: w.db, Audit: w.audit, Roots: w.roots, Logger: zap.NewNop(), Vendor: &collateral.HTTPVendor{KDS: w.address, Now: time.Now}, Budget: 1000,
	})
	if err != nil {
		return err
	}
	w.stop()
	w.stop = func() {}
	if _, err := w.db.Exec(ctx, `UPDATE collateral_lease SET lease_until = '-infinity'`); err != nil {
		return err
	}
	if err := s.Load(ctx); err != nil {
		return err
	}
	w.known.Store(s)
	w.stop = background(ctx, s.Run)
	return nil
}

// register waits until everything of the chips is at hand.
func (w *world) register(ctx context.Context, machines []*softpsp.PSP) error {
	for _, m := range machines {
		id := m.ChipID()
		if err := w.known.Load().Register(ctx, collateral.Chip(m.ProductLine(), id[:], m.TCB())...); err != nil {
			return err
		}
	}
	for range 60 {
		items, err := w.known.Load().List(ctx)
		if err != nil {
			return err
		}
		if len(items) == len(machines)+2 {
			return w.restart(ctx)
		}
		time.Sleep(time.Second)
	}
	return fmt.Errorf("the registered chips' collateral did not come")
}

func (w *world) seed(ctx context.Context) error {
	blob := sha256.Sum256([]byte("file"))
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO project (id, name, state, valid_until, members) VALUES ('study', 'Study', 'active', now() + interval '1 year', '{alice}')`)
	batch.Queue(`INSERT INTO dataset (id, title, version, custodian) VALUES ('cohort', 'Cohort', '1', 'carol')`)
	batch.Queue(`INSERT INTO permit (id, project, dataset, people, state, until, granted_by) VALUES ('p', 'study', 'cohort', '{alice}', 'live', now() + interval '1 year', 'carol')`)
	batch.Queue(`INSERT INTO blob (sha256, sha512, size) VALUES ($1, $2, 4)`, blob[:], make([]byte, 64))
	batch.Queue(`INSERT INTO image (id, name, state, kernel, initrd, firmware, created_by, registered_by, approved_by) VALUES ('img', 'guest', 'approved', $1, $1, $1, 'op', 'op', 'carol')`, blob[:])
	return w.db.SendBatch(ctx, batch).Close()
}

func (w *world) addGuest(ctx context.Context, i int, psp *softpsp.PSP) error {
	g := &guest{workspace: fmt.Sprintf("01jbench%018d", i), psp: psp}
	g.request = door.ChallengeRequest{Workspace: g.workspace, Generation: 1, Purpose: door.Unlock}
	var err error
	if g.hpke, err = door.GenerateKey(door.KEMDefault); err != nil {
		return err
	}
	if g.signing, _, err = ed25519.GenerateKey(nil); err != nil {
		return err
	}
	if _, err := w.broker.Prepare(ctx, keybroker.Volume{Workspace: g.workspace, Project: "study", Site: "site", SecretName: "key-" + g.workspace}); err != nil {
		return err
	}
	policy := attest.NovaPolicy(map[string]attest.TCB{softpsp.Line: psp.TCB()})
	chip, own := psp.ChipID(), measurement
	copy(own[:], g.workspace)
	policy.Chips, policy.Measurements, policy.Simulated = [][]byte{chip[:]}, [][]byte{own[:]}, true
	policy.Revocation = attest.RevocationRequired
	w.guests = append(w.guests, g)
	return postgres.InTx(ctx, w.db, func(tx pgx.Tx) error {
		return w.broker.Arm(ctx, tx, keybroker.Arm{
			Workspace: g.workspace, Project: "study", Dataset: "cohort", Owner: "alice", Image: "img", Site: "site",
			Generation: 1, VolumeID: "volume-" + g.workspace, VolumeSerial: "volume-serial", Policy: policy,
		})
	})
}

// memoryStore stands for Barbican, which no release calls.
type memoryStore struct {
	mu       sync.Mutex
	payloads map[string][]byte
}

func (m *memoryStore) Store(string) (keybroker.KeyStore, error) { return m, nil }

func (m *memoryStore) EnsureSecret(_ context.Context, name string) (string, error) { return name, nil }

func (m *memoryStore) PutPayload(_ context.Context, id string, blob []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.payloads[id] = blob
	return nil
}

func (m *memoryStore) GetPayload(_ context.Context, id string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.payloads[id]; b != nil {
		return b, nil
	}
	return nil, keybroker.ErrNoPayload
}

func (m *memoryStore) DeleteSecret(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.payloads, id)
	return nil
}
