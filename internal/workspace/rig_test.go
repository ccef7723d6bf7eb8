package workspace

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
	"github.com/eosc-siesta/siestad/internal/openstack"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

const installation = "test0001"

var (
	researcher = audit.Actor{Kind: audit.Person, Subject: "https://issuer.test|anna"}
	custodian  = audit.Actor{Kind: audit.Person, Subject: "https://issuer.test|carla"}
	operator   = audit.Actor{Kind: audit.Person, Subject: "https://issuer.test|otto"}
)

// rig is a whole control plane on real Postgres, a simulated cloud and guests that speak the native door in this process.
type rig struct {
	t       *testing.T
	db      *pgxpool.Pool
	cloud   *cloudsim.Cloud
	client  *openstack.Client
	keys    *openstack.Client
	network string
	broker  *keybroker.Broker
	brokerB ed25519.PublicKey
	permits *permit.Service
	images  *image.Service
	image   image.Image
	fw      []byte
	svc     *Service
	runner  *flow.Runner
	audit   *audit.Recorder
	guests  atomic.Int64 // how many were started

	tee       TEE
	reference func(attest.TDLaunch) (attest.TDReference, error)

	mu       sync.Mutex
	behave   func(stage door.Stage) error // consulted by guests before each report
	policy   attest.Policy
	machines []*machine
}

func newRig(t *testing.T) *rig { return newRigOn(t, SimulatedTEE) }

func newRigOn(t *testing.T, tee TEE) *rig {
	t.Helper()
	r := &rig{t: t, db: pgtest.New(t), tee: tee, reference: imitated}
	t.Cleanup(func() {
		var silent int
		err := r.db.QueryRow(context.Background(), `SELECT (SELECT count(*) FROM flow_event WHERE problem IS NOT NULL AND coalesce(problem->>'fix', '') = '')
			+ (SELECT count(*) FROM workspace WHERE jsonb_typeof(reason) = 'object' AND coalesce(reason->>'fix', '') = '')`).Scan(&silent)
		if err != nil || silent > 0 {
			t.Errorf("%d problems tell no next step (%v)", silent, err)
		}
	})
	ctx := flowtest.Context(t)
	r.startCloud()
	r.startBroker()
	r.seed(ctx)
	chip := sha256.Sum256([]byte("chip"))
	r.policy = attest.NovaPolicy(map[string]attest.TCB{attest.Milan: {SNP: 1}})
	r.policy.Chips, r.policy.Simulated = [][]byte{append(chip[:], chip[:]...)}, true
	if tee.OnTDX() {
		r.policy = domainPolicy(tee)
	}
	return r
}

func (r *rig) startCloud() {
	t := r.t
	dir := t.TempDir()
	cfg := cloudsim.Config{Dir: dir, Boot: r.boot, StopTimeout: 2 * time.Second}
	if model := r.tee.model(); model != "" {
		cfg.Flavors = []cloudsim.Flavor{{ID: "1", Name: "siesta.small", VCPUs: 1, RAMMiB: 512, ExtraSpecs: map[string]string{"hw:mem_encryption": "true", "hw:mem_encryption_model": model}}}
	}
	cloud, err := cloudsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(cloud)
	t.Cleanup(func() { srv.Close(); cloud.Close() })
	project, keys := cloud.AddProject("siesta"), cloud.AddProject("siesta-keys")
	r.cloud, r.network = cloud, cloud.AddNetwork(project, "siesta")
	clouds := filepath.Join(dir, "clouds.yaml")
	raw := cloudsim.CloudsYAML(srv.URL, map[string]*cloudsim.Credential{
		"prov": cloud.AddCredential(project, "prov", "member", "reader"),
		"keys": cloud.AddCredential(keys, "broker", "member", "creator"),
	})
	if err := os.WriteFile(clouds, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	client := func(entry string) *openstack.Client {
		c, err := openstack.New(openstack.Config{
			Site: "sim", Installation: installation, CloudsFile: clouds, CloudsEntry: entry,
			AllowedHosts: []string{strings.TrimPrefix(srv.URL, "http://")}, Timeout: 10 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	r.client, r.keys = client("prov"), client("keys")
}

func (r *rig) startBroker() {
	t := r.t
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.New(t.Context(), audit.Config{DB: r.db, Origin: "workspace.test/log", Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = log.Run(ctx) // ends with the test
	}()
	t.Cleanup(func() { stop(); <-done })
	keyring, err := keybroker.CreateFileKeyring(filepath.Join(t.TempDir(), "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.permits, r.images = permit.New(r.db, log.Recorder), image.New(r.db, log.Recorder)
	r.audit, r.brokerB = log.Recorder, public
	r.broker, err = keybroker.New(keybroker.Config{
		DB: r.db, Log: log, Facts: r.permits, Keyring: keyring, Key: private, Installation: installation,
		Stores: KeyStores([]Site{{Name: "sim", Keys: r.keys}}), Verifier: verifier{}, Logger: zap.NewNop(),
		Collateral: func(context.Context, keybroker.CollateralQuery) (attest.Collateral, error) {
			return attest.Collateral{}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// seed makes a project, a dataset, a permit and an approved image.
func (r *rig) seed(ctx context.Context) {
	t := r.t
	var err error
	if r.fw, err = os.ReadFile("../attest/testdata/digest/ovmf_AmdSev_suffix.bin"); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(24 * time.Hour)
	r.tx(ctx, func(tx pgx.Tx) error {
		if _, _, err := r.permits.CreateProject(ctx, tx, operator, permit.Project{ID: "cohort", Name: "Cohort", ValidUntil: until, Members: []string{researcher.Subject}}); err != nil {
			return err
		}
		if _, _, err := r.permits.CreateDataset(ctx, tx, custodian, permit.Dataset{ID: "scans", Title: "Scans", Version: "1", Custodian: custodian.Subject}); err != nil {
			return err
		}
		_, _, err := r.permits.Grant(ctx, tx, custodian, permit.Permit{Project: "cohort", Dataset: "scans", People: []string{researcher.Subject}, Until: until})
		return err
	})
	r.tx(ctx, func(tx pgx.Tx) error {
		img, _, err := r.images.Create(ctx, tx, operator, "desktop")
		if err != nil {
			return err
		}
		for kind, body := range map[image.Kind][]byte{image.Kernel: []byte("kernel"), image.Initrd: []byte("initrd"), image.Firmware: r.fw} {
			u, err := image.Receive(kind, bytes.NewReader(body))
			if err != nil {
				return err
			}
			defer u.Close()
			if err := r.images.Store(ctx, tx, u); err != nil {
				return err
			}
			if _, _, err := r.images.Attach(ctx, tx, operator, img.ID, kind, u.SHA256); err != nil {
				return err
			}
		}
		if _, _, err := r.images.Register(ctx, tx, operator, img.ID); err != nil {
			return err
		}
		r.image, _, err = r.images.Approve(ctx, tx, custodian, img.ID)
		return err
	})
}

func (r *rig) tx(ctx context.Context, fn func(tx pgx.Tx) error) {
	r.t.Helper()
	if err := postgres.InTx(ctx, r.db, fn); err != nil {
		r.t.Fatal(err)
	}
}

// service makes a service with its own runner, as one siestad process has them.
func (r *rig) service(change func(*flow.Config, *Config)) (*Service, *flow.Runner) {
	r.t.Helper()
	fc := flow.Config{
		DB: r.db, Lease: 10 * time.Second, Poll: 20 * time.Millisecond, Trace: Trace,
		Backoff: func(int) time.Duration { return 5 * time.Millisecond },
		Pace:    func(d time.Duration) time.Duration { return min(d, 5*time.Millisecond) },
	}
	wc := Config{
		DB: r.db, Audit: r.audit, Broker: r.broker, Permit: r.permits, Images: r.images, Installation: installation, BrokerKey: door.KeyHash(r.brokerB),
		Sites: []Site{{
			Name: "sim", Client: r.client, Keys: r.keys, Network: r.network, Flavors: []string{"siesta.small"}, TEE: r.tee,
			VCPUSigs: []uint32{vcpuSig}, GuestFeatures: []uint64{1}, Policy: r.policy, BrokerURL: "http://10.0.2.2:8443",
			Rules: []openstack.Rule{{Direction: "egress", EtherType: "IPv4", Protocol: "tcp", PortMin: 8443, PortMax: 8443}},
		}},
	}
	if wc.reference = r.reference; r.tee.OnTDX() {
		wc.Sites[0].VCPUSigs, wc.Sites[0].GuestFeatures = nil, nil
	}
	if change != nil {
		change(&fc, &wc)
	}
	runner, err := flow.New(fc)
	if err != nil {
		r.t.Fatal(err)
	}
	wc.Flow = runner
	svc, err := New(wc)
	if err != nil {
		r.t.Fatal(err)
	}
	return svc, runner
}

// running starts the usual single process.
func (r *rig) running() *rig {
	r.svc, r.runner = r.service(nil)
	flowtest.Run(r.t, r.runner)
	return r
}

func (r *rig) spec() CreateSpec {
	return CreateSpec{Name: "desk", Project: "cohort", Dataset: "scans", Image: r.image.ID, Site: "sim", Flavor: "siesta.small", DataGiB: 1, Request: "req-test"}
}

func (r *rig) create(ctx context.Context, s *Service) (Workspace, Operation) {
	r.t.Helper()
	var w Workspace
	var op Operation
	r.tx(ctx, func(tx pgx.Tx) (err error) {
		w, op, _, err = s.Create(ctx, tx, researcher, r.spec())
		return err
	})
	s.Wake()
	return w, op
}

func (r *rig) begin(ctx context.Context, s *Service, fn func(context.Context, pgx.Tx, audit.Actor, string, string) (Workspace, Operation, audit.ID, error), id string) Operation {
	r.t.Helper()
	var op Operation
	r.tx(ctx, func(tx pgx.Tx) (err error) {
		_, op, _, err = fn(ctx, tx, operator, id, "req-test")
		return err
	})
	s.Wake()
	return op
}

func (r *rig) await(ctx context.Context, op Operation, want flow.State) flow.Status {
	r.t.Helper()
	return flowtest.Await(ctx, r.t, r.db, flow.ID(op.ID), want)
}

func (r *rig) state(ctx context.Context, id string) State {
	r.t.Helper()
	w, err := readOne(ctx, r.db, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return w.State
}

// living is what the cloud has, all projects together.
func (r *rig) living() map[string]int {
	out := map[string]int{}
	for _, kind := range []string{"server", "volume", "port", "security group", "image", "secret"} {
		out[kind] = r.cloud.Living(kind)
	}
	return out
}

// one checks that a workspace stands in the cloud exactly once.
func (r *rig) one() error {
	for kind, n := range r.living() {
		want := map[string]int{"volume": 2, "image": 2}[kind]
		if want == 0 {
			want = 1
		}
		if n != want {
			return fmt.Errorf("%d of %s instead of %d", n, kind, want)
		}
	}
	return nil
}

func (r *rig) nothing() error {
	for kind, n := range r.living() {
		if n != 0 {
			return fmt.Errorf("%d of %s left", n, kind)
		}
	}
	for name, c := range map[string]*openstack.Client{"provisioning": r.client, "keys": r.keys} {
		left, err := c.Leftovers(r.t.Context())
		if err != nil || len(left) > 0 {
			return fmt.Errorf("%s credential sees %v (%w)", name, left, err)
		}
	}
	return nil
}
