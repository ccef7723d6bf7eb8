package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RunDir is memory: header copies live there.
const RunDir = "/run/siesta"

// DataDir is where the opened volume is mounted.
const DataDir = "/data"

// moduleList names the modules to load, one path per line in the order of their
// dependencies; a leading '-' marks one that may refuse to load, because the machine
// lacks the device (sev-guest outside an SNP guest). The build of the initrd writes it.
const moduleList = "/lib/modules/load"

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// Prepare turns a bare initrd into a place where the guest can work. It runs once, as
// process 1.
func Prepare() error {
	for _, m := range []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0700,size=16m"},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, dir := range []string{RunDir, DataDir, "/tmp", "/etc"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making %s: %w", dir, err)
		}
	}
	if err := loadModules(moduleList); err != nil {
		return err
	}
	// configfs is a module and its mount point appears with it. Without it there
	// may still be /dev/sev-guest.
	if _, err := os.Stat("/sys/kernel/config"); err == nil {
		m := mount{"configfs", "/sys/kernel/config", "configfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}
		if err := m.do(); err != nil {
			return err
		}
	}
	return lockDown()
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o750); err != nil {
		return fmt.Errorf("mounting %s: %w", m.target, err)
	}
	err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel may have mounted /dev itself
		return fmt.Errorf("mounting %s: %w", m.target, err)
	}
	return nil
}

func loadModules(list string) error {
	text, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // everything is built into this kernel
	}
	if err != nil {
		return fmt.Errorf("loading modules: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		path, optional := strings.CutPrefix(strings.TrimSpace(line), "-")
		if path == "" {
			continue
		}
		if err := loadModule(path); err != nil && !optional {
			return fmt.Errorf("loading module %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// lockDown closes what only an attacker would still use. All of it is one-way or stays
// because nothing else runs here.
func lockDown() error {
	for name, value := range map[string]string{
		"kernel/modules_disabled":    "1",
		"kernel/kexec_load_disabled": "1",
		"kernel/sysrq":               "0",
		"kernel/core_pattern":        "|/bin/false",
		"kernel/printk":              "1 4 1 7", // warnings print registers, and the console is the host's
		"vm/swappiness":              "0",
	} {
		err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	return nil
}

// MountData mounts the opened volume. Its content is the researcher's own, and still
// no device and no setuid program is honoured there.
func MountData(device string) error {
	if err := unix.Mount(device, DataDir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mounting the data volume: %w", err)
	}
	return nil
}

// UnmountData flushes and unmounts; not mounted is a success.
func UnmountData() error {
	unix.Sync()
	if err := unix.Unmount(DataDir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmounting the data volume: %w", err)
	}
	return nil
}

// PowerOff does not return. It is the only way out of process 1.
func PowerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// Without ACPI the kernel comes back; a process 1 that returned would panic
	// the kernel, and panic=-1 would boot again.
	for {
		_ = unix.Pause()
	}
}
