package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

const binary = "qemu-system-x86_64"

// Machine is one running or ended guest.
type Machine struct {
	spec    Spec
	process *os.Process
	monitor *monitor
	done    chan struct{} // closed once QEMU has been reaped
	err     error         // valid after done
	killed  sync.Once
	stderr  tail
}

// Start launches a guest and returns once QEMU has answered on its control
// socket, which it does after it has opened every file. ctx bounds only the start:
// the guest lives until it powers off, Kill is called, or this process dies.
func Start(ctx context.Context, s Spec) (*Machine, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("starting a guest: %w", err)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "monitor"), os.NewFile(uintptr(pair[1]), "monitor of the guest")
	mon, err := newMonitor(ours)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	const firstExtra = 3 // exec gives ExtraFiles[0] this number in the child
	args, err := s.args(firstExtra)
	if err != nil {
		mon.close()
		theirs.Close()
		return nil, err
	}
	m := &Machine{spec: s, monitor: mon, done: make(chan struct{})}
	cmd := exec.Command(binary, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = &m.stderr, &m.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal follows the thread that forked, so this thread
		// stays for as long as the guest does.
		runtime.LockOSThread()
		err := cmd.Start()
		theirs.Close()
		started <- err
		if err != nil {
			return
		}
		m.err = cmd.Wait()
		mon.close()
		close(m.done)
	}()
	if err := <-started; err != nil {
		mon.close()
		return nil, fmt.Errorf("starting %s: %w", binary, err)
	}
	m.process = cmd.Process
	if err := mon.negotiate(ctx); err != nil {
		m.Kill()
		<-m.done
		return nil, fmt.Errorf("starting %s: %w: %s", binary, err, m.stderr.String())
	}
	return m, nil
}

// Spec is what QEMU was given.
func (m *Machine) Spec() Spec {
	s := m.spec
	s.Disks = append([]Disk(nil), s.Disks...)
	return s
}

// PID is the process id of QEMU.
func (m *Machine) PID() int { return m.process.Pid }

// Powerdown presses the ACPI power button. The guest decides what it does.
func (m *Machine) Powerdown(ctx context.Context) error {
	if !m.Alive() {
		return errors.New("pressing the power button: the guest has ended")
	}
	if err := m.monitor.execute(ctx, "system_powerdown"); err != nil {
		return fmt.Errorf("pressing the power button: %w", err)
	}
	return nil
}

// Kill pulls the plug. It may be called at any time, and more than once.
func (m *Machine) Kill() {
	m.killed.Do(func() { _ = m.process.Kill() })
}

// Wait returns when the guest has ended: nil after a power-off or a reset of its
// own, an error after Kill or when QEMU failed.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.done:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the guest to end: %w", ctx.Err())
	}
	if m.err != nil {
		return fmt.Errorf("the guest ended: %w: %s", m.err, m.stderr.String())
	}
	return nil
}

// Done is closed when the guest has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Alive reports whether QEMU is still running.
func (m *Machine) Alive() bool {
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// tail keeps the beginning of what QEMU complains about: its first line names the
// cause.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := 4096 - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}
