package attest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxAppend is the longest command line that may be measured. Nova cuts image
// properties there, so that a longer line would change with the first hard reboot.
const MaxAppend = 255

// DigestVersion names what LaunchDigest computes: it changes when the same input gives another digest.
const DigestVersion = "1"

// maxVCPUs is the most that QEMU starts.
const maxVCPUs = 1024

// DigestInput is everything that enters the launch digest of a guest that
// QEMU/KVM boots directly from kernel, initrd and command line.
type DigestInput struct {
	// Firmware is the whole OVMF file.
	Firmware []byte
	// KernelSHA256 is nil for a guest that boots from its disk, whose kernel then
	// is not in the digest. InitrdSHA256 nil means no initrd.
	KernelSHA256, InitrdSHA256 *[32]byte
	// Append is the kernel command line without its final NUL.
	Append string
	VCPUs  int
	// VCPUSig is the CPUID signature of the virtual CPU model.
	VCPUSig uint32
	// GuestFeatures is SEV_FEATURES, 1 for plain SNP.
	GuestFeatures uint64
}

// Types of pages in the digest, and the address under which the firmware of the
// platform records the state of processors.
const (
	pageNormal  = 1
	pageVMSA    = 2
	pageZero    = 3
	pageSecrets = 5
	pageCPUID   = 6
	vmsaGPA     = 0xfffffffff000
)

var (
	guidHashesHeader  = newGUID(0x9438d606, 0x4f22, 0x4cc9, [8]byte{0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21})
	guidHashesAppend  = newGUID(0x97d02dd8, 0xbd20, 0x4c94, [8]byte{0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a})
	guidHashesInitrd  = newGUID(0x44baf731, 0x3a2f, 0x4bd7, [8]byte{0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d})
	guidHashesKernel  = newGUID(0x4de79437, 0xabd2, 0x427f, [8]byte{0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b})
	hashesEntryLength = 16 + 2 + sha256.Size
	hashesTableLength = 16 + 2 + 3*hashesEntryLength
)

// LaunchDigest computes the measurement that the SEV-SNP report of such a guest
// carries. It is the same arithmetic as that of the platform's firmware over the
// pages that QEMU adds, in its order: firmware, metadata sections, processors.
func LaunchDigest(in DigestInput) ([48]byte, error) {
	fail := func(err error) ([48]byte, error) {
		return [48]byte{}, fmt.Errorf("computing launch digest: %w", err)
	}
	if in.VCPUs < 1 || in.VCPUs > maxVCPUs {
		return fail(fmt.Errorf("%d virtual processors", in.VCPUs))
	}
	if len(in.Append) > MaxAppend {
		return fail(fmt.Errorf("the command line has %d bytes, more than %d", len(in.Append), MaxAppend))
	}
	for i := range len(in.Append) {
		if in.Append[i] == 0 {
			return fail(errors.New("the command line holds a NUL"))
		}
	}
	if in.KernelSHA256 == nil && (in.InitrdSHA256 != nil || in.Append != "") {
		return fail(errors.New("an initrd or command line without a kernel would not be measured"))
	}
	fw, err := parseFirmware(in.Firmware)
	if err != nil {
		return fail(err)
	}
	var hashes []byte
	if in.KernelSHA256 != nil {
		if hashes, err = fw.hashesPage(in); err != nil {
			return fail(err)
		}
	}
	var d launch
	d.pages(fw.gpa, fw.data)
	for _, s := range fw.sections {
		if err := d.section(s, hashes); err != nil {
			return fail(err)
		}
	}
	if in.VCPUs > 1 && fw.resetEIP == 0 {
		return fail(errors.New("the firmware does not say where further processors start"))
	}
	first := sha512.Sum384(vmsaPage(resetVector, in.VCPUSig, in.GuestFeatures))
	others := sha512.Sum384(vmsaPage(fw.resetEIP, in.VCPUSig, in.GuestFeatures))
	d.add(pageVMSA, vmsaGPA, first)
	for range in.VCPUs - 1 {
		d.add(pageVMSA, vmsaGPA, others)
	}
	return d.digest, nil
}

// hashesPage is the page in which QEMU leaves the hashes of kernel, initrd and
// command line for the firmware to check. The line is hashed with its NUL.
func (fw *firmware) hashesPage(in DigestInput) ([]byte, error) {
	var target *section
	for i, s := range fw.sections {
		if s.kind != sectionKernelHashes {
			continue
		}
		if target != nil {
			return nil, errors.New("the firmware has two places for kernel hashes")
		}
		target = &fw.sections[i]
	}
	if target == nil || fw.hashesGPA == 0 {
		return nil, errors.New("the firmware has no place for kernel hashes: it would boot a kernel unmeasured")
	}
	offset := int(fw.hashesGPA % pageSize)
	if target.size != pageSize || offset+hashesTableLength > pageSize {
		return nil, errors.New("the table of kernel hashes does not fit its page")
	}
	initrd := sha256.Sum256(nil)
	if in.InitrdSHA256 != nil {
		initrd = *in.InitrdSHA256
	}
	page := make([]byte, pageSize)
	table := append(page[:offset], guidHashesHeader[:]...)
	table = binary.LittleEndian.AppendUint16(table, uint16(hashesTableLength))
	for _, e := range []struct {
		name guid
		sum  [32]byte
	}{
		{guidHashesAppend, sha256.Sum256(append([]byte(in.Append), 0))},
		{guidHashesInitrd, initrd},
		{guidHashesKernel, *in.KernelSHA256},
	} {
		table = append(table, e.name[:]...)
		table = binary.LittleEndian.AppendUint16(table, uint16(hashesEntryLength))
		table = append(table, e.sum[:]...)
	}
	return page, nil
}

// launch is the running digest of a launch.
type launch struct{ digest [48]byte }

// add measures one page: the digest so far, the hash of the page's contents, and
// where and as what it is put. Permissions of the lower privilege levels are zero.
func (d *launch) add(kind byte, gpa uint64, contents [48]byte) {
	const infoLength = 0x70
	var info [infoLength]byte
	copy(info[0:], d.digest[:])
	copy(info[48:], contents[:])
	binary.LittleEndian.PutUint16(info[96:], infoLength)
	info[98] = kind
	binary.LittleEndian.PutUint64(info[104:], gpa)
	d.digest = sha512.Sum384(info[:])
}

func (d *launch) pages(gpa uint64, data []byte) {
	for at := 0; at < len(data); at += pageSize {
		d.add(pageNormal, gpa+uint64(at), sha512.Sum384(data[at:at+pageSize]))
	}
}

// section measures one section of the metadata. The hashes page is nil when no
// kernel is given.
func (d *launch) section(s section, hashes []byte) error {
	switch {
	case s.kind == sectionMemory, s.kind == sectionSVSMCaa, s.kind == sectionKernelHashes && hashes == nil:
		for at := uint32(0); at < s.size; at += pageSize {
			d.add(pageZero, uint64(s.gpa)+uint64(at), [48]byte{})
		}
	case s.kind == sectionKernelHashes:
		d.pages(uint64(s.gpa), hashes)
	case s.kind == sectionSecrets:
		d.add(pageSecrets, uint64(s.gpa), [48]byte{})
	case s.kind == sectionCPUID:
		d.add(pageCPUID, uint64(s.gpa), [48]byte{})
	default:
		return fmt.Errorf("SEV metadata section of unknown kind %#x", s.kind)
	}
	return nil
}
