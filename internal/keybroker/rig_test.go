package keybroker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

const (
	testWorkspace = "01jabcdefghjkmnpqrstvwxyz0"
	testProject   = "study"
	testDataset   = "cohort-v1"
	testOwner     = "https://issuer|alice"
	testImage     = "01jimage"
	testSite      = "ifca"
)

// machine makes the reports of one boot. The plain one is for the broker's own rules; with tag devtee the soft PSP
// makes real ones.
type machine interface {
	report(data [64]byte) (report, certificates []byte)
}

// platform is what boots machines, and what a broker needs to judge them.
type platform interface {
	boot(t testing.TB) machine
	policy() attest.Policy
	collateral() attest.Collateral
	verifier() Verifier
}

type rig struct {
	t        testing.TB
	db       *pgxpool.Pool
	ring     *FileKeyring
	store    *memoryStore
	broker   *Broker
	platform platform
	log      *audit.Log
	logged   *observer.ObservedLogs
	clock    *clock
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newRig(t testing.TB) *rig { return newRigOn(t, plainPlatform{}) }

func newRigOn(t testing.TB, p platform) *rig {
	t.Helper()
	r := &rig{t: t, db: pgtest.New(t), store: newMemoryStore(), platform: p, clock: &clock{at: time.Now()}}
	core, logged := observer.New(zap.DebugLevel)
	r.logged = logged
	var err error
	if r.ring, err = CreateFileKeyring(filepath.Join(t.TempDir(), "keyring")); err != nil {
		t.Fatal(err)
	}
	r.log, err = audit.New(t.Context(), audit.Config{DB: r.db, Origin: "test.example/log", Signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32)), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.log.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	r.broker = r.start(zap.New(core))
	r.seed()
	return r
}

// start makes a broker as a process would: with nothing in memory.
func (r *rig) start(logger *zap.Logger) *Broker {
	b, err := New(Config{
		DB: r.db, Log: r.log, Facts: permit.New(r.db, r.log.Recorder), Stores: r.store, Keyring: r.ring, Verifier: r.platform.verifier(),
		Collateral: func(context.Context, CollateralQuery) (attest.Collateral, error) { return r.platform.collateral(), nil },
		Key:        ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), Installation: "testinst", Logger: logger, Now: r.clock.now,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(context.Background(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	if err := r.db.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (r *rig) tx(fn func(tx pgx.Tx) error) error {
	return postgres.InTx(context.Background(), r.db, fn)
}

func (r *rig) seed() {
	r.exec(`INSERT INTO project (id, name, state, valid_until, members) VALUES ($1, 'Study', 'active', now() + interval '1 year', ARRAY[$2])`, testProject, testOwner)
	r.exec(`INSERT INTO dataset (id, title, version, custodian) VALUES ($1, 'Cohort', '1', 'https://issuer|carol')`, testDataset)
	r.exec(`INSERT INTO permit (id, project, dataset, people, state, until, granted_by) VALUES ('permit-1', $1, $2, ARRAY[$3], 'live', now() + interval '1 year', 'https://issuer|carol')`,
		testProject, testDataset, testOwner)
	blob := sha256.Sum256([]byte("file"))
	r.exec(`INSERT INTO blob (sha256, sha512, size) VALUES ($1, $2, 4)`, blob[:], make([]byte, 64))
	r.exec(`INSERT INTO image (id, name, state, kernel, initrd, firmware, created_by, registered_by, approved_by) VALUES ($1, 'guest', 'approved', $2, $2, $2, 'op', 'op', 'carol')`,
		testImage, blob[:])
}

func volumeOf(workspace string) Volume {
	return Volume{Workspace: workspace, Project: testProject, Site: testSite, SecretName: "siesta-v1-testinst-" + workspace + "-key-g1"}
}

func (r *rig) armOf(workspace string, generation int) Arm {
	return Arm{
		Workspace: workspace, Project: testProject, Dataset: testDataset, Owner: testOwner, Image: testImage, Site: testSite, Generation: generation,
		VolumeID: "vol-" + workspace, VolumeSerial: "vol-01jabcdefghjkmnp", Policy: r.platform.policy(),
	}
}

func (r *rig) prepareAndArm(workspace string) {
	r.t.Helper()
	if _, err := r.broker.Prepare(context.Background(), volumeOf(workspace)); err != nil {
		r.t.Fatal(err)
	}
	r.arm(workspace, 1)
}

func (r *rig) arm(workspace string, generation int) {
	r.t.Helper()
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.Arm(context.Background(), tx, r.armOf(workspace, generation)) }); err != nil {
		r.t.Fatal(err)
	}
}

// guest is one boot of a workspace, with the keys that it made.
type guest struct {
	r       *rig
	machine machine
	hpke    *door.PrivateKey
	sign    ed25519.PrivateKey
	ws      string
	gen     int
}

func (r *rig) boot(workspace string, generation int) *guest {
	r.t.Helper()
	k, err := door.GenerateKey(door.KEMX25519)
	if err != nil {
		r.t.Fatal(err)
	}
	_, s, err := ed25519.GenerateKey(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return &guest{r: r, machine: r.platform.boot(r.t), hpke: k, sign: s, ws: workspace, gen: generation}
}

func (g *guest) challengeFor(p door.Purpose) (door.Challenge, door.ChallengeRequest, error) {
	req := door.ChallengeRequest{Workspace: g.ws, Generation: g.gen, Purpose: p}
	c, err := g.r.broker.Challenge(context.Background(), req, "192.0.2.1")
	if err == nil {
		if err := door.VerifyChallenge(door.KeyHash(g.r.broker.Key.Public().(ed25519.PublicKey)), req, c); err != nil {
			g.r.t.Fatal(err)
		}
	}
	return c, req, err
}

func (g *guest) request(c door.Challenge, req door.ChallengeRequest, header string) door.GrantRequest {
	s := g.sign.Public().(ed25519.PublicKey)
	pub := g.hpke.Public()
	report, certificates := g.machine.report(door.ReportData(door.Binding{
		Challenge: c.Challenge, Nonce: c.Nonce, Workspace: req.Workspace, Generation: req.Generation,
		Purpose: req.Purpose, KEM: pub.KEM, HPKEKey: pub.PublicKey, SigningKey: s, HeaderHash: header,
	}))
	return door.GrantRequest{
		Challenge: c.Challenge, Evidence: door.Evidence{TEE: string(g.r.tee()), Report: report, Certificates: certificates, EventLog: eventLog(g.machine)},
		HPKE: pub, SigningKey: s, HeaderHash: header,
	}
}

// eventLog is that of a machine which has one; it belongs to the machine's last report.
func eventLog(m machine) []byte {
	if m, ok := m.(interface{ eventLog() []byte }); ok {
		return m.eventLog()
	}
	return nil
}

// tee is the kind of hardware that the platform stands for.
func (r *rig) tee() attest.TEE {
	if r.platform.policy().TDX != nil {
		return attest.TDX
	}
	return attest.SEVSNP
}

func (g *guest) grant(p door.Purpose) (door.Grant, door.Sealed, error) {
	g.r.t.Helper()
	c, req, err := g.challengeFor(p)
	if err != nil {
		return door.Grant{}, door.Sealed{}, err
	}
	answer, err := g.r.broker.Grant(context.Background(), g.request(c, req, ""), "192.0.2.1")
	if err != nil {
		return door.Grant{}, door.Sealed{}, err
	}
	return answer, g.open(c, req, answer), nil
}

func (g *guest) open(c door.Challenge, req door.ChallengeRequest, answer door.Grant) door.Sealed {
	g.r.t.Helper()
	if err := door.VerifyGrant(c.BrokerKey, c.Challenge, c.Nonce, answer); err != nil {
		g.r.t.Fatal(err)
	}
	if !strings.Contains(answer.Receipt, "tlog-proof") {
		g.r.t.Fatalf("the receipt is no proof: %q", answer.Receipt)
	}
	if req.Purpose == door.Renew {
		return door.Sealed{}
	}
	s, err := g.hpke.Open(door.GrantInfo(answer.Context, req, c.Nonce), answer.Sealed)
	if err != nil {
		g.r.t.Fatal(err)
	}
	return s
}

func (g *guest) event(lease string, seq int, stage door.Stage, header string) (door.EventAnswer, error) {
	e := door.Event{Seq: seq, Stage: stage, HeaderHash: header}
	door.SignEvent(g.sign, lease, &e)
	a, err := g.r.broker.Event(context.Background(), lease, e, "192.0.2.1")
	if err == nil && stage == door.Formatted {
		if err := door.VerifyAck(g.r.broker.Key.Public().(ed25519.PublicKey), lease, e, a); err != nil {
			g.r.t.Fatal(err)
		}
	}
	return a, err
}

var testHeader = strings.Repeat("ab", 32)

// ready takes a workspace to a formatted, unlocked disk.
func (r *rig) ready(workspace string) (*guest, door.Grant, door.Sealed) {
	r.t.Helper()
	r.prepareAndArm(workspace)
	g := r.boot(workspace, 1)
	answer, sealed, err := g.grant(door.Unlock)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, stage := range []door.Stage{door.Formatted, door.Unlocked, door.Ready} {
		header := ""
		if stage == door.Formatted {
			header = testHeader
		}
		if _, err := g.event(answer.Lease.ID, i+1, stage, header); err != nil {
			r.t.Fatal(err)
		}
	}
	return g, answer, sealed
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	_ = refusalOf(t, err, code)
}

func refusalOf(t testing.TB, err error, code string) *Refusal {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal with code %s", err, code)
	}
	if r.Code != code {
		t.Fatalf("refused with code %s (%s), want %s", r.Code, r.Detail, code)
	}
	return r
}

// plainPlatform makes reports that are the bare fields, unsigned. It stands for the verifier where a test is about what
// the broker does with a verdict.
type plainPlatform struct{}

type plainMachine struct{ id, measurement [32]byte }

var machines struct {
	sync.Mutex
	n byte
}

func (plainPlatform) boot(testing.TB) machine {
	machines.Lock()
	defer machines.Unlock()
	machines.n++
	return &plainMachine{id: sha256.Sum256([]byte{machines.n})}
}

func (m *plainMachine) report(data [64]byte) ([]byte, []byte) {
	return append(append(bytes.Clone(data[:]), m.id[:]...), m.measurement[:]...), []byte("certificate")
}

func (plainPlatform) policy() attest.Policy {
	return attest.Policy{Products: []string{attest.Genoa}, Chips: [][]byte{make([]byte, 64)}, Measurements: [][]byte{make([]byte, 48)}}
}
func (plainPlatform) collateral() attest.Collateral { return attest.Collateral{} }
func (plainPlatform) verifier() Verifier            { return plainPlatform{} }

func (plainPlatform) Verify(ev attest.Evidence, _ attest.Collateral, pol attest.Policy, _ time.Time) (*attest.Result, error) {
	refuse := func(code string) (*attest.Result, error) {
		checks := []attest.Check{{Name: code, Status: attest.Failed, Code: code, Source: "policy"}}
		return nil, &attest.Refusal{Code: code, Check: code, Checks: checks}
	}
	if len(ev.Report) != 128 {
		return refuse(attest.CodeFormat)
	}
	if [32]byte(ev.Report[96:]) != [32]byte{} {
		return refuse(attest.CodeMeasurement)
	}
	if [64]byte(ev.Report) != pol.ReportData {
		return refuse(attest.CodeReportData)
	}
	return &attest.Result{TEE: ev.TEE, ReportID: [32]byte(ev.Report[64:]), ReportData: pol.ReportData}, nil
}

// memoryStore is a key store that refuses what Barbican refuses, and that can fail after it has done what was asked.
type memoryStore struct {
	mu       sync.Mutex
	names    map[string]string // name to id
	payloads map[string][]byte // by id; nil is none yet
	calls    int
	// fault is asked before and after each call; an error is returned instead of the result.
	fault func(call int, verb string, applied bool) error
}

func newMemoryStore() *memoryStore {
	return &memoryStore{names: map[string]string{}, payloads: map[string][]byte{}}
}

func (m *memoryStore) Store(string) (KeyStore, error) { return m, nil }

func (m *memoryStore) do(verb string, apply func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.fault != nil {
		if err := m.fault(m.calls, verb, false); err != nil {
			return err
		}
	}
	if err := apply(); err != nil {
		return err
	}
	if m.fault != nil {
		return m.fault(m.calls, verb, true)
	}
	return nil
}

func (m *memoryStore) EnsureSecret(_ context.Context, name string) (id string, err error) {
	err = m.do("ensure", func() error {
		if name == "" {
			return errors.New("a secret needs a name")
		}
		if m.names[name] == "" {
			m.names[name] = "id-" + name
			m.payloads["id-"+name] = nil
		}
		id = m.names[name]
		return nil
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

func (m *memoryStore) PutPayload(_ context.Context, id string, blob []byte) error {
	return m.do("put", func() error {
		old, ok := m.payloads[id]
		switch {
		case !ok:
			return errors.New("404")
		case old != nil:
			return ErrHasPayload
		}
		m.payloads[id] = bytes.Clone(blob)
		return nil
	})
}

func (m *memoryStore) GetPayload(_ context.Context, id string) (blob []byte, err error) {
	err = m.do("get", func() error {
		if m.payloads[id] == nil {
			return ErrNoPayload
		}
		blob = bytes.Clone(m.payloads[id])
		return nil
	})
	return blob, err
}

func (m *memoryStore) DeleteSecret(_ context.Context, id string) error {
	return m.do("delete", func() error {
		delete(m.payloads, id)
		for name, other := range m.names {
			if other == id {
				delete(m.names, name)
			}
		}
		return nil
	})
}

func (m *memoryStore) payload(id string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.payloads[id]
}
