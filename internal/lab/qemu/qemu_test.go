package qemu

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// idle is a Spec that QEMU accepts and that never does anything: its kernel is
// zeros.
func idle(t *testing.T) Spec {
	t.Helper()
	dir := t.TempDir()
	kernel, disk := filepath.Join(dir, "kernel"), filepath.Join(dir, "disk, with a comma")
	for path, size := range map[string]int{kernel: 16 << 10, disk: 1 << 20} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Spec{
		Kernel: kernel, Append: "console=ttyS0", VCPUs: 1, MemMiB: 64,
		Disks: []Disk{{Path: disk, Serial: "0123456789abcdefghij"}}, MAC: "02:00:00:00:00:01",
		Console: filepath.Join(dir, "console"), PSPSocket: filepath.Join(dir, "psp"), UserNet: true,
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestLife(t *testing.T) {
	ctx := within(t)
	m, err := Start(ctx, idle(t))
	if err != nil {
		t.Fatal(err)
	}
	if !m.Alive() {
		t.Error("not alive after Start")
	}
	if _, err := os.Stat(m.Spec().PSPSocket); err != nil {
		t.Errorf("nobody listens on the agent socket: %v", err)
	}
	if err := m.Powerdown(ctx); err != nil {
		t.Error(err)
	}
	m.Kill()
	m.Kill()
	if err := m.Wait(ctx); err == nil {
		t.Error("Wait after Kill: no error")
	}
	if m.Alive() {
		t.Error("alive after Wait")
	}
	if err := m.Powerdown(ctx); err == nil {
		t.Error("the power button of a dead guest works")
	}
	if err := syscall.Kill(m.PID(), 0); err == nil {
		t.Error("the process is still there")
	}
}

func TestStartNamesTheCause(t *testing.T) {
	s := idle(t)
	s.Disks[0].Path = filepath.Join(t.TempDir(), "absent")
	_, err := Start(within(t), s)
	if err == nil || !strings.Contains(err.Error(), "absent") {
		t.Fatalf("got %v, want QEMU's own words about the missing file", err)
	}
}

func TestValidate(t *testing.T) {
	for name, spoil := range map[string]func(*Spec){
		"zero":          func(s *Spec) { *s = Spec{} },
		"no kernel":     func(s *Spec) { s.Kernel = "" },
		"no processors": func(s *Spec) { s.VCPUs = 0 },
		"no memory":     func(s *Spec) { s.MemMiB = 0 },
		"no console":    func(s *Spec) { s.Console = "" },
		"bad MAC":       func(s *Spec) { s.MAC = "02:00,bus=x" },
		"long serial":   func(s *Spec) { s.Disks[0].Serial = strings.Repeat("a", 21) },
		"sly serial":    func(s *Spec) { s.Disks[0].Serial = "a,b=c" },
	} {
		t.Run(name, func(t *testing.T) {
			s := idle(t)
			spoil(&s)
			if err := s.validate(); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestArgsAlwaysEmulate(t *testing.T) {
	args, err := idle(t).args(3)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.Index(args, "-accel")
	if i < 0 || !strings.HasPrefix(args[i+1], "tcg") || slices.Contains(args, "-enable-kvm") {
		t.Errorf("not software emulation: %q", args)
	}
	if i := slices.Index(args, "-append"); args[i+1] != "console=ttyS0" {
		t.Errorf("the line was changed: %q", args[i+1])
	}
}
