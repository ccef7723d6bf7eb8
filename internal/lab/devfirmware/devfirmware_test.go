//go:build devtee

package devfirmware

import (
	"bytes"
	"os"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// TestGenerate shows that the file is stable and that each input of a launch
// changes the digest over it.
func TestGenerate(t *testing.T) {
	fw := Generate()
	if !bytes.Equal(fw, Generate()) {
		t.Fatal("two calls, two files")
	}
	kernel, initrd, other := [32]byte{1}, [32]byte{2}, [32]byte{3}
	base := attest.DigestInput{Firmware: fw, KernelSHA256: &kernel, InitrdSHA256: &initrd, Append: "siesta.gen=1", VCPUs: 2, VCPUSig: 0xa10f10, GuestFeatures: 1}
	seen := map[[48]byte]string{}
	for name, change := range map[string]func(*attest.DigestInput){
		"as it is":   func(*attest.DigestInput) {},
		"kernel":     func(in *attest.DigestInput) { in.KernelSHA256 = &other },
		"initrd":     func(in *attest.DigestInput) { in.InitrdSHA256 = &other },
		"no initrd":  func(in *attest.DigestInput) { in.InitrdSHA256 = nil },
		"line":       func(in *attest.DigestInput) { in.Append = "siesta.gen=2" },
		"processors": func(in *attest.DigestInput) { in.VCPUs = 3 },
		"model":      func(in *attest.DigestInput) { in.VCPUSig++ },
		"features":   func(in *attest.DigestInput) { in.GuestFeatures = 0x21 },
	} {
		in := base
		change(&in)
		d, err := attest.LaunchDigest(in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if was, ok := seen[d]; ok {
			t.Errorf("%s and %s give one digest", name, was)
		}
		seen[d] = name
	}
}

// TestTrustDomain shows the same of a trust domain's values, and that the firmware
// alone decides the measurement of its launch.
func TestTrustDomain(t *testing.T) {
	kernel, err := os.ReadFile("../../attest/testdata/digest/td-kernel.bin")
	if err != nil {
		t.Fatal(err)
	}
	reference := func(firmware []byte, line string) attest.TDReference {
		t.Helper()
		ref, err := attest.TDLaunch{Firmware: firmware, Kernel: kernel, InitrdSHA384: [48]byte{1}, InitrdSize: 100, CommandLine: line, MemoryMiB: 384}.Reference()
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	changed := Generate()
	changed[bytes.Index(changed, []byte("siestad"))]++
	one, line, firmware := reference(Generate(), "siesta.gen=1"), reference(Generate(), "siesta.gen=2"), reference(changed, "siesta.gen=1")
	if line.MRTD != one.MRTD || bytes.Equal(line.RTMR2[0], one.RTMR2[0]) {
		t.Error("the line is not in RTMR2 alone")
	}
	if firmware.MRTD == one.MRTD {
		t.Error("a byte of the firmware is not in MRTD")
	}
}
