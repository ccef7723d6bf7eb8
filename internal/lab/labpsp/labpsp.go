//go:build devtee

package labpsp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
)

// Config says whose guests are served, and as which machine.
type Config struct {
	// PSP signs; Firmware, VCPUSig and GuestFeatures are those that the site of the service's configuration names.
	PSP           *softpsp.PSP
	Firmware      []byte
	VCPUSig       uint32
	GuestFeatures uint64
	// Virsh is the client of libvirt, "virsh" when empty; Connect the address it is given, qemu:///system when empty.
	Virsh, Connect string
	// Interval is how often domains are looked for; 250 ms when zero.
	Interval time.Duration
	Logger   *zap.Logger
}

// commandTimeout bounds one call of virsh.
const commandTimeout = 20 * time.Second

type server struct {
	cfg Config
	log *zap.Logger

	mu       sync.Mutex
	launches map[string]*launch // by domain.launch()
	wait     sync.WaitGroup
}

type launch struct {
	domain  domain
	machine *softpsp.Machine
	cancel  context.CancelFunc
}

// Run serves every domain that runs or comes to run, until ctx ends. libvirt that does not answer is asked again: it may
// start later, or anew.
func Run(ctx context.Context, cfg Config) error {
	if cfg.PSP == nil || len(cfg.Firmware) == 0 || cfg.VCPUSig == 0 {
		return errors.New("serving reports to libvirt's domains: the machine to play is not described")
	}
	if cfg.Virsh == "" {
		cfg.Virsh = "virsh"
	}
	if cfg.Connect == "" {
		cfg.Connect = "qemu:///system"
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 250 * time.Millisecond
	}
	s := &server{cfg: cfg, log: cfg.Logger, launches: map[string]*launch{}}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer s.wait.Wait()
	defer cancel()
	s.wait.Add(1)
	go func() {
		defer s.wait.Done()
		s.watchResets(ctx)
	}()
	tick := time.NewTicker(cfg.Interval)
	defer tick.Stop()
	silent := false
	for {
		err := s.look(ctx)
		if failed := err != nil && ctx.Err() == nil; failed != silent {
			silent = failed
			s.log.Info("libvirt", zap.Bool("answers", !failed), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look finds which domains run, begins to serve new ones and ends the launches of those that are gone.
func (s *server) look(ctx context.Context) error {
	out, err := s.virsh(ctx, "list", "--id")
	if err != nil {
		return err
	}
	present := map[string]bool{}
	for _, id := range strings.Fields(string(out)) {
		if key, ok := s.known(id); ok {
			present[key] = true
			continue
		}
		text, err := s.virsh(ctx, "dumpxml", id)
		if err != nil {
			continue // it ended in between; if it did not, the next look finds it
		}
		d, err := parseDomain(text)
		if err != nil {
			s.log.Warn("domain", zap.String("id", id), zap.Error(err))
			continue
		}
		present[d.launch()] = true
		if err := s.begin(ctx, d); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.launches {
		if !present[key] {
			l.machine.End()
			l.cancel()
			delete(s.launches, key)
			s.log.Info("launch ended", zap.String("domain", l.domain.Name))
		}
	}
	return nil
}

// known tells whether the domain with that id is served already. libvirt never gives an id twice while it runs, and a look
// that fails between its end and its next start keeps the launches, so an id alone could be an old one's: it is compared
// with what libvirt says only when it is new.
func (s *server) known(id string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.launches {
		if l.domain.ID == id {
			return key, true
		}
	}
	return "", false
}

func (s *server) begin(ctx context.Context, d domain) error {
	digest, digestErr := [48]byte{}, error(nil)
	if in, err := d.digestInput(s.cfg); err != nil {
		digestErr = err
	} else {
		digest, digestErr = attest.LaunchDigest(in)
	}
	machine, err := s.cfg.PSP.Launch(func() ([48]byte, error) { return digest, digestErr })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.launches[d.launch()] = &launch{domain: d, machine: machine, cancel: cancel}
	s.mu.Unlock()
	s.log.Info("launch", zap.String("domain", d.Name), zap.String("uuid", d.UUID), zap.String("id", d.ID),
		zap.Binary("measurement", digest[:]), zap.NamedError("unmeasured", digestErr))
	if d.socket() == "" {
		return nil // a guest without the port cannot ask; the launch is kept so that it is not read anew at every look
	}
	s.wait.Add(1)
	go func() {
		defer s.wait.Done()
		s.serve(ctx, d, machine)
	}()
	return nil
}

// serve answers over the port until the launch ends, and connects again when QEMU closes the connection in between.
func (s *server) serve(ctx context.Context, d domain, machine *softpsp.Machine) {
	for ctx.Err() == nil {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", d.socket())
		if err == nil {
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the read below
			err = machine.Serve(conn)
			stop()
			_ = conn.Close() // nothing is buffered on our side
		}
		if err != nil && ctx.Err() == nil {
			s.log.Debug("guest port", zap.String("domain", d.Name), zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.cfg.Interval):
		}
	}
}

// watchResets ends the launch of a guest that resets itself in the same QEMU.
func (s *server) watchResets(ctx context.Context) {
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, s.cfg.Virsh, "-q", "-c", s.cfg.Connect, "event", "--loop", "--event", "reboot")
		cmd.WaitDelay = commandTimeout // for a child that keeps our end of the pipe
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				s.reset(lines.Text())
			}
			err = cmd.Wait()
		}
		if err != nil && ctx.Err() == nil {
			s.log.Debug("watching resets", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(4 * s.cfg.Interval):
		}
	}
}

// reset reads a line such as: event 'reboot' for domain 'instance-00000001'
func (s *server) reset(line string) {
	parts := strings.Split(line, "'")
	if len(parts) < 4 || parts[1] != "reboot" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.launches {
		if l.domain.Name == parts[3] {
			l.machine.End()
			s.log.Info("guest reset itself: its launch is over", zap.String("domain", l.domain.Name))
		}
	}
}

func (s *server) virsh(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.cfg.Virsh, append([]string{"-q", "-c", s.cfg.Connect}, args...)...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("asking libvirt (%s): %w: %.200s", args[0], err, exit.Stderr)
		}
		return nil, fmt.Errorf("asking libvirt (%s): %w", args[0], err)
	}
	return out, nil
}
