package workspace

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/image"
)

// domain is what a trust domain of the run must measure. Like all of the run it outlives the process.
type domain struct {
	MRTD   []byte   `json:"mrtd"`
	RTMR1  [][]byte `json:"rtmr1"`
	RTMR2  [][]byte `json:"rtmr2"`
	Initrd []byte   `json:"initrd"`
}

// lines are for people: each value with the register's name.
func (d *domain) lines() []string {
	out := []string{"mrtd " + hex.EncodeToString(d.MRTD)}
	for _, r := range []struct {
		name   string
		values [][]byte
	}{{"rtmr1 ", d.RTMR1}, {"rtmr2 ", d.RTMR2}} {
		for _, v := range r.values {
			out = append(out, r.name+hex.EncodeToString(v))
		}
	}
	return out
}

// measure computes what a guest with this line must turn out to be, from the files of its approved image.
func (s *Service) measure(ctx context.Context, site *Site, img image.Image, line string, r *run) (err error) {
	if !site.TEE.OnTDX() {
		r.Measurements, err = s.launchDigests(ctx, site, img, line, r.VCPUs)
		return err
	}
	if r.Domain, err = s.domain(ctx, img, line, r.MemoryMiB); err != nil {
		return err
	}
	r.Measurements = r.Domain.lines()
	return nil
}

// launchDigests are those of an SEV-SNP guest, one for each processor and feature word that the site's hosts may have.
func (s *Service) launchDigests(ctx context.Context, site *Site, img image.Image, line string, vcpus int) ([]string, error) {
	firmware, err := s.whole(ctx, image.Firmware, img.Firmware)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, sig := range site.VCPUSigs {
		for _, features := range site.GuestFeatures {
			digest, err := attest.LaunchDigest(attest.DigestInput{
				Firmware: firmware, KernelSHA256: &img.Kernel.SHA256, InitrdSHA256: &img.Initrd.SHA256,
				Append: line, VCPUs: vcpus, VCPUSig: sig, GuestFeatures: features,
			})
			if err != nil {
				return nil, flow.Fatal(wrap(codeImage, "an operator registers an image whose firmware carries the metadata for SEV-SNP", err))
			}
			out = append(out, hex.EncodeToString(digest[:]))
		}
	}
	return out, nil
}

// domain is what a trust domain is launched from, and what it then measures.
func (s *Service) domain(ctx context.Context, img image.Image, line string, memoryMiB int) (*domain, error) {
	if memoryMiB == 0 { // the run was resolved when its site had another TEE
		return nil, flow.Fatal(problem(codeConfig, "create the workspace again", "the TEE of the site is another than when the creation began"))
	}
	launch := attest.TDLaunch{InitrdSize: img.Initrd.Size, CommandLine: line, MemoryMiB: memoryMiB}
	h := sha512.New384() // the largest file is read in pieces
	if err := s.copyFile(ctx, h, image.Initrd, img.Initrd); err != nil {
		return nil, err
	}
	h.Sum(launch.InitrdSHA384[:0])
	// Kernels are large, too: one at a time is held in memory.
	select {
	case s.measuring <- struct{}{}:
		defer func() { <-s.measuring }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for another trust domain to be measured: %w", ctx.Err())
	}
	var err error
	if launch.Firmware, err = s.whole(ctx, image.Firmware, img.Firmware); err != nil {
		return nil, err
	}
	if launch.Kernel, err = s.whole(ctx, image.Kernel, img.Kernel); err != nil {
		return nil, err
	}
	ref, err := s.cfg.reference(launch)
	if err != nil {
		return nil, flow.Fatal(wrap(codeImage, "an operator registers an image whose firmware and kernel measure what a trust domain boots: an OVMF for TDX (OvmfPkg/IntelTdx) without TPM support, Linux 6.9 or later, with room for the initrd in the flavor's memory", err))
	}
	return &domain{MRTD: ref.MRTD[:], RTMR1: ref.RTMR1, RTMR2: ref.RTMR2, Initrd: launch.InitrdSHA384[:]}, nil
}

// whole reads a stored file of an image.
func (s *Service) whole(ctx context.Context, kind image.Kind, f image.File) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(min(f.Size, kind.MaxSize())))
	err := s.copyFile(ctx, &b, kind, f)
	return b.Bytes(), err
}

// copyFile copies a stored file of an image: no more than its kind may have, and exactly the bytes that were approved.
func (s *Service) copyFile(ctx context.Context, to io.Writer, kind image.Kind, f image.File) error {
	fail := func(err error) error { return fmt.Errorf("reading the image's %s %x: %w", kind, f.SHA256[:8], err) }
	body, err := s.cfg.Images.Open(ctx, f.SHA256)
	if err != nil {
		return fail(err)
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, h), io.LimitReader(body, kind.MaxSize()+1)); err != nil {
		return fail(err)
	}
	if [sha256.Size]byte(h.Sum(nil)) != f.SHA256 {
		return fail(errors.New("what is stored is not what was approved"))
	}
	return nil
}
