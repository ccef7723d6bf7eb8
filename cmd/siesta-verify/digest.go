package main

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// digestCommand computes what a workspace must measure, from nothing but files
// that anyone can hold.
func digestCommand() *cobra.Command {
	var d digestFlags
	cmd := &cobra.Command{
		Use:   "digest",
		Short: "Compute what a directly booted guest must measure",
		Long: `Prints, in hex, what the evidence of a confidential guest must carry when QEMU
boots it directly from this firmware, kernel, initrd and command line: the
launch digest of an AMD SEV-SNP guest, or with --tee tdx the registers of an Intel
TDX guest, with one line for each value that a register may have. The command line
counts byte by byte as Nova was given it, without the final NUL.`,
		Example: `  siesta-verify digest --firmware OVMF.fd --kernel vmlinuz --initrd initrd.img \
    --append "console=ttyS0 siesta.ws=01j…" --vcpus 2 --vcpu-type EPYC-Genoa --guest-features 0x1
  siesta-verify digest --tee tdx --firmware OVMF.inteltdx.fd --kernel vmlinuz --initrd initrd.img \
    --append "console=ttyS0 siesta.ws=01j…" --memory 4096`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := d.compute(cmd.Flags().Changed)
			if err != nil {
				// Nothing was compared, so no error here says that something is untrue.
				return &cannotJudge{err}
			}
			if _, err = fmt.Fprint(cmd.OutOrStdout(), text); err != nil {
				return unjudged("writing the digest: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.tee, "tee", "sev-snp", "`kind` of guest: sev-snp or tdx")
	f.StringVar(&d.firmware, "firmware", "", "OVMF firmware `file`")
	f.StringVar(&d.kernel, "kernel", "", "kernel `file`; without one an SEV-SNP guest boots from its disk, unmeasured")
	f.StringVar(&d.initrd, "initrd", "", "initrd `file`")
	f.StringVar(&d.line, "append", "", "kernel command `line`")
	f.IntVar(&d.vcpus, "vcpus", 0, "`number` of virtual processors (sev-snp)")
	f.StringVar(&d.vcpuType, "vcpu-type", "", "QEMU's `name` of the CPU model, such as EPYC-Genoa (sev-snp)")
	f.StringVar(&d.vcpuSig, "vcpu-sig", "", "CPUID signature of the virtual CPU in `hex` (sev-snp)")
	f.StringVar(&d.features, "guest-features", "", "SEV_FEATURES in `hex`, 0x1 for plain SEV-SNP (sev-snp)")
	f.IntVar(&d.memory, "memory", 0, "the guest's memory in `MiB` (tdx)")
	if err := cmd.MarkFlagRequired("firmware"); err != nil {
		panic(err) // the name is a constant defined above
	}
	cmd.MarkFlagsMutuallyExclusive("vcpu-type", "vcpu-sig")
	return cmd
}

type digestFlags struct {
	tee, firmware, kernel, initrd, line string
	vcpuType, vcpuSig, features         string
	vcpus, memory                       int
}

// maxDigestFile bounds what is read into memory: a firmware, or the kernel of a TD.
// Other files are only hashed.
const maxDigestFile = 64 << 20

func (d *digestFlags) compute(given func(flag string) bool) (string, error) {
	var needed, others []string
	switch d.tee {
	case "sev-snp":
		needed, others = []string{"vcpus", "guest-features"}, []string{"memory"}
		if !given("vcpu-type") && !given("vcpu-sig") {
			return "", errors.New("--vcpu-type or --vcpu-sig is missing: the signature of the CPU is measured")
		}
	case "tdx":
		needed, others = []string{"kernel", "initrd", "append", "memory"}, []string{"vcpus", "guest-features", "vcpu-type", "vcpu-sig"}
	default:
		return "", fmt.Errorf("--tee is %q; write sev-snp or tdx", d.tee)
	}
	for _, name := range needed {
		if !given(name) {
			return "", fmt.Errorf("--%s is missing: it is measured, or decides what is", name)
		}
	}
	for _, name := range others {
		if given(name) {
			return "", fmt.Errorf("--%s decides none of the values of a guest of kind %s; leave it out", name, d.tee)
		}
	}
	firmware, err := readBounded(d.firmware)
	if err != nil {
		return "", fmt.Errorf("reading firmware: %w", err)
	}
	if d.tee == "tdx" {
		return d.trustDomain(firmware)
	}
	return d.launchDigest(firmware)
}

func (d *digestFlags) launchDigest(firmware []byte) (_ string, err error) {
	in := attest.DigestInput{Firmware: firmware, Append: d.line, VCPUs: d.vcpus}
	if in.GuestFeatures, err = parseHex(d.features, 64); err != nil {
		return "", fmt.Errorf("reading --guest-features: %w", err)
	}
	if d.vcpuType != "" {
		sig, ok := attest.VCPUSig(d.vcpuType)
		if !ok {
			return "", fmt.Errorf("reading --vcpu-type: no signature is known for %q; give it with --vcpu-sig", d.vcpuType)
		}
		in.VCPUSig = sig
	} else {
		sig, err := parseHex(d.vcpuSig, 32)
		if err != nil {
			return "", fmt.Errorf("reading --vcpu-sig: %w", err)
		}
		in.VCPUSig = uint32(sig)
	}
	if in.KernelSHA256, err = fileSHA256(d.kernel); err != nil {
		return "", fmt.Errorf("reading kernel: %w", err)
	}
	if in.InitrdSHA256, err = fileSHA256(d.initrd); err != nil {
		return "", fmt.Errorf("reading initrd: %w", err)
	}
	digest, err := attest.LaunchDigest(in)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x\n", digest), nil
}

func (d *digestFlags) trustDomain(firmware []byte) (_ string, err error) {
	l := attest.TDLaunch{Firmware: firmware, CommandLine: d.line, MemoryMiB: d.memory}
	if l.Kernel, err = readBounded(d.kernel); err != nil {
		return "", fmt.Errorf("reading kernel: %w", err)
	}
	h := sha512.New384()
	if l.InitrdSize, err = hashFile(h, d.initrd); err != nil {
		return "", fmt.Errorf("reading initrd: %w", err)
	}
	l.InitrdSHA384 = [48]byte(h.Sum(nil))
	ref, err := l.Reference()
	if err != nil {
		return "", err
	}
	out := fmt.Sprintf("mrtd   %x\n", ref.MRTD)
	for _, v := range ref.RTMR1 {
		out += fmt.Sprintf("rtmr1  %x\n", v)
	}
	for _, v := range ref.RTMR2 {
		out += fmt.Sprintf("rtmr2  %x\n", v)
	}
	return out, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxDigestFile {
		return nil, fmt.Errorf("%d bytes are too many for one", info.Size())
	}
	return os.ReadFile(path)
}

// parseHex reads a number in hex, with or without 0x.
func parseHex(s string, bits int) (uint64, error) {
	trimmed := strings.TrimPrefix(strings.ToLower(s), "0x")
	v, err := strconv.ParseUint(trimmed, 16, bits)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of up to %d bits in hex", s, bits)
	}
	return v, nil
}

// fileSHA256 gives nil for no file.
func fileSHA256(path string) (*[32]byte, error) {
	if path == "" {
		return nil, nil
	}
	h := sha256.New()
	if _, err := hashFile(h, path); err != nil {
		return nil, err
	}
	return (*[32]byte)(h.Sum(nil)), nil
}

func hashFile(h hash.Hash, path string) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.Copy(h, f)
}
