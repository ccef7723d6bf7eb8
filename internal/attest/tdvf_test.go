package attest

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// tdItem is a section as it stands in the metadata.
type tdItem struct {
	offset, raw      uint32
	gpa, size        uint64
	kind, attributes uint32
}

func tdMetadataOf(items ...tdItem) []byte {
	le := binary.LittleEndian
	out := []byte("TDVF")
	for _, n := range []int{16 + 32*len(items), 1, len(items)} {
		out = le.AppendUint32(out, uint32(n))
	}
	for _, s := range items {
		out = le.AppendUint32(le.AppendUint32(out, s.offset), s.raw)
		out = le.AppendUint64(le.AppendUint64(out, s.gpa), s.size)
		out = le.AppendUint32(le.AppendUint32(out, s.kind), s.attributes)
	}
	return out
}

// TestTDFirmwareIsReadStrictly bends one thing at a time to its bound and beyond it.
func TestTDFirmwareIsReadStrictly(t *testing.T) {
	const at = 3000
	items := []tdItem{
		{4096, 4096, 0xfffff000, 4096, tdSectionCode, tdExtend},
		{0, 4096, 0xffffe000, 4096, tdSectionConfig, 0},
		{0, 0, 0x809000, 0x2000, tdSectionHOB, 0},
		{0, 0, 0x810000, 0x1000, tdSectionTemp, 0},
	}
	good := func(change func(*madeFirmware)) []byte {
		m := madeFirmware{size: 8192, metadata: tdMetadataOf(items...), fromEnd: at, entries: [][]byte{tableEntry(guidTDXMetadata, le32(at))}}
		if change != nil {
			change(&m)
		}
		return m.bytes()
	}
	edit := func(offset int, n uint32) []byte {
		return good(func(m *madeFirmware) { copy(m.metadata[offset:], le32(n)) })
	}
	item := func(i int, change func(*tdItem)) []byte {
		return good(func(m *madeFirmware) {
			c := slices.Clone(items)
			change(&c[i])
			m.metadata = tdMetadataOf(c...)
		})
	}
	with := func(more ...tdItem) []byte {
		return good(func(m *madeFirmware) { m.metadata = tdMetadataOf(append(slices.Clone(items), more...)...) })
	}
	entry := func(data []byte) []byte {
		return good(func(m *madeFirmware) { m.entries[0] = tableEntry(guidTDXMetadata, data) })
	}
	temp := func(size uint64) tdItem { return tdItem{0, 0, 0x1000000, size, tdSectionTemp, 0} }
	for _, c := range []struct {
		name string
		data []byte
		word string // of the error; empty is none
	}{
		{"good", good(nil), ""},
		{"no bytes", nil, "no whole number of pages"},
		{"a byte more", append(good(nil), 0), "no whole number of pages"},
		{"no table", make([]byte, 8192), "no GUID table"},
		{"firmware for others", good(func(m *madeFirmware) { m.entries = nil }), "no TDX metadata; give the file"},
		{"an entry of three bytes", entry([]byte{1, 2, 3}), "too short"},
		{"metadata at no offset", entry(le32(0)), "no TDX metadata"},
		{"metadata before the first byte", entry(le32(8193)), "outside the file"},
		{"metadata that begins 16 bytes before the end", entry(le32(16)), "another signature"},
		{"metadata that begins 15 bytes before the end", entry(le32(15)), "outside the file"},
		{"another signature", edit(0, 0x56455341), "another signature"},
		{"another version", edit(8, 2), "another signature or version"},
		{"a length of less", edit(4, 16+4*32-1), "impossible length"},
		{"a length of more", edit(4, 16+4*32+1), "impossible length"},
		{"more sections than its length", edit(12, 5), "impossible length"},
		{"sections beyond the file", edit(12, 0x08000000), "impossible length"},
		{"metadata that the file cuts", good(func(m *madeFirmware) {
			m.entries[0] = tableEntry(guidTDXMetadata, le32(20))
			m.fromEnd = 20
			m.metadata = m.metadata[:20]
		}), "impossible length"},
		{"64 sections", with(slices.Repeat([]tdItem{temp(4096)}, 60)...), ""},
		{"65 sections", with(slices.Repeat([]tdItem{temp(4096)}, 61)...), "impossible length"},
		{"an address off a page", item(3, func(s *tdItem) { s.gpa++ }), "section 3 is not made of pages"},
		{"half a page", item(3, func(s *tdItem) { s.size = 0x800 }), "section 3 is not made of pages"},
		{"no page", item(3, func(s *tdItem) { s.size = 0 }), "section 3 is not made of pages"},
		{"up to 4 GiB", item(3, func(s *tdItem) { s.gpa = 0xfffff000 }), ""},
		{"beyond 4 GiB", item(3, func(s *tdItem) { s.gpa, s.size = 0xfffff000, 0x2000 }), "section 3 is not made of pages"},
		{"above 4 GiB", item(3, func(s *tdItem) { s.gpa = 0x1_0000_1000 }), "section 3 is not made of pages"},
		{"an address that wraps", item(3, func(s *tdItem) { s.gpa, s.size = 0xffff_ffff_ffff_f000, 0x2000 }), "section 3 is not made of pages"},
		{"a size that wraps", item(3, func(s *tdItem) { s.size = 0xffff_ffff_ffff_f000 }), "section 3 is not made of pages"},
		{"64 MiB", with(temp(64<<20 - 5*4096)), ""},
		{"a page more", with(temp(64<<20 - 4*4096)), "section 4 makes more than 64 MiB"},
		{"attributes that nobody knows", item(3, func(s *tdItem) { s.attributes = 2 }), "section 3 has attributes"},
		{"code that is not measured", item(0, func(s *tdItem) { s.attributes = 0 }), "code that is not measured"},
		{"a volume off a page", item(1, func(s *tdItem) { s.offset = 1 }), "no range of pages of the file"},
		{"a volume of fewer bytes than memory", item(1, func(s *tdItem) { s.raw-- }), "no range of pages of the file"},
		{"a volume beyond the file", item(0, func(s *tdItem) { s.offset = 8192 }), "no range of pages of the file"},
		{"a volume at an offset that wraps", item(0, func(s *tdItem) { s.offset = 0xfffff000 }), "no range of pages of the file"},
		{"memory with bytes", item(3, func(s *tdItem) { s.raw = 1 }), "of a kind that has none"},
		{"measured memory", item(3, func(s *tdItem) { s.attributes = 1 }), ""},
		{"the host's word measured", item(2, func(s *tdItem) { s.attributes = 1 }), "no value can be computed"},
		{"a kind that QEMU refuses", item(3, func(s *tdItem) { s.kind = 4 }), "of kind 4, which QEMU refuses"},
		{"no code", item(0, func(s *tdItem) { s.kind = tdSectionConfig }), "has not code"},
		{"no place for the host's word", item(2, func(s *tdItem) { s.kind = tdSectionTemp }), "has not code"},
		{"two places", with(items[2]), "has not code"},
	} {
		sections, err := tdSections(c.data)
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
		}
		if c.name == "good" && (len(sections) != 4 || !slices.Equal(sections[0].data, c.data[4096:]) || !sections[0].extend || sections[1].extend || sections[2].data != nil) {
			t.Errorf("%+v", sections)
		}
	}
}

// TestMRTDOrder: every page, its address, its contents where they are measured, and
// the order of sections count. TestTDVectors holds the value itself.
func TestMRTDOrder(t *testing.T) {
	code := tdItem{4096, 4096, 0xfffff000, 4096, tdSectionCode, tdExtend}
	config := tdItem{0, 4096, 0xffffe000, 4096, tdSectionConfig, 0}
	hob := tdItem{0, 0, 0x809000, 0x2000, tdSectionHOB, 0}
	temp := tdItem{0, 0, 0x810000, 0x1000, tdSectionTemp, 0}
	changed := func(s tdItem, change func(*tdItem)) tdItem { change(&s); return s }
	of := func(first, second byte, items ...tdItem) string {
		m := madeFirmware{size: 8192, metadata: tdMetadataOf(items...), fromEnd: 3000, entries: [][]byte{tableEntry(guidTDXMetadata, le32(3000))}}
		b := m.bytes()
		b[0], b[4096] = first, second
		sections, err := tdSections(b)
		if err != nil {
			t.Fatal(err)
		}
		v := mrtd(sections)
		return hex.EncodeToString(v[:])
	}
	base := of(0, 0, code, config, hob, temp)
	if of(1, 0, code, config, hob, temp) != base {
		t.Error("the configuration volume is measured by the firmware, not at launch")
	}
	seen := map[string]string{base: "base"}
	for name, got := range map[string]string{
		"a byte of code":       of(0, 1, code, config, hob, temp),
		"order of sections":    of(0, 0, code, config, temp, hob),
		"an address":           of(0, 0, code, config, hob, changed(temp, func(s *tdItem) { s.gpa += 4096 })),
		"a page more":          of(0, 0, code, config, hob, changed(temp, func(s *tdItem) { s.size += 4096 })),
		"zeros measured":       of(0, 0, code, config, hob, changed(temp, func(s *tdItem) { s.attributes = 1 })),
		"configuration volume": of(0, 0, code, changed(config, func(s *tdItem) { s.attributes = 1 }), hob, temp),
		"its contents":         of(1, 0, code, changed(config, func(s *tdItem) { s.attributes = 1 }), hob, temp),
	} {
		if other, twice := seen[got]; twice {
			t.Errorf("%s measures as %s does", name, other)
		}
		seen[got] = name
	}
}
