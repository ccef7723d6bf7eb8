package attest

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

// The TDX metadata of firmware: Intel TDX Virtual Firmware Design Guide (344991),
// "TDVF descriptor" and "TDVF section". Its place is in the GUID table.
var (
	guidTDXMetadata   = newGUID(0xe47a6535, 0x984a, 0x4798, [8]byte{0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2})
	tdMetadataMagic   = []byte("TDVF")
	tdMetadataHeader  = 16
	tdMetadataItem    = 32
	tdMetadataVersion = uint32(1)
)

const (
	tdSectionCode   = 0 // BFV: the boot firmware volume
	tdSectionConfig = 1 // CFV: the configuration volume
	tdSectionHOB    = 2 // what the host says of the machine
	tdSectionTemp   = 3 // zeros

	tdExtend = 1 // MR.EXTEND: the contents are measured, not only the addresses

	// maxTDBytes bounds all sections together, and with it the work.
	maxTDBytes = maxFirmwareBytes
)

// tdSection is a range of guest memory that exists before the guest runs.
type tdSection struct {
	gpa, size uint64
	data      []byte // nil: zeros
	extend    bool
	code      bool
}

// tdSections reads the TDX metadata. It is as strict as QEMU (hw/i386/tdvf.c), and
// stricter where hosts could do different things, or where firmware would run that
// nobody measured.
func tdSections(data []byte) ([]tdSection, error) {
	if err := checkFirmwareSize(data); err != nil {
		return nil, err
	}
	table, err := guidTable(data)
	if err != nil {
		return nil, err
	}
	fromEnd, err := tableWord(table, guidTDXMetadata)
	switch {
	case err != nil:
		return nil, err
	case fromEnd == 0:
		return nil, errors.New("reading firmware: no TDX metadata; give the file that the host boots trust domains with, such as OVMF.inteltdx.fd (OvmfPkg/IntelTdx)")
	case uint64(fromEnd) > uint64(len(data)) || int(fromEnd) < tdMetadataHeader:
		return nil, errors.New("reading firmware: the TDX metadata lies outside the file")
	}
	le := binary.LittleEndian
	meta := data[len(data)-int(fromEnd):]
	size, version, items := le.Uint32(meta[4:]), le.Uint32(meta[8:]), le.Uint32(meta[12:])
	if !bytes.Equal(meta[:4], tdMetadataMagic) || version != tdMetadataVersion {
		return nil, errors.New("reading firmware: the TDX metadata has another signature or version")
	}
	if items > maxSections || uint64(size) > uint64(len(meta)) || uint64(size) != uint64(tdMetadataHeader)+uint64(items)*uint64(tdMetadataItem) {
		return nil, errors.New("reading firmware: the TDX metadata has an impossible length")
	}
	var out []tdSection
	var total uint64
	var code, hobs int
	for i := range int(items) {
		item := meta[tdMetadataHeader+i*tdMetadataItem:]
		offset, raw := uint64(le.Uint32(item)), uint64(le.Uint32(item[4:]))
		kind, attributes := le.Uint32(item[24:]), le.Uint32(item[28:])
		s := tdSection{gpa: le.Uint64(item[8:]), size: le.Uint64(item[16:]), extend: attributes == tdExtend, code: kind == tdSectionCode}
		bad := func(what string) ([]tdSection, error) {
			return nil, fmt.Errorf("reading firmware: TDX metadata section %d %s", i, what)
		}
		if s.gpa%pageSize != 0 || s.size%pageSize != 0 || s.size == 0 || s.gpa > fourGiB || s.size > fourGiB-s.gpa {
			return bad("is not made of pages below 4 GiB")
		}
		if total += s.size; total > maxTDBytes {
			return bad(fmt.Sprintf("makes more than %d MiB", maxTDBytes>>20))
		}
		if attributes&^tdExtend != 0 {
			return bad(fmt.Sprintf("has attributes that QEMU does not heed: %#x", attributes))
		}
		switch kind {
		case tdSectionCode, tdSectionConfig:
			// QEMU copies as many bytes as the section has memory, from a whole page.
			if raw != s.size || offset%pageSize != 0 || offset+raw > uint64(len(data)) {
				return bad("is no range of pages of the file")
			}
			s.data = data[offset : offset+raw]
			if s.code {
				if code++; !s.extend {
					return bad("is code that is not measured: such firmware could be anything")
				}
			}
		case tdSectionHOB, tdSectionTemp:
			if raw != 0 {
				return bad("has bytes in the file, and is of a kind that has none")
			}
			if kind == tdSectionHOB {
				if hobs++; s.extend {
					return bad("measures what the host says of the machine: no value can be computed for it")
				}
			}
		default:
			return bad(fmt.Sprintf("is of kind %d, which QEMU refuses", kind))
		}
		out = append(out, s)
	}
	if code == 0 || hobs != 1 {
		return nil, errors.New("reading firmware: the TDX metadata has not code and one place for what the host says of the machine")
	}
	return out, nil
}

// mrtd computes the measurement of a trust domain at launch (Intel TDX Module Base
// Architecture, "MRTD: Build-Time Measurement Register"; ABI, TDH.MEM.PAGE.ADD and
// TDH.MR.EXTEND). It is one SHA-384 over all pages, so their order counts. QEMU 10.1
// goes through the sections as they stand, with one KVM_TDX_INIT_MEM_REGION each
// (target/i386/kvm/tdx.c), and KVM through a section page by page: it adds the page
// and, if the section says so, extends by its contents before it adds the next
// (Linux 6.16, arch/x86/kvm/vmx/tdx.c). The hosts of before, with patched kernels,
// added all pages of a section and then extended by all; their values differ, and
// no Nova that launches trust domains runs on them.
func mrtd(sections []tdSection) [48]byte {
	const chunk = 256
	h := sha512.New384()
	operation := func(name string, gpa uint64) {
		var b [128]byte
		copy(b[:], name)
		binary.LittleEndian.PutUint64(b[16:], gpa)
		h.Write(b[:])
	}
	zeros := make([]byte, pageSize)
	for _, s := range sections {
		for at := uint64(0); at < s.size; at += pageSize {
			operation("MEM.PAGE.ADD", s.gpa+at)
			if !s.extend {
				continue
			}
			page := zeros
			if s.data != nil {
				page = s.data[at : at+pageSize]
			}
			for i := uint64(0); i < pageSize; i += chunk {
				operation("MR.EXTEND", s.gpa+at+i)
				h.Write(page[i : i+chunk])
			}
		}
	}
	return [48]byte(h.Sum(nil))
}
