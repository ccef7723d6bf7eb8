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
	"slices"
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
	guests  atomic.Int64 // how many were started

	mu       sync.Mutex
	behave   func(stage door.Stage) error // consulted by guests before each report
	policy   attest.Policy
	machines []*machine
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, db: pgtest.New(t)}
	ctx := flowtest.Context(t)
	r.startCloud()
	r.startBroker()
	r.seed(ctx)
	chip := sha256.Sum256([]byte("chip"))
	r.policy = attest.NovaPolicy(map[string]attest.TCB{attest.Milan: {SNP: 1}})
	r.policy.Chips, r.policy.Simulated = [][]byte{append(chip[:], chip[:]...)}, true
	return r
}

func (r *rig) startCloud() {
	t := r.t
	dir := t.TempDir()
	cloud, err := cloudsim.New(cloudsim.Config{Dir: dir, Boot: r.boot, StopTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(cloud)
	t.Cleanup(func() { srv.Close(); cloud.Close() })
	project, keys := cloud.AddProject("siesta"), cloud.AddProject("siesta-keys")
	r.cloud, r.network = cloud, cloud.AddNetwork(project, "siesta")
	clouds := filepath.Join(dir, "clouds.yaml")
	raw := cloudsim.CloudsYAML(srv.URL, map[string]*cloudsim.Credential{"prov": cloud.AddCredential(project, "prov", "member", "reader"),
		"keys": cloud.AddCredential(keys, "broker", "member", "creator")})
	if err := os.WriteFile(clouds, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	client := func(entry string) *openstack.Client {
		c, err := openstack.New(openstack.Config{Site: "sim", Installation: installation, CloudsFile: clouds, CloudsEntry: entry,
			AllowedHosts: []string{strings.TrimPrefix(srv.URL, "http://")}, Timeout: 10 * time.Second})
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
	log, err := audit.New(audit.Config{DB: r.db, Origin: "workspace.test/log", Signer: signer})
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
	r.permits, r.images = permit.New(r.db), image.New(r.db)
	r.brokerB = public
	r.broker, err = keybroker.New(keybroker.Config{DB: r.db, Log: log, Facts: r.permits, Keyring: keyring, Key: private, Installation: installation,
		Stores: KeyStores([]Site{{Name: "sim", Keys: r.keys}}), Verifier: verifier{}, Logger: zap.NewNop(),
		Collateral: func(string) (attest.Collateral, error) { return attest.Collateral{}, nil }})
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
			f, err := r.images.Store(ctx, tx, kind, bytes.NewReader(body))
			if err != nil {
				return err
			}
			if _, _, err := r.images.Attach(ctx, tx, operator, img.ID, kind, f.SHA256); err != nil {
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
	fc := flow.Config{DB: r.db, Lease: 10 * time.Second, Poll: 20 * time.Millisecond, Trace: Trace,
		Backoff: func(int) time.Duration { return 5 * time.Millisecond },
		Pace:    func(d time.Duration) time.Duration { return min(d, 5*time.Millisecond) }}
	wc := Config{DB: r.db, Broker: r.broker, Permit: r.permits, Images: r.images, Installation: installation, BrokerKey: door.KeyHash(r.brokerB),
		Sites: []Site{{Name: "sim", Client: r.client, Keys: r.keys, Network: r.network, Flavors: []string{"siesta.small"}, TEE: SimulatedTEE,
			VCPUSigs: []uint32{vcpuSig}, GuestFeatures: []uint64{1}, Policy: r.policy, BrokerURL: "http://10.0.2.2:8443",
			Rules: []openstack.Rule{{Direction: "egress", EtherType: "IPv4", Protocol: "tcp", PortMin: 8443, PortMax: 8443}}}}}
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

// verifier judges the test's evidence: report data, launch id, measurement. What real evidence must be is attest's business.
type verifier struct{}

func (verifier) Verify(ev attest.Evidence, _ attest.Collateral, pol attest.Policy, _ time.Time) (*attest.Result, error) {
	refuse := func(code string) (*attest.Result, error) {
		return nil, &attest.Refusal{Code: code, Check: code, Checks: []attest.Check{{Name: code, Code: code, Status: attest.Failed}}}
	}
	if len(ev.Report) != 64+32+48 {
		return refuse(attest.CodeFormat)
	}
	res := &attest.Result{TEE: attest.SEVSNP, Product: attest.Milan, ReportData: [64]byte(ev.Report), ReportID: [32]byte(ev.Report[64:]),
		Measurement: [48]byte(ev.Report[96:]), ChipID: [64]byte(pol.Chips[0]), Simulated: true}
	switch {
	case res.ReportData != pol.ReportData:
		return refuse(attest.CodeReportData)
	case !slices.ContainsFunc(pol.Measurements, func(m []byte) bool { return bytes.Equal(m, res.Measurement[:]) }):
		return refuse(attest.CodeMeasurement)
	}
	return res, nil
}

const vcpuSig = 0x00a00f11

// machine is a running guest: it measures what it was really given, attests and reports its stages.
type machine struct {
	rig      *rig
	spec     cloudsim.BootSpec
	cancel   context.CancelFunc
	ended    chan struct{}
	reportID [32]byte
	disk     string
}

// disks remembers the header hash per data volume: it stands for what is on the disk.
var disks sync.Map

func (r *rig) boot(spec cloudsim.BootSpec) (cloudsim.Machine, error) {
	ctx, cancel := context.WithCancel(context.Background())
	m := &machine{rig: r, spec: spec, cancel: cancel, ended: make(chan struct{}), disk: r.t.Name() + spec.Disks[1].Serial}
	rand.Read(m.reportID[:])
	r.guests.Add(1)
	r.mu.Lock()
	r.machines = append(r.machines, m)
	r.mu.Unlock()
	go func() {
		defer close(m.ended)
		if err := m.run(ctx); err != nil {
			return // a guest that cannot go on powers off
		}
		<-ctx.Done()
	}()
	return m, nil
}

func (m *machine) Powerdown(context.Context) error { m.cancel(); return nil }
func (m *machine) Kill()                           { m.cancel() }
func (m *machine) Done() <-chan struct{}           { return m.ended }

func (m *machine) measure() ([48]byte, error) {
	var sums [2][32]byte
	for i, path := range []string{m.spec.Kernel, m.spec.Initrd} {
		body, err := os.ReadFile(path)
		if err != nil {
			return [48]byte{}, err
		}
		sums[i] = sha256.Sum256(body)
	}
	return attest.LaunchDigest(attest.DigestInput{Firmware: m.rig.fw, KernelSHA256: &sums[0], InitrdSHA256: &sums[1], Append: m.spec.Append,
		VCPUs: m.spec.VCPUs, VCPUSig: vcpuSig, GuestFeatures: 1})
}

func (m *machine) run(ctx context.Context) error {
	req := door.ChallengeRequest{Generation: 1, Purpose: door.Unlock}
	for _, word := range strings.Fields(m.spec.Append) {
		if v, ok := strings.CutPrefix(word, "siesta.ws="); ok {
			req.Workspace = v
		}
	}
	ch, err := m.rig.broker.Challenge(ctx, req, "guest")
	if err != nil {
		return err
	}
	key, err := door.GenerateKey("X25519")
	if err != nil {
		return err
	}
	public, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	measured, err := m.measure()
	if err != nil {
		return err
	}
	old, formatted := disks.Load(m.disk)
	header := ""
	if formatted {
		header = old.(string)
	}
	data := door.ReportData(door.Binding{Challenge: ch.Challenge, Nonce: ch.Nonce, Workspace: req.Workspace, Generation: req.Generation,
		Purpose: req.Purpose, KEM: key.Public().KEM, HPKEKey: key.Public().PublicKey, SigningKey: public, HeaderHash: header})
	report := append(append(data[:], m.reportID[:]...), measured[:]...)
	grant, err := m.rig.broker.Grant(ctx, door.GrantRequest{Challenge: ch.Challenge, Evidence: door.Evidence{TEE: string(attest.SEVSNP), Report: report},
		HPKE: key.Public(), SigningKey: public, HeaderHash: header}, "guest")
	if err != nil {
		return err
	}
	sealed, err := key.Open(door.GrantInfo(grant.Context, req, ch.Nonce), grant.Sealed)
	if err != nil {
		return err
	}
	seq := 0
	say := func(stage door.Stage, hash string) error {
		m.rig.mu.Lock()
		behave := m.rig.behave
		m.rig.mu.Unlock()
		if behave != nil {
			if err := behave(stage); err != nil {
				return err
			}
		}
		seq++
		e := door.Event{Seq: seq, Stage: stage, HeaderHash: hash}
		door.SignEvent(signing, grant.Lease.ID, &e)
		_, err := m.rig.broker.Event(ctx, grant.Lease.ID, e)
		return err
	}
	if sealed.Mode == "initialise" {
		header = fmt.Sprintf("%x", sha256.Sum256(m.reportID[:]))
		if err := say(door.Formatted, header); err != nil {
			return err
		}
		disks.Store(m.disk, header)
	}
	if err := say(door.Unlocked, ""); err != nil {
		return err
	}
	return say(door.Ready, "")
}
