//go:build devtee

package stack

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/qemu"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
)

// What the simulated host gives every guest; the site's configuration says the same.
const (
	guestFeatures = 1
	vcpuType      = "EPYC-Milan"
)

// host is the hypervisor of both sites: it starts guests and gives each the ear of its kind of simulated processor.
type host struct {
	dir      string
	psp      *softpsp.PSP
	platform *softtd.Platform
	firmware []byte
	logger   *zap.Logger

	mu       sync.Mutex
	count    int
	launched map[string]launch // by workspace, as its command line names it
}

// launch is what a guest is started from.
type launch struct {
	qemu.Spec
	domain bool // as a trust domain
}

// boot starts a guest and serves its reports, measured over spec, for as long as it runs.
func (h *host) boot(ctx context.Context, spec launch) (*qemu.Machine, error) {
	h.mu.Lock()
	h.count++
	number := strconv.Itoa(h.count)
	spec.PSPSocket = filepath.Join(h.dir, "psp-"+number)
	if ws := workspaceOf(spec.Append); ws != "" && h.launched[ws].Kernel == "" {
		h.launched[ws] = spec
	}
	h.mu.Unlock()

	machine, err := qemu.Start(ctx, spec.Spec)
	if err != nil {
		return nil, err
	}
	// The cloud forgets a console with its server; what a guest said is kept here for whoever asks why it failed.
	if err := os.Link(spec.Console, filepath.Join(h.dir, "console-"+number+".log")); err != nil {
		h.logger.Warn("keeping a guest's console", zap.Error(err))
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", spec.PSPSocket)
	if err != nil {
		machine.Kill()
		return nil, fmt.Errorf("reaching the guest's report port: %w", err)
	}
	go func() {
		defer os.Remove(spec.PSPSocket)
		defer conn.Close()
		serve := func() error { return h.psp.Serve(conn, func() ([48]byte, error) { return h.measure(spec.Spec) }) }
		if spec.domain {
			serve = func() error {
				return h.platform.Serve(conn, func() (softtd.Boot, error) { return h.measureDomain(spec.Spec) })
			}
		}
		if err := serve(); err != nil && !errors.Is(err, net.ErrClosed) {
			h.logger.Warn("serving a guest's reports ended", zap.Error(err))
		}
	}()
	return machine, nil
}

// measure computes the launch digest of the very files and words that QEMU was started with.
func (h *host) measure(spec qemu.Spec) ([48]byte, error) {
	kernel, initrd := sha256.New(), sha256.New()
	for path, h := range map[string]hash.Hash{spec.Kernel: kernel, spec.Initrd: initrd} {
		if _, err := hashFile(h, path); err != nil {
			return [48]byte{}, err
		}
	}
	sig, ok := attest.VCPUSig(vcpuType)
	if !ok {
		return [48]byte{}, fmt.Errorf("no such processor model: %s", vcpuType)
	}
	return attest.LaunchDigest(attest.DigestInput{
		Firmware: h.firmware, KernelSHA256: (*[32]byte)(kernel.Sum(nil)), InitrdSHA256: (*[32]byte)(initrd.Sum(nil)),
		Append: spec.Append, VCPUs: spec.VCPUs, VCPUSig: sig, GuestFeatures: guestFeatures,
	})
}

// measureDomain says what a trust domain was launched from: the very files and words that QEMU was started with.
func (h *host) measureDomain(spec qemu.Spec) (softtd.Boot, error) {
	kernel, err := os.ReadFile(spec.Kernel)
	if err != nil {
		return softtd.Boot{}, fmt.Errorf("measuring: %w", err)
	}
	initrd := sha512.New384()
	size, err := hashFile(initrd, spec.Initrd)
	if err != nil {
		return softtd.Boot{}, err
	}
	boot := softtd.Boot{Line: spec.Append, Initrd: [48]byte(initrd.Sum(nil))}
	if boot.Kernel, err = attest.ImageDigest(kernel); err != nil {
		return softtd.Boot{}, err
	}
	ref, err := attest.TDLaunch{
		Firmware: h.firmware, Kernel: kernel, InitrdSHA384: boot.Initrd, InitrdSize: size, CommandLine: spec.Append, MemoryMiB: spec.MemMiB,
	}.Reference()
	boot.MRTD = ref.MRTD
	return boot, err
}

func hashFile(h hash.Hash, path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("measuring: %w", err)
	}
	defer f.Close()
	n, err := io.Copy(h, f)
	if err != nil {
		return 0, fmt.Errorf("measuring %s: %w", path, err)
	}
	return n, nil
}

// workspaceOf reads the workspace from a measured command line; empty if it names none.
func workspaceOf(line string) string {
	for word := range strings.FieldsSeq(line) {
		if ws, ok := strings.CutPrefix(word, "siesta.ws="); ok {
			return ws
		}
	}
	return ""
}

// Attack is something a hostile operator does with a workspace's guest behind Nova's back.
type Attack string

// Attacks that the demo shows.
const (
	// Clone boots the same guest a second time, on copies of its disks.
	Clone Attack = "clone"
	// Tamper boots it with one word more on its command line.
	Tamper Attack = "tamper"
)

// attack boots the altered guest, waits until it has powered itself off and returns what it said on its console.
func (h *host) attack(ctx context.Context, kind Attack, workspace string) (string, error) {
	h.mu.Lock()
	spec, ok := h.launched[workspace]
	h.mu.Unlock()
	if !ok {
		return "", fmt.Errorf("workspace %s has not been booted here", workspace)
	}
	dir, err := os.MkdirTemp(h.dir, string(kind)+"-")
	if err != nil {
		return "", fmt.Errorf("preparing the attack: %w", err)
	}
	defer os.RemoveAll(dir)
	spec.Console = filepath.Join(dir, "console")
	disks := make([]qemu.Disk, len(spec.Disks))
	for i, d := range spec.Disks {
		disks[i] = qemu.Disk{Path: filepath.Join(dir, "disk"+strconv.Itoa(i)), Serial: d.Serial}
		if err := copySparse(disks[i].Path, d.Path); err != nil {
			return "", err
		}
	}
	spec.Disks = disks
	switch kind {
	case Clone:
	case Tamper:
		spec.Append += " quiet"
	default:
		return "", fmt.Errorf("no such attack: %q", kind)
	}
	machine, err := h.boot(ctx, spec)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, machine.Kill)
	defer stop()
	if err := machine.Wait(ctx); err != nil && ctx.Err() == nil {
		return "", fmt.Errorf("running the altered guest: %w", err)
	}
	console, err := os.ReadFile(spec.Console)
	if err != nil {
		return "", fmt.Errorf("reading the altered guest's console: %w", err)
	}
	return string(console), ctx.Err()
}

// copySparse copies a disk and leaves its holes holes.
func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copying disk: %w", err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("copying disk: %w", err)
	}
	defer out.Close()
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	var at int64
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 && string(buf[:n]) != string(zero[:n]) {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return fmt.Errorf("copying disk: %w", err)
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("copying disk: %w", err)
		}
	}
	if err := out.Truncate(at); err != nil {
		return fmt.Errorf("copying disk: %w", err)
	}
	return out.Close()
}
