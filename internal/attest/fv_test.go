package attest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz/lzma"
)

// A firmware volume as a builder of firmware makes it, each part by itself.

func ffsOf(name guid, kind byte, body []byte) []byte {
	h := append(name[:], 0, 0xaa, kind, 0)
	h = append(h, le32(uint32(24 + len(body)))[:3]...)
	return append(resummed(append(h, 0xf8), 24), body...)
}

// resummed puts the header's checksum right.
func resummed(file []byte, header int) []byte {
	file[16] = 0
	file[16] = -(sum8(file[:header]) - file[17] - file[23])
	return file
}

func sectionOf(kind byte, body []byte) []byte {
	return append(append(le32(uint32(4 + len(body)))[:3], kind), body...)
}

func streamOf(sections ...[]byte) (out []byte) {
	for _, s := range sections {
		out = append(append(out, make([]byte, -len(out)&3)...), s...)
	}
	return out
}

// volumeOf has 16 bytes of free space at least.
func volumeOf(files ...[]byte) []byte {
	le := binary.LittleEndian
	var body []byte
	for _, f := range files {
		body = append(append(body, bytes.Repeat([]byte{0xff}, -len(body)&7)...), f...)
	}
	body = append(body, bytes.Repeat([]byte{0xff}, 16)...)
	b := append(make([]byte, 16), guidFFS2[:]...)
	b = append(le.AppendUint64(b, uint64(72+len(body))), "_FVH"...)
	for _, n := range []int{0x4feff, 72, 2 << 24, 1, 72 + len(body), 0, 0} {
		b = le.AppendUint32(b, uint32(n))
	}
	return append(resummedVolume(b), body...)
}

func resummedVolume(v []byte) []byte {
	put16(v, 50, 0)
	var sum uint16
	for i := 0; i < 72; i += 2 {
		sum += binary.LittleEndian.Uint16(v[i:])
	}
	put16(v, 50, -sum)
	return v
}

func guidedOf(name guid, data []byte) []byte {
	return sectionOf(sectionGUIDed, append(append(name[:], 24, 0, 1, 0), data...))
}

func packedOf(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := lzma.WriterConfig{DictCap: 1 << 16, Size: int64(len(body)), SizeInHeader: true}.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var (
	guidOther = newGUID(1, 2, 3, [8]byte{4})
	guidBlank = guid(bytes.Repeat([]byte{0xff}, 16))
)

// TestMeasuringFirmware: which drivers firmware has is found wherever the drivers can
// be, and only there; and each field of a volume is bent to its bound and beyond it.
func TestMeasuringFirmware(t *testing.T) {
	code := sectionOf(sectionPE32, make([]byte, 60))
	driver, tpm, other := ffsOf(guidTdTcg2Dxe, ffsDriver, code), ffsOf(guidTcg2Dxe, ffsDriver, code), ffsOf(guidOther, ffsDriver, code)
	lzmaOf := func(body []byte) []byte { return guidedOf(guidLZMA, packedOf(t, body)) }
	image := func(section []byte) []byte { return volumeOf(ffsOf(guidOther, 0x0b, section)) }
	nested := func(levels int) []byte {
		v := volumeOf(driver)
		for range levels {
			v = image(sectionOf(sectionVolume, v))
		}
		return v
	}
	file := func(change func([]byte)) []byte {
		f := slices.Clone(driver)
		change(f)
		return volumeOf(other, resummed(f, 24))
	}
	volume := func(change func([]byte)) []byte {
		v := volumeOf(driver)
		change(v)
		return resummedVolume(v)
	}
	section := func(s []byte) []byte { return volumeOf(driver, ffsOf(guidOther, ffsDriver, s)) }
	extended := func(at uint16, size uint32) []byte {
		v := volumeOf(ffsOf(guidBlank, ffsPad, append(guidOther[:], le32(size)...)), driver)
		put16(v, 52, at)
		return resummedVolume(v)
	}
	large := func(system guid, attributes byte, size uint64) []byte {
		f := slices.Clone(driver[:24])
		f[19], f[20], f[21], f[22] = attributes, 0, 0, 0
		f = binary.LittleEndian.AppendUint64(f, size)
		v := volumeOf(append(resummed(f, 32), code...))
		copy(v[16:], system[:])
		return resummedVolume(v)
	}
	cutLarge := large(guidFFS3, ffsLarge, 32+64)[:72+31]
	put32(cutLarge, 32, 72+31)
	resummedVolume(cutLarge)
	claim := func(dictionary uint32, size uint64) []byte {
		return guidedOf(guidLZMA, append(binary.LittleEndian.AppendUint64(append([]byte{0x5d}, le32(dictionary)...), size), make([]byte, 16)...))
	}
	checked := func(sum byte) func([]byte) {
		return func(f []byte) { f[19], f[17] = ffsChecked, sum }
	}
	packings := func(levels int) []byte {
		s := sectionOf(0x19, nil)
		for range levels {
			s = lzmaOf(s)
		}
		return s
	}
	const none = "no driver TdTcg2Dxe"
	for _, c := range []struct {
		name string
		data []byte
		word string // of the error; empty is none
	}{
		{"the driver", volumeOf(driver), ""},
		{"the driver among others", volumeOf(other, ffsOf(guidOther, ffsDriver, sectionOf(sectionPE32, []byte{1})), driver, other), ""},
		{"the driver in the second volume", slices.Concat(volumeOf(other), volumeOf(driver)), ""},
		{"the driver in a packed volume", image(lzmaOf(streamOf(sectionOf(0x19, []byte{1}), sectionOf(sectionVolume, volumeOf(other)), sectionOf(sectionVolume, volumeOf(driver))))), ""},
		{"the driver with a checksum of its contents", file(checked(-sum8(code))), ""},
		{"the driver with its image packed", volumeOf(ffsOf(guidTdTcg2Dxe, ffsDriver, streamOf(sectionOf(0x13, []byte{8}), lzmaOf(code)))), ""},
		{"the driver behind an extended header", extended(72+24, 20), ""},
		{"a section with a long header", volumeOf(ffsOf(guidTdTcg2Dxe, ffsDriver, slices.Concat([]byte{0xff, 0xff, 0xff, sectionPE32}, le32(9), []byte{1}))), ""},
		{"the driver behind a file of an odd length", volumeOf(ffsOf(guidOther, ffsDriver, sectionOf(0x19, make([]byte, 8))), driver), ""},
		{"a large file", large(guidFFS3, ffsLarge, 32+64), ""},
		{"eight levels", nested(8), ""},

		{"no code", nil, none},
		{"no driver", volumeOf(other), none},
		{"an empty volume", volumeOf(), none},
		{"the driver's name on a pad", volumeOf(ffsOf(guidTdTcg2Dxe, ffsPad, code)), none},
		{"the driver within a pad", volumeOf(ffsOf(guidBlank, ffsPad, driver)), none},
		{"the driver within a file that nobody reads", volumeOf(ffsOf(guidOther, ffsRaw, volumeOf(driver))), none},
		{"the driver within a section of data", volumeOf(ffsOf(guidOther, 2, sectionOf(0x19, volumeOf(driver)))), none},
		{"the driver in free space", volumeOf(append(bytes.Repeat([]byte{0xff}, 8), driver...)), "file at 0x48"},
		{"the driver's name on another kind of file", volumeOf(ffsOf(guidTdTcg2Dxe, 2, code)), none},
		{"the driver without code", volumeOf(ffsOf(guidTdTcg2Dxe, ffsDriver, sectionOf(0x13, []byte{8}))), none},
		{"the driver with empty code", volumeOf(ffsOf(guidTdTcg2Dxe, ffsDriver, sectionOf(sectionPE32, nil))), none},

		{"a TPM's driver alone", volumeOf(tpm), none},
		{"a TPM's driver as well", volumeOf(driver, tpm), "has the driver Tcg2Dxe"},
		{"a TPM's driver in another volume", slices.Concat(volumeOf(driver), image(lzmaOf(sectionOf(sectionVolume, volumeOf(tpm))))), "has the driver Tcg2Dxe"},
		{"a TPM's driver as another kind of file", volumeOf(driver, ffsOf(guidTcg2Dxe, 2, code)), "has the driver Tcg2Dxe"},

		{"a volume in a driver", volumeOf(ffsOf(guidOther, ffsDriver, sectionOf(sectionVolume, volumeOf(driver)))), "a volume in a file of type 0x7"},
		{"a packed volume in a file of data", volumeOf(ffsOf(guidOther, 2, lzmaOf(sectionOf(sectionVolume, volumeOf(driver))))), "a volume in a file of type 0x2"},

		{"no volume", make([]byte, 4096), "no firmware volume"},
		{"a gap between volumes", slices.Concat(volumeOf(driver), make([]byte, 8), volumeOf(other)), "no firmware volume"},
		{"half a header", volumeOf(driver)[:71], "no firmware volume"},
		{"a volume cut short", volumeOf(driver)[:len(volumeOf(driver))-1], "an impossible length"},
		{"a volume shorter than its header", volume(func(v []byte) { put32(v, 32, 71) }), "an impossible length"},
		{"an endless volume", volume(func(v []byte) { put32(v, 36, 0xffffffff) }), "an impossible length"},
		{"a header that is too short", volume(func(v []byte) { put16(v, 48, 70) }), "an impossible length"},
		{"an odd header", volume(func(v []byte) { put16(v, 48, 73) }), "an impossible length"},
		{"a wrong checksum", append(volumeOf(driver)[:50], append([]byte{0, 0}, volumeOf(driver)[52:]...)...), "a wrong checksum"},
		{"another file system", volume(func(v []byte) { v[16]++ }), "another file system"},
		{"an extended header within the header", extended(40, 20), "extended header lies outside"},
		{"an extended header at the end", extended(72+44+4+24+64+16-19, 20), "extended header lies outside"},
		{"an endless extended header", extended(72+24, 0xffffffff), "extended header lies outside"},
		{"space that was erased otherwise", volume(func(v []byte) { v[45] ^= 8 }), "deleted or half written"},

		{"a file cut short", volumeOf(driver, make([]byte, 7)), "cut short"},
		{"a file shorter than its header", file(func(f []byte) { f[20], f[21] = 23, 0 }), "an impossible length"},
		{"a file beyond its volume", file(func(f []byte) { f[20] += 17 }), "an impossible length"},
		{"a wrong checksum of a header", volumeOf(append(slices.Clone(driver[:16]), append([]byte{driver[16] + 1}, driver[17:]...)...)), "checksum of its header"},
		{"a wrong checksum of contents", file(checked(1 - sum8(code))), "checksum of its contents"},
		{"contents with a checksum that is not meant", file(func(f []byte) { f[17] = 0 }), "checksum of its contents"},
		{"a deleted driver", file(func(f []byte) { f[23] = 0xe8 }), "deleted or half written"},
		{"a half-written driver", file(func(f []byte) { f[23] = 0xfc }), "deleted or half written"},
		{"a file of type 0", volumeOf(driver, ffsOf(guidOther, 0, code)), "of type 0x0"},
		{"a file of another maker's type", volumeOf(driver, ffsOf(guidOther, 0xc0, code)), "of type 0xc0"},
		{"a large file in FFS2", large(guidFFS2, ffsLarge, 32+64), "a large file where none can be"},
		{"a large file whose header is cut", cutLarge, "a large file where none can be"},
		{"a large file shorter than its header", large(guidFFS3, ffsLarge, 31), "an impossible length"},
		{"a large file without end", large(guidFFS3, ffsLarge, 1<<64-1), "an impossible length"},

		{"a section cut short", section([]byte{4, 0, 0}), "cut short"},
		{"a long header cut short", section([]byte{0xff, 0xff, 0xff, 0x10, 8, 0, 0}), "cut short"},
		{"a section shorter than its header", section([]byte{3, 0, 0, 0x10}), "an impossible length"},
		{"a section beyond its file", section([]byte{5, 0, 0, 0x10}), "an impossible length"},
		{"a section of type 0", section(sectionOf(0, nil)), "of type 0x0"},
		{"a section of an unknown type", section(sectionOf(0x1d, nil)), "of type 0x1d"},
		{"a section compressed as of old", section(sectionOf(1, make([]byte, 5))), "of type 0x1"},
		{"a section packed by Tiano's compression", section(guidedOf(newGUID(0xa31280ad, 0x481e, 0x41b6, [8]byte{0x95, 0xe8, 0x12, 0x7f, 0x4c, 0x98, 0x47, 0x79}), nil)), "does not use"},
		{"a guided section of a name alone", section(sectionOf(sectionGUIDed, guidLZMA[:])), "does not use"},
		{"packed data within their header", section(append(lzmaOf(code)[:20], append([]byte{23, 0}, lzmaOf(code)[22:]...)...)), "its contents lie outside"},
		{"packed data beyond their section", section(append(lzmaOf(code)[:20], append([]byte{0, 2}, lzmaOf(code)[22:]...)...)), "its contents lie outside"},
		{"packed data cut in their header", section(guidedOf(guidLZMA, packedOf(t, code)[:12])), "unpacking LZMA: cut short"},
		{"packed data cut short", section(guidedOf(guidLZMA, packedOf(t, code)[:20])), "unpacking LZMA"},
		{"packed with wrong properties", section(guidedOf(guidLZMA, append([]byte{0xff}, packedOf(t, code)[1:]...))), "unpacking LZMA"},
		{"packed data that unpack to nonsense", section(lzmaOf([]byte{3, 0, 0, 0x10})), "an impossible length"},
		{"64 MiB, and no data for them", section(claim(1<<16, 64<<20)), "unpacking LZMA: unexpected EOF"},
		{"64 MiB after others", volumeOf(ffsOf(guidOther, 2, streamOf(lzmaOf(code), claim(1<<16, 64<<20)))), "makes more than 64 MiB"},
		{"a byte more than 64 MiB", section(claim(1<<16, 64<<20+1)), "makes more than 64 MiB"},
		{"a size that nobody knows", section(claim(1<<16, 1<<64-1)), "makes more than 64 MiB"},
		{"a dictionary of more than 64 MiB", section(claim(64<<20+1, 100)), "needs or makes more than 64 MiB"},
		{"nine levels", nested(9), "more than 8 levels"},
		{"nine packings", section(packings(9)), "more than 8 levels"},
		{"endless sections", section(bytes.Repeat(sectionOf(0x19, nil), maxFVItems)), "more than 16384 files and sections"},
		{"endless files", volumeOf(slices.Repeat([][]byte{ffsOf(guidOther, ffsRaw, nil)}, maxFVItems+1)...), "more than 16384 files"},
	} {
		err := checkMeasuring([]tdSection{{code: true, data: c.data}})
		if (err == nil) != (c.word == "") || err != nil && (!strings.Contains(err.Error(), c.word) || !strings.Contains(err.Error(), "OvmfPkg/IntelTdx")) {
			t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
		}
	}
	// Code may be in several sections; what is no code is nobody's word.
	if err := checkMeasuring([]tdSection{{code: true, data: volumeOf(other)}, {code: true, data: volumeOf(driver)}}); err != nil {
		t.Error(err)
	}
	if err := checkMeasuring([]tdSection{{code: true, data: volumeOf(other)}, {extend: true, data: volumeOf(driver)}}); err == nil || !strings.Contains(err.Error(), none) {
		t.Errorf("a driver in the configuration volume: %v", err)
	}
}
