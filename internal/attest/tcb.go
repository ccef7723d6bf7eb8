package attest

import "fmt"

// TCB is a set of security patch levels. FMC exists on Turin only.
type TCB struct {
	FMC        uint8 `json:"fmc" yaml:"fmc"`
	Bootloader uint8 `json:"bootloader" yaml:"bootloader"`
	TEE        uint8 `json:"tee" yaml:"tee"`
	SNP        uint8 `json:"snp" yaml:"snp"`
	Microcode  uint8 `json:"microcode" yaml:"microcode"`
}

// tcbFrom reads the eight bytes of a TCB_VERSION. The layout depends on the
// product line; reserved bytes that are set make ok false, since nobody can say
// what they would mean.
func tcbFrom(v uint64, line string) (t TCB, ok bool) {
	b := func(i int) uint8 { return uint8(v >> (8 * i)) }
	if line == Turin {
		return TCB{FMC: b(0), Bootloader: b(1), TEE: b(2), SNP: b(3), Microcode: b(7)}, v>>32&0xffffff == 0
	}
	return TCB{Bootloader: b(0), TEE: b(1), SNP: b(6), Microcode: b(7)}, v>>16&0xffffffff == 0
}

// AtLeast reports whether no component of t is below the floor's.
func (t TCB) AtLeast(floor TCB) bool {
	return t.FMC >= floor.FMC && t.Bootloader >= floor.Bootloader && t.TEE >= floor.TEE &&
		t.SNP >= floor.SNP && t.Microcode >= floor.Microcode
}

func (t TCB) String() string {
	return fmt.Sprintf("fmc=%d bootloader=%d tee=%d snp=%d microcode=%d", t.FMC, t.Bootloader, t.TEE, t.SNP, t.Microcode)
}
