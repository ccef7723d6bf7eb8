package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Disk is one raw virtio-blk disk.
type Disk struct {
	Path string // raw image, opened for writing
	// Serial is what the guest reads in /sys/block/*/serial; the device cuts
	// it at 20 bytes, so a longer one is refused here.
	Serial string
}

// Spec says what QEMU is given. The zero value is refused.
type Spec struct {
	Kernel string // path, required
	Initrd string // path, may be empty
	Append string // the kernel's command line, byte for byte
	VCPUs  int
	MemMiB int
	Disks  []Disk // vda, vdb, … in this order
	MAC    string // of the network card; empty lets QEMU choose
	// Console is the file that the serial console is appended to.
	Console string
	// PSPSocket, when set, is the path of a unix socket on which QEMU listens
	// for whoever answers on the virtio-serial port org.qemu.guest_agent.0,
	// the port that libvirt makes for Nova's hw_qemu_guest_agent=yes.
	PSPSocket string
	// UserNet gives the guest a card on QEMU's own network: DHCP, and the host
	// at 10.0.2.2. Without it the guest has no network at all.
	UserNet bool
	// CPU is QEMU's processor model; empty means everything that emulation can do
	// without harm.
	CPU string
}

// emulated is "max" without what QEMU 7.2 emulates wrongly: its cmpxchg16b leaves garbage in the flags, which the
// kernel's allocator trips over in four boots of ten, and its wide AES overwrites memory in the kernel's self test.
const emulated = "max,cx16=off,vaes=off,vpclmulqdq=off,avx2=off"

// AgentPort is the name of the virtio-serial port, in the guest under
// /dev/virtio-ports.
const AgentPort = "org.qemu.guest_agent.0"

const maxSerial = 20

func (s Spec) validate() error {
	var bad []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	need(s.Kernel != "", "no kernel")
	need(s.VCPUs >= 1 && s.VCPUs <= 64, "%d processors", s.VCPUs)
	need(s.MemMiB >= 64 && s.MemMiB <= 64<<10, "%d MiB of memory", s.MemMiB)
	need(s.Console != "", "no console file")
	need(!strings.ContainsAny(s.CPU, ", \n"), "processor model %q", s.CPU)
	if s.MAC != "" {
		_, err := net.ParseMAC(s.MAC)
		need(err == nil, "MAC address %q", s.MAC)
	}
	for i, d := range s.Disks {
		need(d.Path != "", "disk %d has no file", i)
		need(len(d.Serial) <= maxSerial, "serial of disk %d is longer than %d bytes", i, maxSerial)
		need(!strings.ContainsAny(d.Serial, ", \n"), "serial %q of disk %d", d.Serial, i)
	}
	return errors.Join(bad...)
}

// args is QEMU's command line. Paths travel as JSON where QEMU takes it and with
// doubled commas where it does not, so that no path can become an option.
// monitor is the file descriptor of the connected control socket.
func (s Spec) args(monitor int) ([]string, error) {
	cpu := s.CPU
	if cpu == "" {
		cpu = emulated
	}
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,tb-size=128", "-cpu", cpu,
		"-smp", strconv.Itoa(s.VCPUs), "-m", strconv.Itoa(s.MemMiB),
		"-kernel", s.Kernel, "-append", s.Append,
		"-chardev", "socket,id=monitor,fd=" + strconv.Itoa(monitor),
		"-mon", "chardev=monitor,mode=control",
		"-chardev", "file,id=console,append=on,path=" + escape(s.Console), "-serial", "chardev:console",
	}
	if s.Initrd != "" {
		a = append(a, "-initrd", s.Initrd)
	}
	for i, d := range s.Disks {
		node := "disk" + strconv.Itoa(i)
		drive, err := json.Marshal(map[string]any{
			"driver": "raw", "node-name": node, "discard": "unmap",
			"file": map[string]any{"driver": "file", "filename": d.Path},
		})
		if err != nil {
			return nil, fmt.Errorf("describing disk %d: %w", i, err)
		}
		device := "virtio-blk-pci,drive=" + node
		if d.Serial != "" {
			device += ",serial=" + d.Serial
		}
		a = append(a, "-blockdev", string(drive), "-device", device)
	}
	if s.UserNet {
		card := "virtio-net-pci,netdev=net0,romfile="
		if s.MAC != "" {
			card += ",mac=" + s.MAC
		}
		a = append(a, "-netdev", "user,id=net0,ipv6=off", "-device", card)
	}
	if s.PSPSocket != "" {
		a = append(a,
			"-device", "virtio-serial-pci",
			"-chardev", "socket,id=agent,server=on,wait=off,path="+escape(s.PSPSocket),
			"-device", "virtserialport,chardev=agent,name="+AgentPort)
	}
	return a, nil
}

func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
