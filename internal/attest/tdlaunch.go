package attest

import "errors"

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
	MemoryMiB   int
}

// TDReference are the reference values of a launch, for use in TDXPolicy and to
// find a policy by evidence that nobody has judged.
type TDReference struct {
	MRTD [48]byte
	// RTMR1 and RTMR2 list the values that each may have; see ReferenceOf.
	RTMR1, RTMR2 [][]byte
}

// Reference computes the reference values of a launch.
func (l TDLaunch) Reference() (TDReference, error) {
	return TDReference{}, errors.New("computing reference values of a trust domain: not yet")
}
