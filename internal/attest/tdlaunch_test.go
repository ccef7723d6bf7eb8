package attest

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func madeTD(t testing.TB) TDLaunch {
	t.Helper()
	initrd := file(t, "digest/initrd.bin")
	return TDLaunch{
		Firmware: file(t, "digest/td-firmware.bin"), Kernel: file(t, "digest/td-kernel.bin"),
		InitrdSHA384: sha512.Sum384(initrd), InitrdSize: int64(len(initrd)), CommandLine: "siesta.ws=example", MemoryMiB: 2048,
	}
}

// withoutDrivers is firmware of a page with TDX metadata, and nothing to run.
func withoutDrivers() []byte {
	return madeFirmware{size: pageSize, fromEnd: 300, entries: [][]byte{tableEntry(guidTDXMetadata, le32(300))}, metadata: tdMetadataOf(
		tdItem{0, pageSize, 0xfffff000, pageSize, tdSectionCode, tdExtend}, tdItem{0, 0, 0x809000, pageSize, tdSectionHOB, 0},
	)}.bytes()
}

// TestTDVectors holds the calculator against others: see testdata/ORIGIN.
func TestTDVectors(t *testing.T) {
	var vectors []struct {
		MemoryMiB    int    `json:"memory_mib"`
		Line         string `json:"command_line"`
		MRTD         string
		RTMR1, RTMR2 []string
	}
	decode(t, "digest/td-vectors.json", &vectors)
	if len(vectors) != 5 {
		t.Fatalf("%d vectors, want 5", len(vectors))
	}
	for i, v := range vectors {
		l := madeTD(t)
		l.MemoryMiB, l.CommandLine = v.MemoryMiB, v.Line
		ref, err := l.Reference()
		if err != nil {
			t.Errorf("vector %d: %v", i, err)
			continue
		}
		if hex.EncodeToString(ref.MRTD[:]) != v.MRTD || !slices.Equal(hexAll(ref.RTMR1), v.RTMR1) || !slices.Equal(hexAll(ref.RTMR2), v.RTMR2) {
			t.Errorf("vector %d: %x, %q, %q, want %+v", i, ref.MRTD, hexAll(ref.RTMR1), hexAll(ref.RTMR2), v)
		}
	}
}

// TestRTMR1OfRealBoots: two trust domains that booted a kernel directly, one with
// OVMF of before edk2-stable202411, and one of after, whose quote and log are
// dstack/verifier/fixtures/tdx-lite-getquote.json of Dstack-TEE/dstack 312dc605.
func TestRTMR1OfRealBoots(t *testing.T) {
	events, err := parseEventLog(tdxFile(t, "ccel-ovmf.bin"))
	if err != nil {
		t.Fatal(err)
	}
	registers := replay(events)
	i := slices.IndexFunc(events, func(e logEvent) bool { return e.register == registerOfKernel })
	if got := rtmr1Of(events[i].digest)[1]; !bytes.Equal(got, registers[1][:]) {
		t.Errorf("older firmware: %x, want %x", got, registers[1])
	}
	kernel, err := hex.DecodeString("ac7e632dcf5cd2a1fe5c1f41f4d9b8219570e64ed3c61038fdbf25404e6f542ffd57f276bc5076307efaf882e6d64177")
	if err != nil {
		t.Fatal(err)
	}
	const want = "2023546e7f3b9d1228e274f70c44d481162540f8452544520a796a52f06879709b81a824a26792a7822327504b0d2aee"
	if got := hex.EncodeToString(rtmr1Of([48]byte(kernel))[0]); got != want {
		t.Errorf("newer firmware: %s, want %s", got, want)
	}
}

// A kernel that OVMF runs without measuring it finds a register that begins with
// eventCalling, and can extend it by anything.
func TestKernelComesFirst(t *testing.T) {
	kernel := [48]byte{1}
	for _, v := range rtmr1Of(kernel) {
		for _, more := range [][][48]byte{{kernel, eventExit, eventExited}, {kernel, eventSeparator, eventExit, eventExited}, {eventSeparator, kernel, eventExit, eventExited}, {kernel, eventCalling, eventExit, eventExited}, {kernel, eventCalling, eventSeparator, eventExit, eventExited}} {
			if bytes.Equal(v, extended(append([][48]byte{eventCalling}, more...)...)) {
				t.Errorf("%x is also what an unmeasured kernel could make", v)
			}
		}
	}
	if len(rtmr1Of(kernel)) != 2 || bytes.Equal(rtmr1Of(kernel)[0], rtmr1Of([48]byte{2})[0]) {
		t.Error("the values are not those of a kernel")
	}
}

func TestTDReferenceRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*TDLaunch)
		word   string
	}{
		{"nothing", func(l *TDLaunch) { *l = TDLaunch{} }, "no command line"},
		{"no line", func(l *TDLaunch) { l.CommandLine = "" }, "no command line"},
		{"a long line", func(l *TDLaunch) { l.CommandLine = strings.Repeat("x", 256) }, "more than 255 bytes"},
		{"a line that is not ASCII", func(l *TDLaunch) { l.CommandLine = "siesta.ws=é" }, "not printable ASCII"},
		{"a line with a NUL", func(l *TDLaunch) { l.CommandLine = "siesta.ws=x\x00" }, "not printable ASCII"},
		{"a line for QEMU", func(l *TDLaunch) { l.CommandLine = "vga=ask siesta.ws=x" }, "vga= in the command line"},
		{"no initrd", func(l *TDLaunch) { l.InitrdSize = 0 }, "no initrd"},
		{"an initrd of less than nothing", func(l *TDLaunch) { l.InitrdSize = -1 }, "no initrd"},
		{"an endless initrd", func(l *TDLaunch) { l.InitrdSize = 1<<63 - 1 }, "no room"},
		{"no memory", func(l *TDLaunch) { l.MemoryMiB = 0 }, "0 MiB of memory"},
		{"endless memory", func(l *TDLaunch) { l.MemoryMiB = 1<<63 - 1 }, "MiB of memory"},
		{"no firmware", func(l *TDLaunch) { l.Firmware = nil }, "reading firmware"},
		{"firmware that measures nothing", func(l *TDLaunch) { l.Firmware = withoutDrivers() }, "what it measures cannot be told"},
		{"a kernel that does not measure", func(l *TDLaunch) { l.Kernel = kernelOf(t, "6.8.12-generic") }, "it is Linux 6.8; give Linux 6.9 or later"},
		{"no kernel", func(l *TDLaunch) { l.Kernel = nil }, "reading kernel"},
		{"a kernel without a stub", func(l *TDLaunch) { l.Kernel = slices.Clone(l.Kernel); l.Kernel[0] = 0 }, "CONFIG_EFI_STUB"},
	} {
		l := madeTD(t)
		c.change(&l)
		if ref, err := l.Reference(); err == nil || !strings.Contains(err.Error(), c.word) || len(ref.RTMR1)+len(ref.RTMR2) > 0 {
			t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
		}
	}
	// A kernel whose header already stands as QEMU would have it has two values.
	l := madeTD(t)
	var err error
	if l.Kernel, err = loadedByQEMU(l.Kernel, l.MemoryMiB, l.InitrdSize); err != nil {
		t.Fatal(err)
	}
	if ref, err := l.Reference(); err != nil || len(ref.RTMR1) != 2 {
		t.Errorf("%d values, %v", len(ref.RTMR1), err)
	}
}

// TestTDReferenceIsOfItsLaunch: evidence of the launch is judged good by a policy of
// its reference values, and evidence of another line, initrd or kernel is not.
func TestTDReferenceIsOfItsLaunch(t *testing.T) {
	l := madeTD(t)
	ref, err := l.Reference()
	if err != nil {
		t.Fatal(err)
	}
	if len(ref.RTMR1) != 4 || len(ref.RTMR2) != 3 {
		t.Fatalf("%d and %d values", len(ref.RTMR1), len(ref.RTMR2))
	}
	for name, change := range map[string]func(*TDLaunch){
		"line":   func(l *TDLaunch) { l.CommandLine += "0" },
		"initrd": func(l *TDLaunch) { l.InitrdSHA384[0]++ },
	} {
		other := l
		change(&other)
		got, err := other.Reference()
		if err != nil || slices.ContainsFunc(got.RTMR2, func(v []byte) bool { return contains(ref.RTMR2, v) }) {
			t.Errorf("another %s has a value in common: %v", name, err)
		}
	}
	other := l
	other.Kernel = slices.Clone(l.Kernel)
	other.Kernel[0x500]++
	got, err := other.Reference()
	if err != nil || slices.ContainsFunc(got.RTMR1, func(v []byte) bool { return contains(ref.RTMR1, v) }) {
		t.Errorf("another kernel has a value in common: %v", err)
	}
}

// FuzzTDLaunch feeds files that somebody uploaded.
func FuzzTDLaunch(f *testing.F) {
	l := madeTD(f)
	f.Add(l.Firmware, l.Kernel, l.InitrdSize, l.MemoryMiB)
	f.Add(withoutDrivers(), l.Kernel, l.InitrdSize, l.MemoryMiB)
	f.Add(withoutDrivers()[:2048], l.Kernel[:setupEnd], int64(1<<32), 4)
	f.Fuzz(func(t *testing.T, firmware, kernel []byte, initrd int64, memory int) {
		// Each reader by itself: the reference needs all three to agree.
		if sections, err := tdSections(firmware); err == nil {
			mrtd(sections)
			_ = checkMeasuring(sections)
		}
		_ = checkKernelVersion(kernel)
		_, _ = ImageDigest(kernel)
		if out, err := loadedByQEMU(kernel, max(1, min(memory, maxMemoryMiB)), max(1, initrd)); err == nil && len(out) != len(kernel) {
			t.Error("QEMU's kernel has another length")
		}
		l.Firmware, l.Kernel, l.InitrdSize, l.MemoryMiB = firmware, kernel, initrd, memory
		ref, err := l.Reference()
		if values := len(ref.RTMR1); err == nil && values != 2 && values != 4 || err != nil && values != 0 {
			t.Errorf("%d values of RTMR1, %v", values, err)
		}
	})
}
