//go:build devtee

// Package devfirmware makes a firmware file that carries what a launch digest
// needs to know of OVMF: the GUID table at its end, the SEV metadata with a place
// for kernel hashes, and the TDX metadata. It is compiled into development builds
// only.
//
// The file holds no code and boots nothing: under software emulation QEMU starts
// the guest with firmware of its own, while the simulated secure processor
// measures this file in its place. The bytes are the same on every call.
package devfirmware

import "encoding/binary"

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
)

// Generate returns the file.
func Generate() []byte {
	fw := make([]byte, size)
	copy(fw, "siestad development firmware: it boots nothing and protects nothing\n")

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
