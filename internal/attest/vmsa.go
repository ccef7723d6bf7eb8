package attest

import "encoding/binary"

// The first instruction of the first processor: the reset vector below 4 GiB.
const resetVector = 0xfffffff0

// vmsaPage is the initial state of one virtual processor as QEMU/KVM hands it to
// the firmware: real mode at the reset vector, registers as after INIT. Offsets
// are those of the save area in the AMD64 manual, volume 2, table B-4. What is
// not set is zero.
func vmsaPage(eip, cpuSignature uint32, features uint64) []byte {
	page := make([]byte, pageSize)
	le := binary.LittleEndian
	segment := func(at int, selector, attributes uint16, base uint64) {
		le.PutUint16(page[at:], selector)
		le.PutUint16(page[at+2:], attributes)
		le.PutUint32(page[at+4:], 0xffff) // every limit is that of real mode
		le.PutUint64(page[at+8:], base)
	}
	const data, code, ldt, busyTSS = 0x93, 0x9b, 0x82, 0x8b
	segment(0x00, 0, data, 0)                           // ES
	segment(0x10, 0xf000, code, uint64(eip&0xffff0000)) // CS
	for _, at := range []int{0x20, 0x30, 0x40, 0x50} {  // SS, DS, FS, GS
		segment(at, 0, data, 0)
	}
	segment(0x60, 0, 0, 0)       // GDTR
	segment(0x70, 0, ldt, 0)     // LDTR
	segment(0x80, 0, 0, 0)       // IDTR
	segment(0x90, 0, busyTSS, 0) // TR

	le.PutUint64(page[0x0d0:], 0x1000)               // EFER: KVM sets SVME
	le.PutUint64(page[0x148:], 0x40)                 // CR4: KVM sets MCE
	le.PutUint64(page[0x158:], 0x10)                 // CR0
	le.PutUint64(page[0x160:], 0x400)                // DR7
	le.PutUint64(page[0x168:], 0xffff0ff0)           // DR6
	le.PutUint64(page[0x170:], 0x2)                  // RFLAGS
	le.PutUint64(page[0x178:], uint64(eip&0xffff))   // RIP
	le.PutUint64(page[0x268:], 0x0007040600070406)   // PAT at reset
	le.PutUint64(page[0x310:], uint64(cpuSignature)) // RDX: CPUID signature after INIT
	le.PutUint64(page[0x3b0:], features)             // SEV_FEATURES
	le.PutUint64(page[0x3e8:], 0x1)                  // XCR0
	le.PutUint32(page[0x408:], 0x1f80)               // MXCSR
	le.PutUint16(page[0x410:], 0x37f)                // x87 control word
	return page
}
