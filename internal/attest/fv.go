package attest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The registers of a trust domain begin empty, and whatever runs in its ring 0 can
// extend them: firmware that measures nothing would leave it to the host's kernel
// to extend them as if it were another. So no value is given for firmware unless
// its drivers show that it measures the kernel, and that the kernel's stub will
// measure line and initrd into RTMR2. Who approves firmware vouches for what the
// drivers do; here it is found out which there are.
var (
	// TdTcg2Dxe (edk2, OvmfPkg/Tcg/TdTcg2Dxe) provides EFI_CC_MEASUREMENT_PROTOCOL,
	// by which images are measured into RTMR1 before they run
	// (SecurityPkg/Library/DxeTpm2MeasureBootLib) and the stub extends RTMR2. It stops
	// the boot where it cannot.
	guidTdTcg2Dxe = newGUID(0xf062221e, 0xc607, 0x44c2, [8]byte{0xb0, 0xb4, 0xc3, 0x88, 0x63, 0x31, 0xd3, 0x51})
	// Tcg2Dxe (edk2, SecurityPkg/Tcg/Tcg2Dxe) provides EFI_TCG2_PROTOCOL where the host
	// attaches a TPM, and the stub prefers that. Nothing else of a TPM's does harm:
	// firmware itself prefers the other protocol, and Tcg2Pei and Tcg2ConfigPei
	// (OvmfPkg/Include/Fdf/OvmfTpmPei.fdf.inc) provide neither.
	guidTcg2Dxe = newGUID(0xfdff263d, 0x5f68, 0x4591, [8]byte{0x87, 0xba, 0xb7, 0x68, 0xf4, 0x45, 0xa9, 0xaf})
)

const firmwareToGive = "give an OVMF built from OvmfPkg/IntelTdx, with CC measurement and without TPM support"

// checkMeasuring refuses firmware that is not known to measure. What cannot be read
// to its end is refused as well: the driver of a TPM could be in the rest.
func checkMeasuring(sections []tdSection) error {
	var w fvWalk
	for _, s := range sections {
		if s.code {
			if err := w.volumes(s.data, 0); err != nil {
				return fmt.Errorf("reading firmware: what it measures cannot be told: %w; %s", err, firmwareToGive)
			}
		}
	}
	switch {
	case !w.measures:
		return errors.New("reading firmware: it has no driver TdTcg2Dxe (F062221E-C607-44C2-B0B4-C3886331D351), so it would run any kernel unmeasured; " + firmwareToGive)
	case w.tpm:
		return errors.New("reading firmware: it has the driver Tcg2Dxe (FDFF263D-5F68-4591-87BA-B768F445A9AF): with a TPM of the host's, line and initrd would not be measured into RTMR2; " + firmwareToGive)
	}
	return nil
}

// Layout of firmware volumes: UEFI Platform Initialization Specification 1.8, vol. 3,
// §3.2 (EFI_FIRMWARE_VOLUME_HEADER, EFI_FFS_FILE_HEADER, EFI_COMMON_SECTION_HEADER).
var (
	guidFFS2 = newGUID(0x8c8ce578, 0x8a3d, 0x4f1c, [8]byte{0x99, 0x35, 0x89, 0x61, 0x85, 0xc3, 0x2d, 0xd3})
	guidFFS3 = newGUID(0x5473c07a, 0x3dcb, 0x4dca, [8]byte{0xbd, 0x6f, 0x1e, 0x96, 0x89, 0xe7, 0x34, 0x9a})
	// guidLZMA is the one compression that edk2's OvmfPkg uses.
	guidLZMA = newGUID(0xee4e5898, 0x3914, 0x4259, [8]byte{0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf})
)

const (
	fvHeader     = 72 // with the shortest block map
	fvExtended   = 20 // a GUID, and the size of all
	fvErasedOnes = 0x800
	ffsHeader    = 24
	ffsLarge     = 0x01 // attribute: the header goes on with a size of 64 bits
	ffsChecked   = 0x40 // attribute: the contents have a checksum
	ffsUnchecked = 0xaa // what stands for it otherwise
	ffsValid     = 0x07 // state: header and contents are written, and not deleted

	ffsRaw, ffsPad        = 0x01, 0xf0 // contents that nobody reads as sections
	ffsDriver, ffsLast    = 0x07, 0x0f
	ffsVolume             = 0x0b // the one type whose volumes are read
	sectionGUIDed         = 0x02
	sectionPE32           = 0x10
	sectionVolume         = 0x17
	sectionLeaf0          = 0x10 // from here on contents are code, text or data,
	sectionLeaf1          = 0x1c // up to here, but for volumes
	sectionHeader, guided = 4, 20

	// A volume of OVMF has 150 files at most, is at the fourth level, and unpacks to
	// 16 MiB.
	maxFVDepth    = 8
	maxFVItems    = 1 << 14
	maxFVUnpacked = 64 << 20
)

// fvWalk goes through firmware volumes and all that they contain.
type fvWalk struct {
	items, unpacked int
	images          int  // PE32 sections
	measures, tpm   bool // TdTcg2Dxe and Tcg2Dxe were met
}

// count bounds the walk by what it meets.
func (w *fvWalk) count(depth int) error {
	if w.items++; w.items > maxFVItems || depth > maxFVDepth {
		return fmt.Errorf("more than %d files and sections, or more than %d levels", maxFVItems, maxFVDepth)
	}
	return nil
}

// volumes reads volumes that stand without a gap.
func (w *fvWalk) volumes(b []byte, depth int) error {
	for at := 0; at < len(b); {
		size, err := w.volume(b[at:], depth)
		if err != nil {
			return fmt.Errorf("volume at %#x: %w", at, err)
		}
		at += size
	}
	return nil
}

func (w *fvWalk) volume(b []byte, depth int) (int, error) {
	le := binary.LittleEndian
	if len(b) < fvHeader || !bytes.Equal(b[40:44], []byte("_FVH")) {
		return 0, errors.New("no firmware volume")
	}
	size, header := le.Uint64(b[32:]), int(le.Uint16(b[48:]))
	if size > uint64(len(b)) || header < fvHeader || header%2 != 0 || uint64(header) > size {
		return 0, errors.New("an impossible length")
	}
	var sum uint16
	for i := 0; i < header; i += 2 {
		sum += le.Uint16(b[i:])
	}
	system := guid(b[16:32])
	if sum != 0 || system != guidFFS2 && system != guidFFS3 {
		return 0, errors.New("a wrong checksum, or another file system than FFS2 and FFS3")
	}
	b = b[:size]
	erased := byte(0)
	if le.Uint32(b[44:])&fvErasedOnes != 0 {
		erased = 0xff
	}
	first := uint64(header)
	if ext := uint64(le.Uint16(b[52:])); ext != 0 {
		if ext < first || ext+fvExtended > size || uint64(le.Uint32(b[ext+16:])) > size-ext {
			return 0, errors.New("its extended header lies outside")
		}
		first = ext + uint64(le.Uint32(b[ext+16:]))
	}
	for at := alignUp(first, 8); at < size; {
		if blank(b[at:], erased) {
			break // free space
		}
		n, err := w.file(b[at:], erased, system == guidFFS3, depth)
		if err != nil {
			return 0, fmt.Errorf("file at %#x: %w", at, err)
		}
		at = alignUp(at+n, 8)
	}
	return int(size), nil
}

// file reads one file of a volume.
func (w *fvWalk) file(b []byte, erased byte, large bool, depth int) (uint64, error) {
	if err := w.count(depth); err != nil {
		return 0, err
	}
	if len(b) < ffsHeader {
		return 0, errors.New("cut short")
	}
	name, kind, attributes := guid(b[:16]), b[18], b[19]
	header, size := uint64(ffsHeader), uint24(b[20:])
	if attributes&ffsLarge != 0 {
		if header += 8; !large || uint64(len(b)) < header {
			return 0, errors.New("a large file where none can be")
		}
		size = binary.LittleEndian.Uint64(b[ffsHeader:])
	}
	if size < header || size > uint64(len(b)) {
		return 0, errors.New("an impossible length")
	}
	// The checksum of the header leaves out that of the contents, and the state.
	body := b[header:size]
	if sum8(b[:header])-b[17]-b[23] != 0 {
		return 0, errors.New("a wrong checksum of its header")
	}
	if attributes&ffsChecked != 0 && sum8(body)+b[17] != 0 || attributes&ffsChecked == 0 && b[17] != ffsUnchecked {
		return 0, errors.New("a wrong checksum of its contents")
	}
	if b[23]^erased != ffsValid {
		return 0, errors.New("deleted or half written")
	}
	w.tpm = w.tpm || name == guidTcg2Dxe
	switch {
	case kind == ffsRaw || kind == ffsPad:
		return size, nil
	case kind == 0 || kind > ffsLast:
		return 0, fmt.Errorf("of type %#x, which is unknown", kind)
	}
	images := w.images
	if err := w.sections(body, kind, depth); err != nil {
		return 0, err
	}
	w.measures = w.measures || name == guidTdTcg2Dxe && kind == ffsDriver && w.images > images
	return size, nil
}

// sections reads what a file of this type is made of.
func (w *fvWalk) sections(b []byte, of byte, depth int) error {
	for at := uint64(0); at < uint64(len(b)); {
		size, err := w.section(b[at:], of, depth)
		if err != nil {
			return fmt.Errorf("section at %#x: %w", at, err)
		}
		at = alignUp(at+size, 4)
	}
	return nil
}

func (w *fvWalk) section(b []byte, of byte, depth int) (uint64, error) {
	if err := w.count(depth); err != nil {
		return 0, err
	}
	if len(b) < sectionHeader {
		return 0, errors.New("cut short")
	}
	header, size, kind := uint64(sectionHeader), uint24(b), b[3]
	if size == 0xffffff {
		if header += 4; uint64(len(b)) < header {
			return 0, errors.New("cut short")
		}
		size = uint64(binary.LittleEndian.Uint32(b[sectionHeader:]))
	}
	if size < header || size > uint64(len(b)) {
		return 0, errors.New("an impossible length")
	}
	body := b[header:size]
	switch {
	case kind == sectionVolume && of != ffsVolume:
		return 0, fmt.Errorf("a volume in a file of type %#x, from which nothing would be run", of)
	case kind == sectionVolume:
		return size, w.volumes(body, depth+1)
	case kind == sectionGUIDed:
		if len(body) < guided || guid(body[:16]) != guidLZMA {
			return 0, errors.New("wrapped in a way that edk2's OvmfPkg does not use")
		}
		data := uint64(binary.LittleEndian.Uint16(body[16:]))
		if data < header+guided || data > size {
			return 0, errors.New("its contents lie outside")
		}
		unpacked, err := w.unpack(b[data:size])
		if err != nil {
			return 0, err
		}
		return size, w.sections(unpacked, of, depth+1)
	case kind < sectionLeaf0 || kind > sectionLeaf1:
		return 0, fmt.Errorf("of type %#x, which is unknown or compressed in a way that edk2's OvmfPkg does not use", kind)
	}
	if kind == sectionPE32 && len(body) > 0 {
		w.images++
	}
	return size, nil
}

// unpack reads LZMA with its header of 13 bytes: properties, size of the dictionary,
// size of what comes out. Both sizes are claims, and bounded before they are used.
func (w *fvWalk) unpack(b []byte) ([]byte, error) {
	if len(b) < lzma.HeaderLen {
		return nil, errors.New("unpacking LZMA: cut short")
	}
	dictionary, size := binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint64(b[5:])
	if dictionary > maxFVUnpacked || size > uint64(maxFVUnpacked-w.unpacked) {
		return nil, fmt.Errorf("unpacking LZMA: it says that it needs or makes more than %d MiB", maxFVUnpacked>>20)
	}
	w.unpacked += int(size)
	r, err := lzma.ReaderConfig{DictCap: maxFVUnpacked}.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("unpacking LZMA: %w", err)
	}
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, fmt.Errorf("unpacking LZMA: %w", err)
	}
	return out, nil
}

func alignUp(n, to uint64) uint64 { return (n + to - 1) / to * to }

func uint24(b []byte) uint64 { return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 }

// blank says that nobody has written here.
func blank(b []byte, erased byte) bool {
	for _, c := range b {
		if c != erased {
			return false
		}
	}
	return true
}

func sum8(b []byte) (sum byte) {
	for _, c := range b {
		sum += c
	}
	return sum
}
