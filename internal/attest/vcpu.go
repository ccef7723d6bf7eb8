package attest

// signature packs family, model and stepping as CPUID leaf 1 gives them in EAX.
func signature(family, model, stepping uint32) uint32 {
	base, extended := family, uint32(0)
	if family > 0xf {
		base, extended = 0xf, family-0xf
	}
	return extended<<20 | model>>4<<16 | base<<8 | model&0xf<<4 | stepping
}

// Signatures of QEMU's EPYC models. A named model keeps the digest the same on
// every host; with host-passthrough the signature is that of the host.
var vcpuSignatures = func() map[string]uint32 {
	naples, rome := signature(23, 1, 2), signature(23, 49, 0)
	milan, genoa, turin := signature(25, 1, 1), signature(25, 17, 0), signature(26, 0, 0)
	return map[string]uint32{
		"EPYC": naples, "EPYC-v1": naples, "EPYC-v2": naples, "EPYC-IBPB": naples, "EPYC-v3": naples, "EPYC-v4": naples,
		"EPYC-Rome": rome, "EPYC-Rome-v1": rome, "EPYC-Rome-v2": rome, "EPYC-Rome-v3": rome,
		"EPYC-Milan": milan, "EPYC-Milan-v1": milan, "EPYC-Milan-v2": milan,
		"EPYC-Genoa": genoa, "EPYC-Genoa-v1": genoa,
		"EPYC-Turin": turin,
	}
}()

// VCPUSig returns the CPUID signature of a CPU model of QEMU.
func VCPUSig(name string) (uint32, bool) {
	sig, ok := vcpuSignatures[name]
	return sig, ok
}
