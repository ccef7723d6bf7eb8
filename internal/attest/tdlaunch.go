package attest

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"fmt"
	"strings"
)

// TDLaunch is what a trust domain is launched from, when QEMU boots its kernel
// directly, as OpenStack Nova does for a volume with kernel_id and ramdisk_id.
type TDLaunch struct {
	Firmware []byte // the whole file: OVMF with TDX metadata
	Kernel   []byte // the whole file
	// InitrdSHA384 and InitrdSize are of the whole initrd.
	InitrdSHA384 [48]byte
	InitrdSize   int64
	// CommandLine is the line as Nova was given it.
	CommandLine string
	// MemoryMiB is the guest's memory. It is in no measurement of its own, but
	// decides where QEMU says that the initrd lies.
	MemoryMiB int
}

// TDReference are the reference values of a launch, for use in TDXPolicy and to
// find a policy by evidence that nobody has judged.
type TDReference struct {
	// MRTD is the measurement of the firmware as QEMU puts it into memory.
	MRTD [48]byte
	// RTMR1 and RTMR2 list the values that each register may have at the end of a
	// boot, by the versions of QEMU and OVMF: see rtmr1 and lineDigests. All of one
	// list stand for the same kernel, line and initrd, so all may be admitted.
	// RTMR0 depends on the machine's shape and RTMR3 on what runs in the guest.
	RTMR1, RTMR2 [][]byte
}

// maxMemoryMiB is far above what any host has.
const maxMemoryMiB = 64 << 20

// Reference computes the reference values of a launch. RTMR1 and RTMR2 say what was
// booted only because the firmware measures the kernel, and that the line and the
// initrd, before they can do anything: anyone who runs in the guest before that
// could extend the registers with the same digests. So firmware and kernels that
// do not measure, or of which it cannot be told, have no values: see
// checkMeasuring and checkKernelVersion.
func (l TDLaunch) Reference() (TDReference, error) {
	fail := func(err error) (TDReference, error) {
		return TDReference{}, fmt.Errorf("computing reference values of a trust domain: %w", err)
	}
	switch err := checkLine(l.CommandLine); {
	case err != nil:
		return fail(err)
	case l.CommandLine == "":
		return fail(errors.New("no command line: nothing would bind the guest to its workspace"))
	case strings.Contains(l.CommandLine, "vga="):
		return fail(errors.New("vga= in the command line: QEMU writes it into the kernel; take it out, for a trust domain has no screen"))
	case l.InitrdSize <= 0:
		return fail(errors.New("no initrd"))
	case l.MemoryMiB <= 0 || l.MemoryMiB > maxMemoryMiB:
		return fail(fmt.Errorf("%d MiB of memory", l.MemoryMiB))
	}
	sections, err := tdSections(l.Firmware)
	if err != nil {
		return fail(err)
	}
	if err := checkMeasuring(sections); err != nil {
		return fail(err)
	}
	if err := checkKernelVersion(l.Kernel); err != nil {
		return fail(err)
	}
	ref := TDReference{MRTD: mrtd(sections)}
	if ref.RTMR1, err = l.rtmr1(); err != nil {
		return fail(err)
	}
	for _, line := range lineDigests(l.CommandLine) {
		ref.RTMR2 = append(ref.RTMR2, extended(line, l.InitrdSHA384))
	}
	return ref, nil
}

// What OVMF measures besides the kernel, in its order (TCG PC Client Platform
// Firmware Profile, EV_EFI_ACTION and EV_SEPARATOR; PCRs 2 to 6 are RTMR1: UEFI
// 2.10 §38.4.1).
var (
	eventCalling   = sha512.Sum384([]byte("Calling EFI Application from Boot Option"))
	eventSeparator = sha512.Sum384(make([]byte, 4))
	eventExit      = sha512.Sum384([]byte("Exit Boot Services Invocation"))
	eventExited    = sha512.Sum384([]byte("Exit Boot Services Returned with Success"))
)

// rtmr1 lists what RTMR1 may be. OVMF loads the kernel, and so measures it, before
// it tells anyone that it is ready to boot; option ROMs, which would come first, it
// ignores in a trust domain. Two things depend on versions:
//   - the separator is in RTMR1 from edk2-stable202411 on. Before, there were two in
//     RTMR0 and none here (OvmfPkg/Tcg/TdTcg2Dxe, efaf8931bb);
//   - the kernel is measured as the file stands where QEMU is 10.2 or later, or OVMF
//     edk2-stable202502 or later, which reads QEMU's untouched copy
//     (etc/boot/kernel). Otherwise QEMU has filled in the setup header, as a boot
//     loader does: see loadedByQEMU. The kernel's EFI stub reads none of these
//     fields: since Linux 6.7 it makes its boot parameters from zero ("x86/efi:
//     Disregard setup header of loaded image"), and older ones have no values. So the
//     same code runs with the same line and initrd either way.
//
// A boot by way of shim and a retried ExitBootServices give other values, and are
// refused for it. An OVMF that measures nothing would leave the register empty, and
// the kernel free to make it what it should be: that is why it has no values.
func (l TDLaunch) rtmr1() ([][]byte, error) {
	loaded, err := loadedByQEMU(l.Kernel, l.MemoryMiB, l.InitrdSize)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, image := range [][]byte{l.Kernel, loaded} {
		kernel, err := ImageDigest(image)
		if err != nil {
			return nil, err
		}
		for _, v := range rtmr1Of(kernel) {
			if !contains(out, v) {
				out = append(out, v)
			}
		}
	}
	return out, nil
}

// rtmr1Of gives the values for one digest of the kernel: of firmware with a
// separator in RTMR1, and of older firmware.
//
// The kernel comes first in every one of them, and must in any that is ever added.
// OVMF has a loader for kernels that are no EFI applications, which runs what the
// host gives it and measures nothing (OvmfPkg/Library/X86QemuLoadImageLib); what
// comes to it has been told that the firmware is ready to boot, so that the register
// begins with eventCalling, and no register can be begun anew.
func rtmr1Of(kernel [48]byte) [][]byte {
	return [][]byte{
		extended(kernel, eventCalling, eventSeparator, eventExit, eventExited),
		extended(kernel, eventCalling, eventExit, eventExited),
	}
}

// extended is a register that began empty, after these digests.
func extended(digests ...[48]byte) []byte {
	var events []logEvent
	for _, d := range digests {
		events = append(events, logEvent{digest: d})
	}
	out := replay(events)[0]
	return bytes.Clone(out[:])
}
