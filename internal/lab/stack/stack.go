//go:build devtee

package stack

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
	"github.com/eosc-siesta/siestad/internal/lab/devfirmware"
	"github.com/eosc-siesta/siestad/internal/lab/issuer"
	"github.com/eosc-siesta/siestad/internal/lab/qemu"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
	"github.com/eosc-siesta/siestad/internal/lab/vendors"
)

// Names that the demo uses throughout. One cloud plays two sites; the flavor decides as what its guests are launched.
const (
	Installation = "demo0001"
	Origin       = "siesta.demo/log"
	Site         = "demo"
	Flavor       = "small"
	DomainSite   = "demo-tdx"
	DomainFlavor = "trust-domain"
)

// People of the demo, each with one role.
var People = []issuer.User{
	{Name: "rita", Roles: []string{"researcher"}},
	{Name: "carlo", Roles: []string{"custodian"}},
	{Name: "olga", Roles: []string{"operator"}},
	{Name: "axel", Roles: []string{"auditor"}},
}

// Config says where things are. All fields are required but those with a default.
type Config struct {
	Dir      string        // everything that is written goes here
	Bin      string        // the development programs
	Guest    string        // vmlinuz and initrd-devtee.img
	Database string        // connection string of an empty or migrated database
	Lease    time.Duration // of the broker; default 1 minute
	Cloud    cloudsim.Config
	// FlowLease is how long work stays with a daemon that was killed; zero is the daemon's own default.
	FlowLease time.Duration
	Logger    *zap.Logger
}

// Stack is a running demo.
type Stack struct {
	cfg    Config
	Cloud  *cloudsim.Cloud
	host   *host
	State  State
	daemon *exec.Cmd
	vendor string        // address of what plays Intel's provisioning certification service
	ended  chan struct{} // closed when the daemon has been reaped
	closes []func()
}

// State is what others need to know of a running demo; it is kept in Dir/state.json.
type State struct {
	Server  string `json:"server"`
	Guests  string `json:"guests"`
	Issuer  string `json:"issuer"`
	Control string `json:"control"`
}

// Start brings everything up and returns when the daemon is ready. Close ends it.
func Start(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if cfg.Lease == 0 {
		cfg.Lease = time.Minute
	}
	s := &Stack{cfg: cfg}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("starting the demo: %w", err)
	}
	psp, err := softpsp.New(softpsp.Config{Now: time.Now()})
	if err != nil {
		return nil, err
	}
	platform, err := softtd.New(softtd.Config{Now: time.Now()})
	if err != nil {
		return nil, err
	}
	s.host = &host{dir: cfg.Dir, psp: psp, platform: platform, firmware: devfirmware.Generate(), logger: cfg.Logger, launched: map[string]launch{}}
	for name, content := range map[string][]byte{"firmware.fd": s.host.firmware, "roots.pem": psp.Roots(), "intel-root.pem": platform.Root()} {
		if err := os.WriteFile(s.path(name), content, 0o600); err != nil {
			return nil, fmt.Errorf("starting the demo: %w", err)
		}
	}
	if err := s.startCloud(ctx); err != nil {
		return nil, err
	}
	if err := s.startIssuer(ctx); err != nil {
		return nil, err
	}
	if err := s.startVendor(ctx); err != nil {
		return nil, err
	}
	if s.State.Control, err = s.serve(ctx, s.control()); err != nil {
		return nil, err
	}
	if err := s.configure(ctx); err != nil {
		return nil, err
	}
	if err := s.StartDaemon(ctx); err != nil {
		return nil, err
	}
	state, err := json.Marshal(s.State)
	if err != nil {
		return nil, err
	}
	return s, os.WriteFile(s.path("state.json"), state, 0o600)
}

func (s *Stack) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// serve runs a handler on a loopback port of its own until Close.
func (s *Stack) serve(ctx context.Context, h http.Handler) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	s.closes = append(s.closes, func() { _ = server.Close() })
	return "http://" + listener.Addr().String(), nil
}

func (s *Stack) startCloud(ctx context.Context) error {
	cfg := s.cfg.Cloud
	cfg.Dir = s.path("cloud")
	cfg.Flavors = []cloudsim.Flavor{{ID: "1", Name: Flavor, VCPUs: 1, RAMMiB: 384}, {ID: "2", Name: "medium", VCPUs: 2, RAMMiB: 768}, {ID: "3", Name: DomainFlavor, VCPUs: 1, RAMMiB: 384}}
	cfg.VolumeTypes = []cloudsim.VolumeType{{Name: "sparse"}}
	cfg.BarbicanNewDefaults = true
	cfg.Boot = func(b cloudsim.BootSpec) (cloudsim.Machine, error) {
		spec := qemu.Spec{
			Kernel: b.Kernel, Initrd: b.Initrd, Append: b.Append, VCPUs: b.VCPUs, MemMiB: b.MemMiB,
			MAC: b.MAC, Console: b.Console, UserNet: true,
		}
		for _, d := range b.Disks {
			spec.Disks = append(spec.Disks, qemu.Disk{Path: d.Path, Serial: d.Serial})
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return s.host.boot(ctx, launch{spec, b.Flavor == DomainFlavor})
	}
	var err error
	if s.Cloud, err = cloudsim.New(cfg); err != nil {
		return err
	}
	s.closes = append(s.closes, s.Cloud.Close)
	url, err := s.serve(ctx, s.Cloud)
	if err != nil {
		return err
	}
	workspaces, keys := s.Cloud.AddProject("siesta-workspaces"), s.Cloud.AddProject("siesta-keys")
	s.Cloud.AddNetwork(workspaces, "siesta")
	for name, credential := range map[string]*cloudsim.Credential{
		"compute.yaml": s.Cloud.AddCredential(workspaces, "siesta-prov", "member"),
		"keys.yaml":    s.Cloud.AddCredential(keys, "siesta-broker", "member"),
	} {
		text := fmt.Sprintf("auth_url: %s/identity/v3\napplication_credential_id: %s\napplication_credential_secret: %s\n", url, credential.ID, credential.Secret)
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("writing a credential: %w", err)
		}
	}
	return nil
}

// startIssuer needs its own URL before it can be made: the issuer is part of every token.
func (s *Stack) startIssuer(ctx context.Context) error {
	var handler http.Handler
	url, err := s.serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	if err != nil {
		return err
	}
	s.State.Issuer = url
	handler, err = issuer.New(url, People)
	return err
}

// startVendor serves what Intel would publish of the simulated host, for a month.
func (s *Stack) startVendor(ctx context.Context) (err error) {
	var intel vendors.Service
	if err := intel.PutPlatform(s.host.platform, time.Now().Add(-time.Hour), time.Now().AddDate(0, 1, 0)); err != nil {
		return err
	}
	s.vendor, err = s.serve(ctx, &intel)
	return err
}

// configure makes keys and the daemon's real configuration file, and migrates the database.
func (s *Stack) configure(ctx context.Context) error {
	ports, err := freePorts(ctx, 3)
	if err != nil {
		return err
	}
	s.State.Server, s.State.Guests = "http://"+ports[0], "http://"+ports[1]
	_, guestsPort, err := net.SplitHostPort(ports[1])
	if err != nil {
		return err
	}
	// A directory that is used again keeps its keys: the database knows what was wrapped and signed with them.
	if _, err := os.Stat(s.path("keys")); errors.Is(err, os.ErrNotExist) {
		if err := s.run(ctx, "siestad", "keys", "init", s.path("keys"), "--origin", Origin); err != nil {
			return err
		}
	}
	chip := s.host.psp.ChipID()
	compute, err := os.ReadFile(s.path("compute.yaml"))
	if err != nil {
		return err
	}
	config := fmt.Sprintf(configTemplate, Installation, s.cfg.Database, ports[0], ports[1], ports[2],
		s.State.Issuer, s.path("keys/keyring"), Origin, s.path("keys/log.pem"), s.path("last-seen"), s.path("keys/broker.pem"), s.cfg.Lease,
		s.path("roots.pem"), s.cfg.FlowLease, Site, hostOf(string(compute)), s.path("compute.yaml"), s.path("keys.yaml"), Flavor, vcpuType, guestFeatures,
		hex.EncodeToString(chip[:]), guestsPort)
	config += fmt.Sprintf(domainTemplate, DomainSite, hostOf(string(compute)), s.path("compute.yaml"), s.path("keys.yaml"), DomainFlavor, s.host.platform.PPID(), softtd.FMSPC,
		softtd.XFAM, guestsPort, s.path("intel-root.pem"), s.vendor, s.vendor+vendors.RootCRLPath)
	if err := os.WriteFile(s.path("siestad.yaml"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	for _, verb := range []string{"check-config", "migrate"} {
		if err := s.run(ctx, "siestad", verb, "--config", s.path("siestad.yaml")); err != nil {
			return err
		}
	}
	return nil
}

const configTemplate = `# Written by the demo.
installation: %s
database:
  connection: %s
listen:
  api: %s
  guests: %s
  metrics: %s
issuers:
  - url: %s
    audience: siestad
    clients: [siesta-cli]
keyring:
  file: %s
log:
  origin: %s
  key_file: %s
  last_seen_file: %s
broker:
  key_file: %s
  lease: %s
attestation:
  min_tcb:
    Genoa: {bootloader: 10, snp: 20, microcode: 20}
log_level: debug
simulated_roots: %s
flow_lease: %s
sites:
  - name: %s
    tee: simulated
    allowed_hosts: [%s]
    compute: {file: %s}
    keys: {file: %s}
    network: siesta
    flavors: [%s]
    volume_type: sparse
    vcpu_types: [%s]
    guest_features: [%d]
    chips:
      - id: %s
    # The host, as QEMU's user network shows it to guests.
    broker_url: http://10.0.2.2:%s
`

// domainTemplate continues configTemplate with the second site.
const domainTemplate = `  - name: %s
    tee: simulated-tdx
    allowed_hosts: [%s]
    compute: {file: %s}
    keys: {file: %s}
    network: siesta
    flavors: [%s]
    volume_type: sparse
    platforms:
      - {ppid: %x, fmspc: %s}
    xfam: %#x
    broker_url: http://10.0.2.2:%s
simulated_intel_root: %s
collateral:
  pcs_url: %s
  root_crl_url: %s
`

// run runs one of the programs to its end.
func (s *Stack) run(ctx context.Context, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(s.cfg.Bin, program), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w\n%s", program, args, err, out)
	}
	return nil
}

// StartDaemon starts the real daemon as a process of its own and returns when it is ready.
func (s *Stack) StartDaemon(ctx context.Context) error {
	log, err := os.OpenFile(s.path("siestad.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting siestad: %w", err)
	}
	defer log.Close()
	s.daemon = exec.Command(filepath.Join(s.cfg.Bin, "siestad"), "serve", "--config", s.path("siestad.yaml"))
	s.daemon.Stdout, s.daemon.Stderr = log, log
	if err := s.daemon.Start(); err != nil {
		return fmt.Errorf("starting siestad: %w", err)
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(s.daemon, s.ended)
	return s.awaitReady(ctx)
}

func (s *Stack) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.State.Server+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.ended:
			tail, _ := os.ReadFile(s.path("siestad.log"))
			return fmt.Errorf("siestad ended while starting:\n%s", tail[max(0, len(tail)-4000):])
		case <-ctx.Done():
			return fmt.Errorf("siestad did not become ready: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// KillDaemon ends the daemon as a power cut would.
func (s *Stack) KillDaemon() {
	_ = s.daemon.Process.Kill()
	<-s.ended
}

// Close ends everything: the daemon in good order, guests and servers at once.
func (s *Stack) Close() {
	if s.ended != nil {
		_ = s.daemon.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.ended:
		case <-time.After(20 * time.Second):
			s.KillDaemon()
		}
	}
	for i := len(s.closes) - 1; i >= 0; i-- {
		s.closes[i]()
	}
}

// freePorts finds loopback addresses that are free now. Somebody else may take one before it is used; the daemon then says so.
func freePorts(ctx context.Context, n int) ([]string, error) {
	var addresses []string
	for range n {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		defer listener.Close()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}
