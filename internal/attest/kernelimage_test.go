package attest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// Offsets in td-kernel.bin: its PE header is at 0x40, its optional header at 0x58.
const (
	kernelOptional  = 0x58
	kernelDirectory = kernelOptional + 112
	kernelTable     = kernelDirectory + 6*8
	kernelSignature = 0xc40
)

func put32(b []byte, at int, n uint32) { binary.LittleEndian.PutUint32(b[at:], n) }
func put16(b []byte, at int, n uint16) { binary.LittleEndian.PutUint16(b[at:], n) }

// TestImageDigest: everything in the file counts but the checksum, the entry for the
// signature and the signature; what cannot be an image is refused.
func TestImageDigest(t *testing.T) {
	good := file(t, "digest/td-kernel.bin")
	// By LIEF 1.0.0 (PE.Binary.authentihash).
	const want = "98332d9e5c83c25a4a59c9973e90f67c204733089aa6620d2ea5a65a2e9368cd220630e45894e5c90889b20834575c4e"
	d, err := ImageDigest(good)
	if got := hex.EncodeToString(d[:]); err != nil || got != want {
		t.Fatalf("%s, %v", got, err)
	}
	free := func(i int) bool {
		place := kernelDirectory + 4*8 // of the signature; its size decides what is one
		return i >= kernelOptional+64 && i < kernelOptional+68 || i >= place && i < place+4 || i >= kernelSignature
	}
	for i := range good {
		changed := slices.Clone(good)
		changed[i] ^= 0x10
		if got, err := ImageDigest(changed); err == nil && (got == d) != free(i) {
			t.Errorf("byte %#x changed: the digest is the same: %t", i, got == d)
		}
	}
	change := func(f func([]byte)) []byte {
		b := slices.Clone(good)
		f(b)
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		word string // of the error; empty is none
	}{
		{"no bytes", nil, "no EFI application: "},
		{"63 bytes", good[:63], "no EFI application: "},
		{"no DOS header", change(func(b []byte) { b[1] = 'z' }), "no EFI application: "},
		{"a DOS header alone", good[:64], "outside the file"},
		{"a header at the end", change(func(b []byte) { put32(b, 0x3c, uint32(len(b)-136+1)) }), "outside the file"},
		{"a header at an offset that wraps", change(func(b []byte) { put32(b, 0x3c, 0xffffffff) }), "outside the file"},
		{"no PE", change(func(b []byte) { b[0x40] = 'p' }), "for x86-64"},
		{"for 32 bits", change(func(b []byte) { put16(b, 0x44, 0x14c) }), "for x86-64"},
		{"PE32", change(func(b []byte) { put16(b, kernelOptional, 0x10b) }), "for x86-64"},
		{"four entries", change(func(b []byte) { put32(b, kernelOptional+108, 4); put16(b, 0x54, 112+4*8) }), "no room for a signature"},
		{"seventeen entries", change(func(b []byte) { put32(b, kernelOptional+108, 17); put16(b, 0x54, 112+17*8) }), "impossible length"},
		{"entries beyond their header", change(func(b []byte) { put32(b, kernelOptional+108, 7) }), "impossible length"},
		{"endless entries", change(func(b []byte) { put32(b, kernelOptional+108, 0xffffffff) }), "impossible length"},
		{"97 sections", change(func(b []byte) { put16(b, 0x46, 97) }), "impossible length"},
		{"sections beyond the headers", change(func(b []byte) { put16(b, 0x46, 9) }), "outside its headers"},
		{"headers beyond the file", change(func(b []byte) { put32(b, kernelOptional+60, uint32(len(b)+1)) }), "outside the file"},
		{"headers that end in their table", change(func(b []byte) { put32(b, kernelOptional+60, kernelTable+79) }), "outside its headers"},
		{"a section in the headers", change(func(b []byte) { put32(b, kernelTable+40+20, 0x1ff) }), "overlap"},
		{"two sections at one place", change(func(b []byte) { put32(b, kernelTable+20, 0x200) }), "overlap"},
		{"a section beyond the file", change(func(b []byte) { put32(b, kernelTable+16, 0xd41-0x400) }), "outside the file"},
		{"an endless section", change(func(b []byte) { put32(b, kernelTable+16, 0xffffffff) }), "outside the file"},
		{"a section up to the end", change(func(b []byte) { put32(b, kernelTable+16, 0xd40-0x400) }), ""},
		{"an empty section anywhere", change(func(b []byte) { put32(b, kernelTable+16, 0); put32(b, kernelTable+20, 0xffffffff) }), ""},
		{"a signature of all that follows", change(func(b []byte) { put32(b, kernelDirectory+4*8+4, 0x140) }), ""},
		{"a signature of more", change(func(b []byte) { put32(b, kernelDirectory+4*8+4, 0x141) }), "signature is larger"},
	} {
		if _, err := ImageDigest(c.data); (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
		}
	}
	// The order of the section table does not count, that of the file does.
	swapped := change(func(b []byte) {
		first := slices.Clone(b[kernelTable : kernelTable+40])
		copy(b[kernelTable:], b[kernelTable+40:kernelTable+80])
		copy(b[kernelTable+40:], first)
	})
	ordered, err := ImageDigest(swapped)
	if err != nil {
		t.Fatal(err)
	}
	copy(swapped[kernelTable:], good[kernelTable:kernelTable+80])
	if got, err := ImageDigest(swapped); err != nil || got != d || got == ordered {
		t.Errorf("%x, %v", got, err)
	}
}

// TestLoadedByQEMU: the fields of the setup header as QEMU up to 10.1 fills them in,
// and nothing else.
func TestLoadedByQEMU(t *testing.T) {
	good := file(t, "digest/td-kernel.bin")
	change := func(f func([]byte)) []byte {
		b := slices.Clone(good)
		f(b)
		return b
	}
	below2G := change(func(b []byte) { put16(b, setupXFlags, 0) })
	const mib = 1 << 20
	for _, c := range []struct {
		name    string
		kernel  []byte
		memory  int
		initrd  int64
		address uint32
	}{
		{"little memory", good, 256, 5000, 0x0ffd6000},
		{"just below the split", good, 2815, 5000, 0xaffd6000 - mib},
		{"at the split", good, 2816, 5000, 0x7ffd6000},
		{"much memory", good, 1 << 20, 5000, 0x7ffd6000},
		{"a kernel that takes no initrd above 2 GiB", below2G, 2815, 5000, 0x7fffe000},
		{"such a kernel with less memory", below2G, 1024, 5000, 0x3ffd6000},
		{"the largest initrd", good, 1, mib - 0x28000 - 2, 0},
	} {
		out, err := loadedByQEMU(c.kernel, c.memory, c.initrd)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := slices.Clone(c.kernel)
		want[0x210], want[0x211] = 0xb0, 0x81
		put32(want, 0x218, c.address)
		put32(want, 0x21c, uint32(c.initrd))
		put16(want, 0x224, 0xfe00)
		put32(want, 0x228, 0x20000)
		if !bytes.Equal(out, want) {
			t.Errorf("%s: initrd at %#x, want %#x", c.name, binary.LittleEndian.Uint32(out[0x218:]), c.address)
		}
	}
	for _, c := range []struct {
		name   string
		kernel []byte
		initrd int64
		word   string
	}{
		{"no bytes", nil, 5000, "no Linux kernel"},
		{"cut in its header", good[:setupEnd-1], 5000, "no Linux kernel"},
		{"another magic", change(func(b []byte) { b[setupMagic] = 'h' }), 5000, "no Linux kernel"},
		{"of before Linux 5.5", change(func(b []byte) { put16(b, setupVersion, 0x20e) }), 5000, "older than any"},
		{"loaded low", change(func(b []byte) { b[setupFlags] = 0 }), 5000, "older than any"},
		{"setup longer than the file", change(func(b []byte) { b[setupSectors] = 6 }), 5000, "setup code is longer"},
		{"four sectors by default", change(func(b []byte) { b[setupSectors] = 0 })[:5*512-1], 5000, "setup code is longer"},
		{"an initrd without room", good, mib - 0x28000 - 1, "no room in 1 MiB"},
	} {
		if _, err := loadedByQEMU(c.kernel, 1, c.initrd); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
		}
	}
}

// kernelOf is td-kernel.bin with another version.
func kernelOf(t testing.TB, version string) []byte {
	t.Helper()
	b := slices.Clone(file(t, "digest/td-kernel.bin"))
	at := 0x200 + int(binary.LittleEndian.Uint16(b[setupText:]))
	copy(b[at:0x400], version+"\x00")
	return b
}

// TestKernelVersion: a kernel must say that it is one whose stub measures.
func TestKernelVersion(t *testing.T) {
	const old, unread, outside = "it is Linux ", "cannot be read", "does not say its version, or says it outside"
	at := func(place uint16) []byte {
		b := kernelOf(t, "6.12.94")
		put16(b, setupText, place)
		return b
	}
	for _, c := range []struct {
		name   string
		kernel []byte
		word   string // of the error; empty is none
	}{
		{"6.9.0", kernelOf(t, "6.9.0"), ""},
		{"6.9", kernelOf(t, "6.9"), ""},
		{"6.10-rc1+", kernelOf(t, "6.10-rc1+"), ""},
		{"6.12.94-cloud", kernelOf(t, "6.12.94-cloud (user@host) #1 SMP"), ""},
		{"7.0", kernelOf(t, "7.0"), ""},
		{"10.1", kernelOf(t, "10.1"), ""},
		{"5.19.0", kernelOf(t, "5.19.0"), old + "5.19; give Linux 6.9 or later"},
		{"5.100.0", kernelOf(t, "5.100.0"), old},
		{"6.8.12-generic", kernelOf(t, "6.8.12-generic"), old + "6.8"},
		{"6.0", kernelOf(t, "6.0"), old},
		{"no number", kernelOf(t, "Linux 6.12"), unread},
		{"one number", kernelOf(t, "7"), unread},
		{"a number with a sign", kernelOf(t, "+7.1"), unread},
		{"a number of a thousand", kernelOf(t, "6.1000"), unread},
		{"an endless number", kernelOf(t, "100.0"), unread},
		{"no bytes", kernelOf(t, ""), unread},
		{"a text without end", kernelOf(t, "6.12"+strings.Repeat(" ", 0x100)), unread},
		{"no text", at(0), outside},
		{"a text at the end of the setup code", at(0x1ff), unread},
		{"a text beyond the setup code", at(0x200), outside},
		{"a text beyond the file", at(0xffff), outside},
		{"no kernel", nil, "no Linux kernel"},
	} {
		if err := checkKernelVersion(c.kernel); (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
		}
	}
}
