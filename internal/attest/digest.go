package attest

// DigestInput is everything that enters the launch digest of a guest that
// QEMU/KVM boots directly from kernel, initrd and command line.
type DigestInput struct {
	// Firmware is the whole OVMF file.
	Firmware []byte
	// KernelSHA256 is nil for a guest that boots from its disk, whose kernel then
	// is not in the digest. InitrdSHA256 nil means no initrd.
	KernelSHA256, InitrdSHA256 *[32]byte
	// Append is the kernel command line without its final NUL.
	Append string
	VCPUs  int
	// VCPUSig is the CPUID signature of the virtual CPU model.
	VCPUSig uint32
	// GuestFeatures is SEV_FEATURES, 1 for plain SNP.
	GuestFeatures uint64
}
