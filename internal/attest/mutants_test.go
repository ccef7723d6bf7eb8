package attest

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"math/rand/v2"
)

// hostile makes evidence that somebody might send: real reports and certificates,
// bent in one to three ways.
type hostile struct {
	*rand.Rand
	samples []sample
	noise   [][]byte
}

// next returns a case and the sample that it began as.
func (h *hostile) next() (sample, Evidence) {
	s := h.samples[h.IntN(len(h.samples))]
	ev := Evidence{TEE: SEVSNP, Report: bytes.Clone(s.evidence.Report), Certificates: bytes.Clone(s.evidence.Certificates)}
	for range 1 + h.IntN(3) {
		if h.IntN(3) > 0 {
			h.bendReport(&ev)
		} else {
			h.bendCertificates(&ev)
		}
	}
	if h.IntN(200) == 0 {
		ev.TEE = TEE(h.bytes(h.IntN(40)))
	}
	if h.IntN(50) == 0 {
		ev.EventLog = h.bytes(h.IntN(4096))
	}
	return s, ev
}

func (h *hostile) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.Uint32())
	}
	return b
}

// fields are where those of a report begin and end.
var fields = [][2]int{
	{0x000, 0x004},
	{0x004, 0x008},
	{0x008, 0x010},
	{0x010, 0x020},
	{0x020, 0x030},
	{0x030, 0x034},
	{0x034, 0x038},
	{0x038, 0x040},
	{0x040, 0x048},
	{0x048, 0x04c},
	{0x04c, 0x050},
	{0x050, 0x090},
	{0x090, 0x0c0},
	{0x0c0, 0x0e0},
	{0x0e0, 0x110},
	{0x110, 0x140},
	{0x140, 0x160},
	{0x160, 0x180},
	{0x180, 0x188},
	{0x188, 0x18b},
	{0x18b, 0x1a0},
	{0x1a0, 0x1e0},
	{0x1e0, 0x1e8},
	{0x1e8, 0x1ec},
	{0x1ec, 0x1f0},
	{0x1f0, 0x1f8},
	{0x1f8, 0x200},
	{0x200, 0x208},
	{0x208, 0x2a0},
	{0x2a0, 0x2e8},
	{0x2e8, 0x330},
	{0x330, 0x4a0},
}

func (h *hostile) bendReport(ev *Evidence) {
	b := ev.Report
	if len(b) != 1184 {
		return
	}
	f := fields[h.IntN(len(fields))]
	field := b[f[0]:f[1]]
	other := h.samples[h.IntN(len(h.samples))].evidence.Report
	switch h.IntN(13) {
	case 0: // one bit
		b[h.IntN(len(b))] ^= 1 << h.IntN(8)
	case 1: // one byte of a field
		field[h.IntN(len(field))] = byte(h.Uint32())
	case 2:
		clear(field)
	case 3:
		for i := range field {
			field[i] = 0xff
		}
	case 4: // a field of another real report
		copy(field, other[f[0]:f[1]])
	case 5: // the signature of another real report
		copy(b[0x2a0:], other[0x2a0:])
	case 6: // the signed part of another real report
		copy(b[:0x2a0], other)
	case 7: // cut or prolonged
		if n := h.IntN(2 * len(b)); n <= len(b) {
			ev.Report = b[:n]
		} else {
			ev.Report = append(b, h.bytes(n-len(b))...)
		}
	case 8: // each TCB in turn
		for _, at := range []int{0x038, 0x180, 0x1e0, 0x1f0} {
			if h.IntN(2) == 0 {
				binary.LittleEndian.PutUint64(b[at:], h.Uint64()&0xff000000ffffffff)
			}
		}
	case 9: // versions and processors
		b[0] = byte(h.IntN(7))
		b[0x188], b[0x189] = []byte{0x19, 0x1a, 0x17, 0}[h.IntN(4)], byte(h.IntN(256))
	case 10: // key and platform information, guest policy
		b[0x048], b[0x040], b[0x00a] = byte(h.IntN(64)), byte(h.Uint32()), byte(h.Uint32())
	case 11: // the other of two good signatures
		negate(b)
	case 12: // a field of noise
		copy(field, h.bytes(len(field)))
	}
}

func (h *hostile) bendCertificates(ev *Evidence) {
	c := ev.Certificates
	if len(c) == 0 {
		return
	}
	switch h.IntN(10) {
	case 0:
		c[h.IntN(len(c))] ^= 1 << h.IntN(8)
	case 1:
		ev.Certificates = c[:h.IntN(len(c))]
	case 2: // another chip's
		ev.Certificates = bytes.Clone(h.samples[h.IntN(len(h.samples))].evidence.Certificates)
	case 3: // a chain of somebody's choice before or behind it
		extra := h.noise[h.IntN(len(h.noise))]
		if h.IntN(2) == 0 {
			ev.Certificates = append(bytes.Clone(extra), c...)
		} else {
			ev.Certificates = append(c, extra...)
		}
	case 4: // PEM, good or with its text bent
		ev.Certificates = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})
		if h.IntN(2) == 0 {
			ev.Certificates[h.IntN(len(ev.Certificates))] ^= 1 << h.IntN(7)
		}
	case 5: // a table, with offsets and lengths that may point anywhere
		entries := 1 + h.IntN(maxTableEntries+4)
		table := make([]byte, (entries+1)*24)
		for i := range entries {
			copy(table[i*24:], leafGUIDs[h.IntN(len(leafGUIDs))])
			offset, length := uint32(len(table)), uint32(len(c))
			if h.IntN(2) == 0 {
				offset, length = h.Uint32()>>h.IntN(32), h.Uint32()>>h.IntN(32)
			}
			binary.LittleEndian.PutUint32(table[i*24+16:], offset)
			binary.LittleEndian.PutUint32(table[i*24+20:], length)
		}
		ev.Certificates = append(table, c...)
	case 6: // DER lengths that promise more than there is
		at := h.IntN(min(len(c), 64))
		c[at] = 0x80 | byte(h.IntN(6))
	case 7: // many of them
		ev.Certificates = bytes.Repeat(c, 1+h.IntN(60))
	case 8: // nested to no end
		ev.Certificates = bytes.Repeat([]byte{0x30, 0x80}, 1+h.IntN(maxCertificatesBytes/2+2))
	case 9:
		ev.Certificates = h.bytes(h.IntN(4096))
	}
}
