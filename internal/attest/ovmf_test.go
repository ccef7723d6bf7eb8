package attest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// madeFirmware is a page or more with a GUID table at its end and SEV metadata of the given sections in front of it.
type madeFirmware struct {
	size     int
	metadata []byte // at fromEnd
	fromEnd  int
	entries  [][]byte // from the footer upwards, each as it stands in the file
	length   int      // of the table; zero means as it is
}

func tableEntry(name guid, data []byte) []byte {
	out := binary.LittleEndian.AppendUint16(bytes.Clone(data), uint16(len(data)+18))
	return append(out, name[:]...)
}

func metadataOf(sections ...section) []byte {
	le := binary.LittleEndian
	out := []byte("ASEV")
	for _, n := range []int{16 + 12*len(sections), 1, len(sections)} {
		out = le.AppendUint32(out, uint32(n))
	}
	for _, s := range sections {
		out = le.AppendUint32(le.AppendUint32(le.AppendUint32(out, s.gpa), s.size), s.kind)
	}
	return out
}

func (m madeFirmware) bytes() []byte {
	out := make([]byte, m.size)
	at, length := m.size-32-18, 18
	for _, e := range m.entries {
		at, length = at-len(e), length+len(e)
		copy(out[at:], e)
	}
	if m.length != 0 {
		length = m.length
	}
	footer := tableEntry(guidTableFooter, nil)
	binary.LittleEndian.PutUint16(footer, uint16(length))
	copy(out[m.size-32-18:], footer)
	copy(out[m.size-m.fromEnd:], m.metadata)
	return out
}

func le32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// TestFirmwareIsReadStrictly makes files of which everything is known, and bends one thing at a time to its bound and
// beyond it.
func TestFirmwareIsReadStrictly(t *testing.T) {
	const at = 3000
	sections := []section{{0x1000, 0x2000, sectionMemory}, {0x800000, 0x1000, sectionKernelHashes}}
	good := func(change func(*madeFirmware)) []byte {
		m := madeFirmware{size: 8192, metadata: metadataOf(sections...), fromEnd: at, entries: [][]byte{
			tableEntry(guidHashTable, le32(0x800c00)), tableEntry(guidResetBlock, le32(0x80b004)), tableEntry(guidSEVMetadata, le32(at)),
		}}
		if change != nil {
			change(&m)
		}
		return m.bytes()
	}
	other := newGUID(1, 2, 3, [8]byte{4})
	many := func(n int) []section { return slices.Repeat([]section{{0x1000, 0x1000, sectionMemory}}, n) }
	edit := func(offset int, n uint32) []byte {
		b := metadataOf(sections...)
		copy(b[offset:], le32(n))
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		word string // of the error; empty is none
	}{
		{"good", good(nil), ""},
		{"one page", good(func(m *madeFirmware) { m.size = 4096 }), ""},
		{"no bytes", nil, "no whole number of pages"},
		{"a page and a byte", append(good(nil), 0), "no whole number of pages"},
		{"a page less a byte", good(nil)[1:], "no whole number of pages"},
		{"no table", make([]byte, 4096), "no GUID table at its end"},
		{"a table that is the whole file", good(func(m *madeFirmware) { m.size, m.fromEnd, m.length = 4096, 3000, 4096-32 }), "impossible length"},
		{"a table larger than the file", good(func(m *madeFirmware) { m.size, m.fromEnd, m.length = 4096, 3000, 4096-32+1 }), "larger than the file"},
		{"a table shorter than its footer", good(func(m *madeFirmware) { m.length = 17 }), "larger than the file"},
		{"an empty table", good(func(m *madeFirmware) { m.length = 18 }), "no SEV metadata"},
		{"a table of bytes that are no entry", good(func(m *madeFirmware) { m.length = 18 + 17 }), "no SEV metadata"},
		{"an entry of the least length", good(func(m *madeFirmware) { m.entries = append(m.entries, tableEntry(other, nil)) }), ""},
		{"an entry of less", good(func(m *madeFirmware) {
			e := tableEntry(other, nil)
			e[0] = 17
			m.entries = append([][]byte{e}, m.entries...)
		}), "impossible length"},
		{"an entry longer than the table", good(func(m *madeFirmware) {
			e := tableEntry(other, nil)
			e[0] = 19
			m.entries = append(m.entries, e)
		}), "impossible length"},
		{"64 entries", good(func(m *madeFirmware) {
			m.entries = append(slices.Repeat([][]byte{tableEntry(other, nil)}, 61), m.entries...)
		}), ""},
		{"65 entries", good(func(m *madeFirmware) {
			m.entries = append(slices.Repeat([][]byte{tableEntry(other, nil)}, 62), m.entries...)
		}), "more than 64 entries"},
		{"hashes of three bytes", good(func(m *madeFirmware) { m.entries[0] = tableEntry(guidHashTable, []byte{1, 2, 3}) }), "too short"},
		{"reset block of three bytes", good(func(m *madeFirmware) { m.entries[1] = tableEntry(guidResetBlock, []byte{1, 2, 3}) }), "too short"},
		{"metadata of three bytes", good(func(m *madeFirmware) { m.entries[2] = tableEntry(guidSEVMetadata, []byte{1, 2, 3}) }), "too short"},
		{"no metadata", good(func(m *madeFirmware) { m.entries = m.entries[:2] }), "no SEV metadata"},
		{"metadata at no offset", good(func(m *madeFirmware) { m.entries[2] = tableEntry(guidSEVMetadata, le32(0)) }), "no SEV metadata"},
		{"metadata at the first byte", good(func(m *madeFirmware) {
			m.fromEnd, m.entries[2] = 8192, tableEntry(guidSEVMetadata, le32(8192))
		}), ""},
		{"metadata before the first byte", good(func(m *madeFirmware) { m.entries[2] = tableEntry(guidSEVMetadata, le32(8193)) }), "outside the file"},
		{"metadata that begins 16 bytes before the end", good(func(m *madeFirmware) { m.entries[2] = tableEntry(guidSEVMetadata, le32(16)) }), "another signature"},
		{"metadata that begins 15 bytes before the end", good(func(m *madeFirmware) { m.entries[2] = tableEntry(guidSEVMetadata, le32(15)) }), "outside the file"},
		{"64 sections", good(func(m *madeFirmware) { m.metadata = metadataOf(many(64)...) }), ""},
		{"65 sections", good(func(m *madeFirmware) { m.metadata = metadataOf(many(65)...) }), "impossible length"},
		{"no section", good(func(m *madeFirmware) { m.metadata = metadataOf() }), ""},
		{"metadata up to the end of the file", good(func(m *madeFirmware) { m.metadata = edit(4, at) }), ""},
		{"metadata beyond the end", good(func(m *madeFirmware) { m.metadata = edit(4, at+1) }), "impossible length"},
		{"metadata shorter than its sections", good(func(m *madeFirmware) { m.metadata = edit(4, 16+24-1) }), "impossible length"},
		{"metadata of another version", good(func(m *madeFirmware) { m.metadata = edit(8, 2) }), "another signature or version"},
		{"a section off a page", good(func(m *madeFirmware) { m.metadata = edit(16, 0x1001) }), "section 0 is not made of pages"},
		{"a section of half a page", good(func(m *madeFirmware) { m.metadata = edit(20, 0x800) }), "section 0 is not made of pages"},
		{"a section of 16 MiB", good(func(m *madeFirmware) { m.metadata = edit(20, 16<<20) }), ""},
		{"a section of a page more", good(func(m *madeFirmware) { m.metadata = edit(20, 16<<20+4096) }), "section 0 is not made of pages"},
		{"a section up to 4 GiB", good(func(m *madeFirmware) { m.metadata = edit(16, 0xffffe000) }), ""},
		{"a section beyond 4 GiB", good(func(m *madeFirmware) { m.metadata = edit(16, 0xfffff000) }), "section 0 is not made of pages"},
		{"the second section off a page", good(func(m *madeFirmware) { m.metadata = edit(28, 1) }), "section 1 is not made of pages"},
	} {
		fw, err := parseFirmware(c.data)
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
		}
		if c.name == "good" && (err != nil || fw.gpa != 0xffffe000 || fw.hashesGPA != 0x800c00 || fw.resetEIP != 0x80b004 || !slices.Equal(fw.sections, sections)) {
			t.Errorf("%+v, %v", fw, err)
		}
	}
	// Of two entries with one name the farther from the footer counts.
	fw, err := parseFirmware(good(func(m *madeFirmware) { m.entries = append(m.entries, tableEntry(guidResetBlock, le32(7))) }))
	if err != nil || fw.resetEIP != 7 {
		t.Errorf("%+v, %v", fw, err)
	}
	// The table of hashes may end where its page does, and there must be one place for it.
	launch := func(hashes uint32, s ...section) error {
		_, err := LaunchDigest(DigestInput{KernelSHA256: sum(nil), VCPUs: 1, Firmware: good(func(m *madeFirmware) {
			m.metadata, m.entries[0] = metadataOf(s...), tableEntry(guidHashTable, le32(hashes))
		})})
		return err
	}
	place := section{0x800000, 0x1000, sectionKernelHashes}
	for name, c := range map[string]struct {
		err  error
		word string
	}{
		"at the page's end":     {launch(0x801000-168, place), ""},
		"one byte farther":      {launch(0x801000-167, place), "does not fit its page"},
		"a place of two pages":  {launch(0x800000, section{0x800000, 0x2000, sectionKernelHashes}), "does not fit its page"},
		"two places":            {launch(0x800000, place, place), "two places"},
		"no place":              {launch(0x800000), "no place"},
		"a place at no address": {launch(0, place), "no place"},
	} {
		if (c.err == nil) != (c.word == "") || c.err != nil && !strings.Contains(c.err.Error(), c.word) {
			t.Errorf("hashes %s: %v", name, c.err)
		}
	}
}
