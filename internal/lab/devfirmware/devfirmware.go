//go:build devtee

// Package devfirmware makes a firmware file that carries what a launch digest
// needs to know of OVMF: the GUID table at its end, the SEV metadata with a place
// for kernel hashes, the TDX metadata, and a firmware volume with the driver that
// measures in a trust domain. It is compiled into development builds only.
//
// The file holds no code, the driver is a text, and it boots nothing: under software emulation QEMU starts
// the guest with firmware of its own, while the simulated secure processor
// measures this file in its place. The bytes are the same on every call.
package devfirmware

import (
	"encoding/binary"
	"slices"
)

const (
	size     = 64 << 10
	tableEnd = 32
	// Where the guest's memory would hold the pages that the metadata names.
	memoryGPA, secretsGPA, cpuidGPA, hashesGPA = 0x800000, 0x80d000, 0x80e000, 0x810000
	hashesOffset                               = 0xc00
	resetEIP                                   = 0xfffff0b0
	// Where a trust domain would find what the host says of the machine.
	hobGPA = 0x809000
)

// GUIDs in the byte order in which firmware stores them.
var (
	footerGUID   = []byte{0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d}
	hashesGUID   = []byte{0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54}
	resetGUID    = []byte{0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e}
	tdxGUID      = []byte{0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2}
	metadataGUID = []byte{0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc}
	ffsGUID      = []byte{0x78, 0xe5, 0x8c, 0x8c, 0x3d, 0x8a, 0x1c, 0x4f, 0x99, 0x35, 0x89, 0x61, 0x85, 0xc3, 0x2d, 0xd3}
	driverGUID   = []byte{0x1e, 0x22, 0x62, 0xf0, 0x07, 0xc6, 0xc2, 0x44, 0xb0, 0xb4, 0xc3, 0x88, 0x63, 0x31, 0xd3, 0x51} // TdTcg2Dxe
	restGUID     = []byte{0x2e, 0x06, 0xa0, 0x1b, 0x79, 0xc7, 0x82, 0x45, 0x85, 0x66, 0x33, 0x6a, 0xe8, 0xf7, 0x8f, 0x09} // what OVMF calls its last file
)

// Generate returns the file.
func Generate() []byte {
	fw := volume()
	meta := words([]byte("ASEV"), 0, 1, 5)
	for _, s := range [][3]uint32{
		{memoryGPA, 0x9000, 1},
		{secretsGPA, 0x1000, 2},
		{cpuidGPA, 0x1000, 3},
		{0x80f000, 0x1000, 1},
		{hashesGPA, 0x1000, 0x10},
	} {
		meta = words(meta, s[0], s[1], s[2])
	}
	binary.LittleEndian.PutUint32(meta[4:], uint32(len(meta)))
	metaAt := size - 0x400
	copy(fw[metaAt:], meta)

	// The whole file is code of a trust domain, just below 4 GiB, and measured.
	tdx := words([]byte("TDVF"), 0, 1, 2)
	tdx = words(tdx, 0, size, 0x1_0000_0000-size, 0, size, 0, 0, 1)
	tdx = words(tdx, 0, 0, hobGPA, 0, 0x2000, 0, 2, 0)
	binary.LittleEndian.PutUint32(tdx[4:], uint32(len(tdx)))
	tdxAt := size - 0x300
	copy(fw[tdxAt:], tdx)

	// The table grows downwards from its footer; each entry ends with its length
	// and its name.
	table := entry(nil, words(nil, uint32(size-metaAt)), metadataGUID)
	table = entry(table, words(nil, uint32(size-tdxAt)), tdxGUID)
	table = entry(table, words(nil, hashesGPA+hashesOffset, 0x400), hashesGUID)
	table = entry(table, words(nil, resetEIP), resetGUID)
	table = binary.LittleEndian.AppendUint16(table, uint16(len(table)+18))
	table = append(table, footerGUID...)
	copy(fw[size-tableEnd-len(table):], table)
	return fw
}

// volume is the file as one firmware volume (UEFI PI specification, vol. 3, §3.2): the
// driver, and a file of zeros that takes the rest.
func volume() []byte {
	const (
		raw, driver, pe32 = 1, 7, 0x10
		fileHeader        = 24
	)
	fw := append(make([]byte, 16), ffsGUID...)
	fw = words(fw, size, 0)
	fw = append(fw, "_FVH"...)
	fw = words(fw, 0x0004feff, 72, 2<<24) // attributes; length, checksum and revision of the header
	fw = words(fw, 1, size, 0, 0)         // the block map
	var sum uint16
	for at := 0; at < len(fw); at += 2 {
		sum += binary.LittleEndian.Uint16(fw[at:])
	}
	binary.LittleEndian.PutUint16(fw[50:], -sum)

	text := "siestad development firmware: it boots nothing and protects nothing\n"
	section := append(words(nil, uint32(4+len(text))|pe32<<24), text...)
	fw = file(fw, driverGUID, driver, section)
	for len(fw)%8 != 0 {
		fw = append(fw, 0xff)
	}
	return file(fw, restGUID, raw, make([]byte, size-len(fw)-fileHeader))
}

func file(b, name []byte, kind uint32, contents []byte) []byte {
	h := words(slices.Clone(name), kind<<16, uint32(24+len(contents)))
	var sum byte
	for _, c := range h {
		sum += c
	}
	h[16], h[17], h[23] = -sum, 0xaa, 0xf8 // of the header; none of the contents; whole and not deleted
	return append(append(b, h...), contents...)
}

func words(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func entry(table, data, name []byte) []byte {
	table = append(table, data...)
	table = binary.LittleEndian.AppendUint16(table, uint16(len(data)+18))
	return append(table, name...)
}
