package attest

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// Bounds of a kernel file; that of Debian has 9 MiB and six sections.
const (
	maxKernelBytes    = 256 << 20
	maxImageSections  = 96
	maxImageEntries   = 16
	imageSectionBytes = 40
)

// ImageDigest is the digest with which UEFI firmware measures an EFI application
// before it runs it: PE/COFF Authenticode over SHA-384, without the checksum, the
// entry for the signature and the signature (Microsoft, "Windows Authenticode
// Portable Executable Signature Format", calculating the PE image hash; edk2,
// OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c). Images whose parts overlap are
// refused, though firmware would measure them: no kernel is built so.
func ImageDigest(image []byte) ([48]byte, error) {
	fail := func(what string) ([48]byte, error) {
		return [48]byte{}, fmt.Errorf("reading kernel: %s", what)
	}
	const (
		dosHeader  = 0x40
		fileHeader = 4 + 20    // with the signature
		fixed      = 112       // the PE32+ optional header up to its directory
		checksum   = 64        // in the optional header, as are:
		headers    = 60        // the size of all headers
		entries    = 108       // how many entries the directory has
		security   = 112 + 4*8 // the fifth of them: the signature's place and size
	)
	le := binary.LittleEndian
	if len(image) > maxKernelBytes {
		return fail(fmt.Sprintf("more than %d MiB", maxKernelBytes>>20))
	}
	if len(image) < dosHeader || image[0] != 'M' || image[1] != 'Z' {
		return fail("no EFI application: the kernel must be built with CONFIG_EFI_STUB")
	}
	size := uint64(len(image))
	pe := uint64(le.Uint32(image[0x3c:]))
	if pe+fileHeader+fixed > size {
		return fail("its PE header lies outside the file")
	}
	head := image[pe:]
	if !bytes.Equal(head[:4], []byte("PE\x00\x00")) || le.Uint16(head[4:]) != 0x8664 || le.Uint16(head[fileHeader:]) != 0x20b {
		return fail("no EFI application for x86-64")
	}
	sections, optional := uint64(le.Uint16(head[6:])), uint64(le.Uint16(head[20:]))
	opt := pe + fileHeader
	directory := uint64(le.Uint32(image[opt+entries:]))
	if directory < 5 || directory > maxImageEntries || optional != fixed+8*directory || sections > maxImageSections {
		return fail("its PE header has no room for a signature, or an impossible length")
	}
	table := opt + optional
	end := uint64(le.Uint32(image[opt+headers:]))
	if end > size || table+sections*imageSectionBytes > end {
		return fail("its section headers lie outside its headers, or those outside the file")
	}
	h := sha512.New384()
	h.Write(image[:opt+checksum])
	h.Write(image[opt+checksum+4 : opt+security])
	h.Write(image[opt+security+8 : end])

	type extent struct{ at, size uint64 }
	var parts []extent
	for i := range sections {
		s := image[table+i*imageSectionBytes:]
		if p := (extent{uint64(le.Uint32(s[20:])), uint64(le.Uint32(s[16:]))}); p.size > 0 {
			parts = append(parts, p)
		}
	}
	slices.SortFunc(parts, func(a, b extent) int { return cmp.Compare(a.at, b.at) })
	hashed, last := end, end
	for _, p := range parts {
		if p.at < last || p.at+p.size > size {
			return fail("its sections overlap, or lie outside the file")
		}
		h.Write(image[p.at : p.at+p.size])
		hashed, last = hashed+p.size, p.at+p.size
	}
	// What follows counts too, but for the signature.
	signature := uint64(le.Uint32(image[opt+security+4:]))
	if hashed < size {
		if signature > size-hashed {
			return fail("its signature is larger than what follows its sections")
		}
		h.Write(image[hashed : size-signature])
	}
	return [48]byte(h.Sum(nil)), nil
}

// Fields of the setup header (Linux, Documentation/arch/x86/boot.rst).
const (
	setupSectors   = 0x1f1
	setupMagic     = 0x202 // "HdrS"
	setupVersion   = 0x206
	setupText      = 0x20e // kernel_version: where a text with it stands, from 0x200
	setupLoader    = 0x210 // type_of_loader
	setupFlags     = 0x211 // loadflags
	setupInitrd    = 0x218 // ramdisk_image
	setupInitrdLen = 0x21c // ramdisk_size
	setupHeapEnd   = 0x224 // heap_end_ptr
	setupLine      = 0x228 // cmd_line_ptr
	setupInitrdMax = 0x22c // initrd_addr_max
	setupXFlags    = 0x236 // xloadflags
	setupEnd       = 0x268

	loadedHigh   = 0x01
	canUseHeap   = 0x80
	canBeAbove4G = 0x02
	// oldestSetup is the version of the header since Linux 5.5; guests of TDX are 5.19
	// or later.
	oldestSetup = 0x020f
)

// setupCode is the kernel up to the end of its setup code, which begins with the
// header, of a kernel that QEMU boots directly.
func setupCode(kernel []byte) ([]byte, error) {
	le := binary.LittleEndian
	switch {
	case len(kernel) > maxKernelBytes:
		return nil, fmt.Errorf("reading kernel: more than %d MiB", maxKernelBytes>>20)
	case len(kernel) < setupEnd || !bytes.Equal(kernel[setupMagic:setupMagic+4], []byte("HdrS")):
		return nil, errors.New("reading kernel: no Linux kernel that QEMU boots directly (bzImage)")
	case le.Uint16(kernel[setupVersion:]) < oldestSetup || kernel[setupFlags]&loadedHigh == 0:
		return nil, errors.New("reading kernel: it is older than any that runs in a trust domain; Linux 6.9 or later is needed")
	}
	sectors := int(kernel[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	if (sectors+1)*512 > len(kernel) {
		return nil, errors.New("reading kernel: its setup code is longer than the file")
	}
	return kernel[:(sectors+1)*512], nil
}

// versionText is how a kernel calls itself: "6.12.94-cloud-amd64 (user@host) #1 ...".
var versionText = regexp.MustCompile(`^([1-9][0-9]?)\.([0-9]{1,3})(?:[^0-9]|$)`)

// checkKernelVersion refuses kernels whose EFI stub does not measure line and initrd
// into RTMR2: those before Linux 6.9 ("efi/libstub: Measure into CC protocol if TCG2
// protocol is absent"). The version is the kernel's own word, as all of its code is:
// who approves the file vouches for both.
func checkKernelVersion(kernel []byte) error {
	setup, err := setupCode(kernel)
	if err != nil {
		return err
	}
	refuse := func(what string) error {
		return fmt.Errorf("reading kernel: %s; give Linux 6.9 or later, which measures line and initrd into RTMR2 before it reads them", what)
	}
	// Zero is no text. The boot protocol has it within the setup code.
	at := int(binary.LittleEndian.Uint16(setup[setupText:]))
	if at += 0x200; at == 0x200 || at >= len(setup) {
		return refuse("it does not say its version, or says it outside its setup code")
	}
	text, _, ended := bytes.Cut(setup[at:], []byte{0})
	v := versionText.FindSubmatch(text)
	if !ended || v == nil {
		return refuse("its version cannot be read")
	}
	// Of at most three digits each: they cannot fail.
	major, _ := strconv.Atoi(string(v[1]))
	minor, _ := strconv.Atoi(string(v[2]))
	if major < 6 || major == 6 && minor < 9 {
		return refuse(fmt.Sprintf("it is Linux %d.%d", major, minor))
	}
	return nil
}

// loadedByQEMU is the kernel as QEMU up to 10.1 hands it to the firmware of a trust
// domain: with the setup header filled in as a boot loader does (hw/i386/x86-common.c,
// x86_load_linux; it stopped doing so with a7542a38f3). The initrd's address, which
// nobody uses, depends on its size and on the memory below 4 GiB of a q35 machine
// (hw/i386/pc_q35.c).
func loadedByQEMU(kernel []byte, memoryMiB int, initrd int64) ([]byte, error) {
	if _, err := setupCode(kernel); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	const (
		realAddress, lineAddress = 0x10000, 0x20000
		acpiBytes                = 0x28000 // what QEMU keeps free for tables
		split                    = 0xb0000000
		lowOfSplit               = 0x80000000
	)
	low := uint64(memoryMiB) << 20
	if low >= split {
		low = lowOfSplit
	}
	top := uint64(le.Uint32(kernel[setupInitrdMax:]))
	if le.Uint16(kernel[setupXFlags:])&canBeAbove4G != 0 {
		top = 1<<32 - 1
	}
	top = min(top, low-acpiBytes-1)
	if uint64(initrd) >= top {
		return nil, fmt.Errorf("an initrd of %d bytes has no room in %d MiB of memory", initrd, memoryMiB)
	}
	out := bytes.Clone(kernel)
	out[setupLoader] = 0xb0 // QEMU
	out[setupFlags] |= canUseHeap
	le.PutUint16(out[setupHeapEnd:], lineAddress-realAddress-0x200)
	le.PutUint32(out[setupLine:], lineAddress)
	le.PutUint32(out[setupInitrd:], uint32((top-uint64(initrd))&^(pageSize-1)))
	le.PutUint32(out[setupInitrdLen:], uint32(initrd))
	return out, nil
}
