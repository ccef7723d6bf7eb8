//go:build devtee

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// world is a broker with its database, its log, and guests that wait to be released.
type world struct {
	db      *pgxpool.Pool
	broker  *keybroker.Broker
	psp     *softpsp.PSP
	guests  []*guest
	address string
	closers []func()

	wrongLaunch bool // makes the next reports those of another launch
	peers       atomic.Uint64
}

type guest struct {
	workspace string
	hpke      *door.PrivateKey
	signing   ed25519.PublicKey
	reportID  [32]byte
	challenge door.Challenge
	request   door.ChallengeRequest
}

var measurement = [48]byte(bytes.Repeat([]byte{0x42}, 48))

func (w *world) close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
}

func newWorld(ctx context.Context, dir string, guests int) (w *world, err error) {
	w = &world{}
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
	running, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = log.Run(running)
	}()
	w.closers = append(w.closers, func() {
		cancel()
		<-done
	})
	if w.psp, err = softpsp.New(softpsp.Config{Now: time.Now()}); err != nil {
		return nil, err
	}
	roots, err := attest.AMDRoots().WithSimulated(softpsp.Line, w.psp.Roots())
	if err != nil {
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
		DB: w.db, Log: log, Facts: permit.New(w.db, log.Recorder), Stores: &memoryStore{payloads: map[string][]byte{}},
		Keyring: ring, Verifier: &attest.Verifier{}, Key: key, Installation: "benchins", Logger: zap.NewNop(), Lease: time.Hour, InitialiseLease: time.Hour,
		Collateral: func(context.Context, keybroker.CollateralQuery) (attest.Collateral, error) {
			return attest.Collateral{Roots: roots}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	if err := w.seed(ctx); err != nil {
		return nil, err
	}
	for i := range guests {
		g, err := w.addGuest(ctx, i)
		if err != nil {
			return nil, err
		}
		w.guests = append(w.guests, g)
	}
	return w, w.listen(ctx)
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

func (w *world) addGuest(ctx context.Context, i int) (*guest, error) {
	g := &guest{workspace: fmt.Sprintf("01jbench%018d", i)}
	g.request = door.ChallengeRequest{Workspace: g.workspace, Generation: 1, Purpose: door.Unlock}
	var err error
	if g.hpke, err = door.GenerateKey(door.KEMDefault); err != nil {
		return nil, err
	}
	if g.signing, _, err = ed25519.GenerateKey(nil); err != nil {
		return nil, err
	}
	if _, err := w.broker.Prepare(ctx, keybroker.Volume{Workspace: g.workspace, Project: "study", Site: "site", SecretName: "key-" + g.workspace}); err != nil {
		return nil, err
	}
	policy := attest.NovaPolicy(map[string]attest.TCB{softpsp.Line: w.psp.TCB()})
	chip := w.psp.ChipID()
	own := measurement // each workspace has a digest of its own, and so a policy of its own
	copy(own[:], g.workspace)
	policy.Chips, policy.Measurements, policy.Simulated = [][]byte{chip[:]}, [][]byte{own[:]}, true
	return g, postgres.InTx(ctx, w.db, func(tx pgx.Tx) error {
		return w.broker.Arm(ctx, tx, keybroker.Arm{
			Workspace: g.workspace, Project: "study", Dataset: "cohort", Owner: "alice", Image: "img", Site: "site",
			Generation: 1, VolumeID: "volume-" + g.workspace, VolumeSerial: "volume-serial", Policy: policy,
		})
	})
}

func (w *world) listen(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	digest := sha512.Sum384([]byte("calibration"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /calibrate", func(rw http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		answer(rw, map[string]bool{"ok": ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature)}, nil)
	})
	mux.HandleFunc("POST /v1/grants", func(rw http.ResponseWriter, req *http.Request) {
		body, err := door.ReadBody(http.MaxBytesReader(rw, req.Body, door.MaxGrantRequest), req.ContentLength)
		if err != nil {
			answer(rw, nil, err)
			return
		}
		m, err := door.DecodeGrantRequest(body)
		if err != nil {
			answer(rw, nil, err)
			return
		}
		// Every request comes from an address of its own: what is measured is the work, not the limit on a peer's refusals.
		g, err := w.broker.Grant(req.Context(), m, strconv.FormatUint(w.peers.Add(1), 10))
		answer(rw, g, err)
	})
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	w.address = l.Addr().String()
	w.closers = append(w.closers, func() { _ = server.Close() })
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status, v = http.StatusForbidden, map[string]string{"error": err.Error()}
	}
	body, err := json.Marshal(v)
	if err != nil {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (w *world) calibrate(ctx context.Context, dir string, connections, count int) (sample, error) {
	requests := make([][]byte, count)
	for i := range requests {
		requests[i] = request("/calibrate", []byte("{}"))
	}
	path := filepath.Join(dir, "calibrations")
	if err := writeRequests(path, requests); err != nil {
		return sample{}, err
	}
	return w.burst(ctx, path, filepath.Join(dir, "answers"), connections, count, http.StatusOK)
}

// prepareBodies puts every guest before its release: armed, with a challenge and a report over it. None of this is measured.
func (w *world) prepareBodies(ctx context.Context) ([]door.GrantRequest, error) {
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE broker_lease SET state = 'ended', ended_why = 'bench', until = now(), sealed_enc = NULL, sealed_text = NULL WHERE until > now()`)
	batch.Queue(`UPDATE broker_arm SET state = 'armed', epoch = epoch + 1, report_id = NULL`)
	if err := w.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	bodies := make([]door.GrantRequest, len(w.guests))
	for i, g := range w.guests {
		var err error
		if g.challenge, err = w.broker.Challenge(ctx, g.request, "bench"); err != nil {
			return nil, err
		}
		_, _ = rand.Read(g.reportID[:])
		pub := g.hpke.Public()
		own := measurement
		copy(own[:], g.workspace)
		if w.wrongLaunch {
			own[47] ^= 1
		}
		report, err := w.psp.Sign(softpsp.Report{Measurement: own, ReportID: g.reportID, ReportData: door.ReportData(door.Binding{
			Challenge: g.challenge.Challenge,
			Nonce:     g.challenge.Nonce, Workspace: g.workspace, Generation: 1, Purpose: door.Unlock, KEM: pub.KEM, HPKEKey: pub.PublicKey, SigningKey: g.signing,
		})})
		if err != nil {
			return nil, err
		}
		bodies[i] = door.GrantRequest{
			Challenge: g.challenge.Challenge, HPKE: pub, SigningKey: g.signing,
			Evidence: door.Evidence{TEE: string(attest.SEVSNP), Report: report, Certificates: w.psp.Certificates()},
		}
	}
	return bodies, nil
}

func (w *world) prepareRequests(ctx context.Context, dir string) error {
	bodies, err := w.prepareBodies(ctx)
	if err != nil {
		return err
	}
	requests := make([][]byte, len(bodies))
	for i := range bodies {
		body, err := json.Marshal(bodies[i])
		if err != nil {
			return err
		}
		requests[i] = request("/v1/grants", body)
	}
	return writeRequests(filepath.Join(dir, "requests"), requests)
}

func (w *world) release(ctx context.Context, dir string, connections int) (sample, error) {
	if err := w.prepareRequests(ctx, dir); err != nil {
		return sample{}, err
	}
	answers := filepath.Join(dir, "answers")
	s, err := w.burst(ctx, filepath.Join(dir, "requests"), answers, connections, len(w.guests), http.StatusOK)
	if err != nil {
		return sample{}, err
	}
	list, err := readAnswers(answers)
	if err != nil {
		return sample{}, err
	}
	for i, g := range w.guests {
		grant, err := door.DecodeGrant(list[i])
		if err != nil {
			return sample{}, err
		}
		if err := door.VerifyGrant(g.challenge.BrokerKey, g.challenge.Challenge, g.challenge.Nonce, grant); err != nil {
			return sample{}, err
		}
		if grant.Receipt == "" {
			return sample{}, fmt.Errorf("grant %d has no receipt", i)
		}
		if _, err := g.hpke.Open(door.GrantInfo(grant.Context, g.request, g.challenge.Nonce), grant.Sealed); err != nil {
			return sample{}, err
		}
	}
	return s, nil
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
