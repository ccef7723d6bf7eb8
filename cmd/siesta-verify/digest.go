package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
		Short: "Compute the SEV-SNP launch digest of a directly booted guest",
		Long: `Prints the launch digest, in hex, that the report of an AMD SEV-SNP guest must
carry when QEMU boots it directly from this firmware, kernel, initrd and command
line. The line counts byte by byte as Nova was given it, without the final NUL.`,
		Example: `  siesta-verify digest --firmware OVMF.fd --kernel vmlinuz --initrd initrd.img \
    --append "console=ttyS0 siesta.ws=01j…" --vcpus 2 --vcpu-type EPYC-Genoa --guest-features 0x1`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			digest, err := d.compute()
			if err != nil {
				// Nothing was compared, so no error here says that something is untrue.
				return &cannotJudge{err}
			}
			if _, err = fmt.Fprintln(cmd.OutOrStdout(), hex.EncodeToString(digest[:])); err != nil {
				return unjudged("writing the digest: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.firmware, "firmware", "", "OVMF firmware `file`")
	f.StringVar(&d.kernel, "kernel", "", "kernel `file`; without one the guest boots from its disk, unmeasured")
	f.StringVar(&d.initrd, "initrd", "", "initrd `file`")
	f.StringVar(&d.line, "append", "", "kernel command `line`")
	f.IntVar(&d.vcpus, "vcpus", 0, "`number` of virtual processors")
	f.StringVar(&d.vcpuType, "vcpu-type", "", "QEMU's `name` of the CPU model, such as EPYC-Genoa")
	f.StringVar(&d.vcpuSig, "vcpu-sig", "", "CPUID signature of the virtual CPU in `hex`")
	f.StringVar(&d.features, "guest-features", "", "SEV_FEATURES in `hex`, 0x1 for plain SEV-SNP")
	for _, name := range []string{"firmware", "vcpus", "guest-features"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the name is a constant defined above
		}
	}
	cmd.MarkFlagsOneRequired("vcpu-type", "vcpu-sig")
	cmd.MarkFlagsMutuallyExclusive("vcpu-type", "vcpu-sig")
	return cmd
}

type digestFlags struct {
	firmware, kernel, initrd, line string
	vcpuType, vcpuSig, features    string
	vcpus                          int
}

// maxDigestFirmware bounds what is read into memory; kernel and initrd are only hashed.
const maxDigestFirmware = 64 << 20

func (d *digestFlags) compute() (digest [48]byte, err error) {
	in := attest.DigestInput{Append: d.line, VCPUs: d.vcpus}
	if in.GuestFeatures, err = parseHex(d.features, 64); err != nil {
		return digest, fmt.Errorf("reading --guest-features: %w", err)
	}
	if d.vcpuType != "" {
		sig, ok := attest.VCPUSig(d.vcpuType)
		if !ok {
			return digest, fmt.Errorf("reading --vcpu-type: no signature is known for %q; give it with --vcpu-sig", d.vcpuType)
		}
		in.VCPUSig = sig
	} else {
		sig, err := parseHex(d.vcpuSig, 32)
		if err != nil {
			return digest, fmt.Errorf("reading --vcpu-sig: %w", err)
		}
		in.VCPUSig = uint32(sig)
	}
	info, err := os.Stat(d.firmware)
	if err != nil {
		return digest, fmt.Errorf("reading firmware: %w", err)
	}
	if info.Size() > maxDigestFirmware {
		return digest, fmt.Errorf("reading firmware: %d bytes are too many for one", info.Size())
	}
	if in.Firmware, err = os.ReadFile(d.firmware); err != nil {
		return digest, fmt.Errorf("reading firmware: %w", err)
	}
	if in.KernelSHA256, err = fileSHA256(d.kernel); err != nil {
		return digest, fmt.Errorf("reading kernel: %w", err)
	}
	if in.InitrdSHA256, err = fileSHA256(d.initrd); err != nil {
		return digest, fmt.Errorf("reading initrd: %w", err)
	}
	return attest.LaunchDigest(in)
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
func fileSHA256(path string) (_ *[32]byte, err error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return (*[32]byte)(h.Sum(nil)), nil
}
