package attest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	pageSize = 4096
	fourGiB  = 1 << 32
	// maxFirmwareBytes is far above any OVMF, and keeps its pages below 4 GiB.
	maxFirmwareBytes = 64 << 20
	// maxSectionBytes and maxSections bound the work that firmware metadata can ask
	// for; the largest section of known firmware is below 1 MiB.
	maxSectionBytes = 16 << 20
	maxSections     = 64
	maxTableSteps   = 64
	// The GUID table grows down from 32 bytes below the end of the firmware.
	tableEnd    = 32
	tableHeader = 2 + 16
)

// guid is a GUID in the byte order in which firmware stores it.
type guid [16]byte

// newGUID puts the parts of a written GUID in stored order: the first three
// little-endian, the rest as it stands.
func newGUID(a uint32, b, c uint16, rest [8]byte) (g guid) {
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], rest[:])
	return g
}

var (
	guidTableFooter  = newGUID(0x96b582de, 0x1fb2, 0x45f7, [8]byte{0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d})
	guidHashTable    = newGUID(0x7255371f, 0x3a3b, 0x4b04, [8]byte{0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54})
	guidResetBlock   = newGUID(0x00f771de, 0x1a7e, 0x4fcb, [8]byte{0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e})
	guidSEVMetadata  = newGUID(0xdc886566, 0x984a, 0x4798, [8]byte{0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc})
	metadataMagic    = []byte("ASEV")
	metadataHeader   = 16
	metadataItem     = 12
	metadataRevision = uint32(1)
)

// Kinds of sections in the SEV metadata of the firmware.
const (
	sectionMemory       = 1
	sectionSecrets      = 2
	sectionCPUID        = 3
	sectionSVSMCaa      = 4
	sectionKernelHashes = 0x10
)

type section struct{ gpa, size, kind uint32 }

// firmware is what the launch digest needs to know of an OVMF file.
type firmware struct {
	data     []byte
	gpa      uint64
	sections []section
	// resetEIP is where the other processors start; hashesGPA is the address of the
	// table of kernel hashes. Zero means that the firmware does not say.
	resetEIP, hashesGPA uint32
}

// parseFirmware reads the GUID table and the SEV metadata. Every offset comes
// from the file and is checked against it.
func parseFirmware(data []byte) (*firmware, error) {
	if err := checkFirmwareSize(data); err != nil {
		return nil, err
	}
	table, err := guidTable(data)
	if err != nil {
		return nil, err
	}
	fw := &firmware{data: data, gpa: uint64(fourGiB - len(data))}
	if fw.resetEIP, err = tableWord(table, guidResetBlock); err != nil {
		return nil, err
	}
	if fw.hashesGPA, err = tableWord(table, guidHashTable); err != nil {
		return nil, err
	}
	offset, err := tableWord(table, guidSEVMetadata)
	if err != nil {
		return nil, err
	}
	if offset == 0 {
		return nil, errors.New("reading firmware: no SEV metadata; this is no OVMF for SEV-SNP")
	}
	fw.sections, err = sevMetadata(data, offset)
	return fw, err
}

func checkFirmwareSize(data []byte) error {
	if len(data) == 0 || len(data) > maxFirmwareBytes || len(data)%pageSize != 0 {
		return fmt.Errorf("reading firmware: %d bytes is no whole number of pages up to %d MiB", len(data), maxFirmwareBytes>>20)
	}
	return nil
}

// guidTable walks the table of a file of at least one page from its footer upwards:
// data, le16 length of the whole entry, GUID.
func guidTable(data []byte) (map[guid][]byte, error) {
	footer := len(data) - tableEnd - tableHeader
	if !bytes.Equal(data[footer+2:footer+tableHeader], guidTableFooter[:]) {
		return nil, errors.New("reading firmware: no GUID table at its end")
	}
	size := int(binary.LittleEndian.Uint16(data[footer:])) - tableHeader
	if size < 0 || size > footer {
		return nil, errors.New("reading firmware: the GUID table is larger than the file")
	}
	rest := data[footer-size : footer]
	table := make(map[guid][]byte)
	for steps := 0; len(rest) >= tableHeader; steps++ {
		if steps == maxTableSteps {
			return nil, fmt.Errorf("reading firmware: more than %d entries in the GUID table", maxTableSteps)
		}
		head := rest[len(rest)-tableHeader:]
		length := int(binary.LittleEndian.Uint16(head))
		if length < tableHeader || length > len(rest) {
			return nil, errors.New("reading firmware: a GUID table entry has an impossible length")
		}
		// Of two entries with one name the one farther from the footer counts.
		table[guid(head[2:])] = rest[len(rest)-length : len(rest)-tableHeader]
		rest = rest[:len(rest)-length]
	}
	return table, nil
}

func tableWord(table map[guid][]byte, name guid) (uint32, error) {
	entry, ok := table[name]
	if !ok {
		return 0, nil
	}
	if len(entry) < 4 {
		return 0, errors.New("reading firmware: a GUID table entry is too short")
	}
	return binary.LittleEndian.Uint32(entry), nil
}

func sevMetadata(data []byte, fromEnd uint32) ([]section, error) {
	if uint64(fromEnd) > uint64(len(data)) || int(fromEnd) < metadataHeader {
		return nil, errors.New("reading firmware: the SEV metadata lies outside the file")
	}
	meta := data[len(data)-int(fromEnd):]
	size, revision, items := binary.LittleEndian.Uint32(meta[4:]), binary.LittleEndian.Uint32(meta[8:]), binary.LittleEndian.Uint32(meta[12:])
	if !bytes.Equal(meta[:4], metadataMagic) || revision != metadataRevision {
		return nil, errors.New("reading firmware: the SEV metadata has another signature or version")
	}
	if items > maxSections || uint64(size) > uint64(len(meta)) || uint64(size) < uint64(metadataHeader)+uint64(items)*uint64(metadataItem) {
		return nil, errors.New("reading firmware: the SEV metadata has an impossible length")
	}
	var out []section
	for i := range int(items) {
		item := meta[metadataHeader+i*metadataItem:]
		s := section{binary.LittleEndian.Uint32(item), binary.LittleEndian.Uint32(item[4:]), binary.LittleEndian.Uint32(item[8:])}
		if s.gpa%pageSize != 0 || s.size%pageSize != 0 || s.size > maxSectionBytes || uint64(s.gpa)+uint64(s.size) > fourGiB {
			return nil, fmt.Errorf("reading firmware: SEV metadata section %d is not made of pages below 4 GiB", i)
		}
		out = append(out, s)
	}
	return out, nil
}
