//go:build qemu && devtee

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/guest/guesttest"
	"github.com/eosc-siesta/siestad/internal/lab/qemu"
)

// These tests boot the real kernel with the real initrd, on emulated processors, against a broker in this process.

const (
	workspace = "01jqqqqqqqqqqqqqqqqqqqqqqq"
	serial    = "0f8fad5b-d9cb-469f-a"
	patience  = 4 * time.Minute // one boot takes seconds; a busy machine is not a failure
)

var guestDir = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("SIESTA_TEST_GUEST"); dir != "" {
		return dir, nil
	}
	dir, err := filepath.Abs("../../var/guest")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("../../deploy/guest/build-initrd", "--devtee", dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the initrd: %w: %s", err, out)
	}
	return dir, nil
})

// bench limits how many guests run at once: two per machine of this size.
var bench = make(chan struct{}, 2)

type site struct {
	*testing.T
	broker *guesttest.Broker
	url    string
	dir    string
	disk   string
	boots  atomic.Int32
}

func newSite(t *testing.T) *site {
	t.Helper()
	t.Parallel()
	bench <- struct{}{}
	t.Cleanup(func() { <-bench })
	s := &site{T: t, broker: guesttest.New(serial), dir: t.TempDir()}
	s.disk = filepath.Join(s.dir, "data")
	s.blank()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s.broker, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s.url = "http://10.0.2.2:" + port
	return s
}

func (s *site) blank() {
	s.Helper()
	if err := os.WriteFile(s.disk, nil, 0o600); err != nil {
		s.Fatal(err)
	}
	if err := os.Truncate(s.disk, 96<<20); err != nil {
		s.Fatal(err)
	}
}

func (s *site) line(keyHash string) string {
	return fmt.Sprintf("console=ttyS0 panic=-1 siesta.ws=%s siesta.gen=1 siesta.broker=%s siesta.kb=%s", workspace, s.url, keyHash)
}

// booted is one boot.
type booted struct {
	*site
	machine *qemu.Machine
	console string
	from    int // events before this boot
	ctx     context.Context
}

func (s *site) boot() *booted { return s.bootWith(s.line(s.broker.KeyHash())) }

func (s *site) bootWith(line string) *booted {
	s.Helper()
	dir, err := guestDir()
	if err != nil {
		s.Fatal(err)
	}
	n := s.boots.Add(1)
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	s.Cleanup(cancel)
	g := &booted{site: s, console: filepath.Join(s.dir, fmt.Sprintf("console-%d", n)), from: len(s.broker.Events()), ctx: ctx}
	socket := filepath.Join(s.dir, fmt.Sprintf("psp-%d", n))
	g.machine, err = qemu.Start(ctx, qemu.Spec{
		Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd-devtee.img"), Append: line,
		VCPUs: 1, MemMiB: 384, Disks: []qemu.Disk{{Path: s.disk, Serial: serial}},
		Console: g.console, PSPSocket: socket, UserNet: true,
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		g.machine.Kill()
		<-g.machine.Done()
		if s.Failed() {
			text, _ := os.ReadFile(g.console)
			s.Logf("%s:\n%s", g.console, text)
		}
	})
	go func() { _ = guesttest.ServeProcessor(ctx, socket) }()
	return g
}

func (g *booted) reaches(stage door.Stage) door.Event {
	g.Helper()
	ctx, cancel := context.WithCancel(g.ctx)
	defer cancel()
	go func() { // a guest that ended will not reach anything
		select {
		case <-g.machine.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	e, err := g.broker.Await(ctx, g.from, stage)
	if err != nil {
		g.Fatal(err)
	}
	return e
}

// ends waits until the guest has powered itself off and returns its console.
func (g *booted) ends() string {
	g.Helper()
	if err := g.machine.Wait(g.ctx); err != nil {
		g.Fatal(err)
	}
	text, err := os.ReadFile(g.console)
	if err != nil {
		g.Fatal(err)
	}
	if !bytes.Contains(text, []byte("reboot: Power down")) {
		g.Errorf("the guest did not power itself off")
	}
	for _, secret := range []door.Secret{g.broker.Volume.LUKSKey, g.broker.Volume.HeaderMACKey} {
		if bytes.Contains(text, secret[:8]) || bytes.Contains(text, fmt.Appendf(nil, "%x", []byte(secret[:8]))) {
			g.Error("a key is on the console")
		}
	}
	return string(text)
}

func (g *booted) stops() {
	g.Helper()
	if err := g.machine.Powerdown(g.ctx); err != nil {
		g.Fatal(err)
	}
	g.ends()
	g.reachedBeforeEnd(door.Stopping)
}

func (g *booted) reachedBeforeEnd(stage door.Stage) {
	g.Helper()
	for _, e := range g.broker.Events()[g.from:] {
		if e.Stage == stage {
			return
		}
	}
	g.Errorf("the guest never reported %s", stage)
}

func (g *booted) never(stages ...door.Stage) {
	g.Helper()
	for _, e := range g.broker.Events()[g.from:] {
		for _, s := range stages {
			if e.Stage == s {
				g.Errorf("the guest reported %s", s)
			}
		}
	}
}

// refuses expects a boot that ends by itself, for this reason, with the disk never open.
func (g *booted) refuses(why string) {
	g.Helper()
	if text := g.ends(); !strings.Contains(text, why) {
		g.Errorf("the console does not say %q", why)
	}
	g.never(door.Unlocked, door.Ready)
}

func (s *site) formatted() {
	s.Helper()
	g := s.boot()
	g.reaches(door.Ready)
	g.stops()
}

func (s *site) read() []byte {
	s.Helper()
	b, err := os.ReadFile(s.disk)
	if err != nil {
		s.Fatal(err)
	}
	return b
}

func TestInitialiseThenOpen(t *testing.T) {
	s := newSite(t)
	g := s.boot()
	if e := g.reaches(door.Formatted); e.HeaderHash == "" {
		t.Error("formatted without a hash")
	}
	g.reaches(door.Unlocked)
	if e := g.reaches(door.Ready); !strings.HasPrefix(e.Detail, "boot 1 of this volume") {
		t.Errorf("first boot says %q", e.Detail)
	}
	g.stops()
	if bytes.Contains(s.read(), []byte("siesta-boots")) {
		t.Error("the file's name is on the disk in the clear")
	}
	g = s.boot()
	if e := g.reaches(door.Ready); !strings.HasPrefix(e.Detail, "boot 2 of this volume") {
		t.Errorf("second boot says %q", e.Detail)
	}
	g.never(door.Formatted)
	g.stops()
}

func TestRefusesAnotherBrokerKey(t *testing.T) {
	s := newSite(t)
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.bootWith(s.line(door.KeyHash(other))).refuses("not the broker key of the measured command line")
	if s.broker.Grants() != 0 {
		t.Error("it asked for a grant all the same")
	}
}

func TestRefusesAGrantSealedBySomebodyElse(t *testing.T) {
	s := newSite(t)
	_, forge, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.broker.Forge = forge
	before := s.read()
	s.boot().refuses("verifying the grant")
	if !bytes.Equal(before, s.read()) {
		t.Error("the disk was written")
	}
}

func TestRefusesAWordThatAppearsTwice(t *testing.T) {
	s := newSite(t)
	s.bootWith(s.line(s.broker.KeyHash()) + " siesta.gen=2").refuses("appears twice")
}

func TestRefusesAnUnformattedDiskWithoutInitialise(t *testing.T) {
	s := newSite(t)
	s.broker.Volume.Mode, s.broker.Volume.HeaderHash = door.Open, strings.Repeat("0", 64)
	before := s.read()
	g := s.boot()
	g.refuses("the header is not authentic")
	g.reachedBeforeEnd(door.Failed)
	if !bytes.Equal(before, s.read()) {
		t.Error("the disk was written")
	}
}

func TestRefusesAnOlderHeader(t *testing.T) {
	s := newSite(t)
	s.formatted()
	old := s.read()
	s.broker.Volume.Mode, s.broker.Volume.HeaderHash = door.Initialise, "" // as after a loss that the owner accepted
	s.formatted()
	if err := os.WriteFile(s.disk, old, 0o600); err != nil {
		t.Fatal(err)
	}
	g := s.boot()
	g.refuses("an older header of this volume")
	g.reachedBeforeEnd(door.Failed)
}

// A lost answer costs nothing: the same request again brings the same grant.
func TestSurvivesALostGrantAnswer(t *testing.T) {
	s := newSite(t)
	lost := 0
	s.broker.Intercept = func(path string, _ []byte) (int, bool) {
		if path == "/v1/grants" && lost < 2 {
			lost++
			return 0, true
		}
		return 0, false
	}
	g := s.boot()
	g.reaches(door.Ready)
	if n := s.broker.Grants(); n != 1 || lost != 2 {
		t.Errorf("%d grants for %d lost answers, want 1 for 2", n, lost)
	}
	g.stops()
}

// The plug is pulled at three moments of the first boot; the next boot finds its way.
func TestSurvivesAPowerCutWhileFormatting(t *testing.T) {
	for name, c := range map[string]struct {
		marker   string
		unheard  bool // reports of `formatted` do not arrive before the cut
		formats  bool // the next boot formats again
		finished bool
	}{
		"format has begun":            {"formatting the data volume", false, true, false},
		"formatted, report lost":      {"waiting for the broker to record", true, true, false},
		"formatted, recorded, no ack": {"waiting for the broker to record", false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			recorded := make(chan struct{})
			var once sync.Once
			s.broker.Intercept = func(path string, body []byte) (int, bool) {
				if s.boots.Load() > 1 || !bytes.Contains(body, []byte(`"formatted"`)) {
					return 0, false
				}
				if c.unheard {
					return http.StatusServiceUnavailable, false
				}
				once.Do(func() { close(recorded) })
				return 0, true
			}
			g := s.boot()
			g.sees(c.marker)
			if c.finished {
				select {
				case <-recorded:
				case <-g.ctx.Done():
					t.Fatal("never recorded")
				}
				g.reaches(door.Formatted)
			}
			g.machine.Kill()
			<-g.machine.Done()
			g.never(door.Unlocked, door.Ready)
			next := s.boot()
			next.reaches(door.Ready)
			if next.hasFormatted() != c.formats {
				t.Errorf("formatted again: %v, want %v", !c.formats, c.formats)
			}
			next.stops()
		})
	}
}

func (g *booted) hasFormatted() bool {
	for _, e := range g.broker.Events()[g.from:] {
		if e.Stage == door.Formatted {
			return true
		}
	}
	return false
}

// sees waits for words on the console.
func (g *booted) sees(words string) {
	g.Helper()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		if text, err := os.ReadFile(g.console); err == nil && bytes.Contains(text, []byte(words)) {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-g.machine.Done():
			g.Fatalf("the guest ended before it said %q", words)
		case <-g.ctx.Done():
			g.Fatalf("the guest never said %q", words)
		}
	}
}

// A lease that is refused at renewal closes the disk and powers the guest off.
func TestPowersOffWhenARenewalIsRefused(t *testing.T) {
	s := newSite(t)
	s.broker.RenewAfter = time.Second
	s.broker.Intercept = func(_ string, body []byte) (int, bool) {
		if bytes.Contains(body, []byte(`"renew"`)) {
			return http.StatusForbidden, false
		}
		return 0, false
	}
	g := s.boot()
	g.reaches(door.Ready)
	if text := g.ends(); !strings.Contains(text, "the lease is not renewed") || !strings.Contains(text, "urn:refusal:test") {
		t.Error("the console does not say why")
	}
	g.reachedBeforeEnd(door.Failed)
}
