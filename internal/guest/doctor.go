package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/eosc-siesta/siestad/internal/guest/luks"
	"github.com/eosc-siesta/siestad/internal/guest/machine"
)

// Finding is one thing that a guest needs and this machine has or lacks.
type Finding struct {
	OK   bool
	Text string
	Fix  string // what to do, when not OK
}

func (f Finding) String() string {
	if f.OK {
		return "ok       " + f.Text
	}
	return "MISSING  " + f.Text + ". " + f.Fix
}

// Examine says in words what is missing on this machine. It changes nothing and asks no network.
func Examine(t luks.Tools) []Finding {
	var out []Finding
	say := func(ok bool, good, bad, fix string) {
		if ok {
			out = append(out, Finding{OK: true, Text: good})
		} else {
			out = append(out, Finding{Text: bad, Fix: fix})
		}
	}
	text, err := os.ReadFile("/proc/cmdline")
	line, lineErr := ParseLine(string(text))
	if err != nil {
		lineErr = err
	}
	say(lineErr == nil, fmt.Sprintf("measured line: workspace %s, generation %d, broker %s", line.Workspace, line.Generation, line.Broker),
		fmt.Sprintf("no measured line: %v", lineErr),
		"Boot with kernel_id, ramdisk_id and os_command_line set by siestad; a disk's own boot loader cannot bind a workspace")
	reporter, err := FindReporter()
	say(err == nil, fmt.Sprintf("attestation reports come from %v", reporter), fmt.Sprint("no attestation reports: ", err),
		"Use a flavor with hw:mem_encryption_model=amd-sev-snp or intel-tdx and read its extra specs back; the kernel needs TSM_REPORTS and SEV_GUEST or TDX_GUEST_DRIVER (6.7 or later), configfs loaded before tsm")
	if tsm, ok := reporter.(tsmReporter); ok && teeOf[tsm.provider] == "tdx" {
		out = append(out, tsm.examineLog())
	}
	blocks, err := machine.Blocks("/sys")
	var named []string
	for _, b := range blocks {
		if b.Serial != "" {
			named = append(named, b.Name+"="+b.Serial)
		}
	}
	say(err == nil && len(named) > 0, "virtio disks with a serial: "+strings.Join(named, " "), fmt.Sprintf("no data disk: %d virtio disks, none with a serial", len(blocks)),
		"Attach the data volume on the virtio bus; its serial is the first 20 characters of the volume's id")
	_, err = os.Stat("/sys/module/dm_crypt")
	say(err == nil, "dm-crypt is there", "no dm-crypt", "Load dm-crypt, xts and an AES module before siesta-guest starts")
	for _, program := range []string{t.Cryptsetup, t.Mke2fs} {
		_, err := exec.LookPath(program)
		say(err == nil, program+" is there", "no "+program, "Add it to the initrd, with its libraries")
	}
	cards, err := net.Interfaces()
	up := 0
	for _, c := range cards {
		if c.Flags&net.FlagLoopback == 0 && c.Flags&net.FlagUp != 0 {
			up++
		}
	}
	say(err == nil && up > 0, "a network card is up", "no network card is up", "The port needs DHCP on its subnet, and the kernel virtio_net")
	return out
}

// examineLog says whether a trust domain has what binds it to its workspace: the log that shows its measured line.
func (r tsmReporter) examineLog() Finding {
	log, err := r.eventLog()
	if err == nil && log == nil {
		err = errors.New("there is no ACPI table CCEL")
	}
	if err != nil {
		return Finding{Text: fmt.Sprint("no event log: ", err), Fix: "Boot with OVMF that measures for TDX; without its log the broker cannot see the line, and refuses"}
	}
	return Finding{OK: true, Text: fmt.Sprintf("the event log of firmware and kernel has %d bytes", len(log))}
}
