//go:build devtee

package labpsp

import (
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// agentPort is the only host-guest port that Nova makes, for the image property hw_qemu_guest_agent=yes.
const agentPort = "org.qemu.guest_agent.0"

// maxBootFile bounds a kernel or initrd.
const maxBootFile = 1 << 30

// domain is what libvirt says of a running guest.
type domain struct {
	ID   string `xml:"id,attr"`
	UUID string `xml:"uuid"`
	Name string `xml:"name"`
	VCPU int    `xml:"vcpu"`
	OS   struct {
		Kernel  string `xml:"kernel"`
		Initrd  string `xml:"initrd"`
		Cmdline string `xml:"cmdline"`
	} `xml:"os"`
	Channels []struct {
		Source struct {
			Path string `xml:"path,attr"`
		} `xml:"source"`
		Target struct {
			Name string `xml:"name,attr"`
		} `xml:"target"`
	} `xml:"devices>channel"`
}

func parseDomain(text []byte) (domain, error) {
	var d domain
	if err := xml.Unmarshal(text, &d); err != nil {
		return domain{}, fmt.Errorf("reading domain description: %w", err)
	}
	if d.ID == "" || d.UUID == "" {
		return domain{}, errors.New("reading domain description: it names no running domain")
	}
	return d, nil
}

// launch tells one start of the domain from the next.
func (d domain) launch() string { return d.UUID + "/" + d.ID }

// socket is the host's end of the guest-agent port; empty when the domain has none.
func (d domain) socket() string {
	for _, c := range d.Channels {
		if c.Target.Name == agentPort {
			return c.Source.Path
		}
	}
	return ""
}

// digestInput reads what the domain was started with. Firmware and processor signature are the simulated machine's: under
// emulation QEMU loads a BIOS that no launch digest is defined over.
func (d domain) digestInput(cfg Config) (attest.DigestInput, error) {
	if d.OS.Kernel == "" {
		return attest.DigestInput{}, fmt.Errorf("measuring domain %s: it boots from its disk, so its kernel is not known", d.Name)
	}
	in := attest.DigestInput{
		Firmware: cfg.Firmware, Append: d.OS.Cmdline, VCPUs: d.VCPU, VCPUSig: cfg.VCPUSig, GuestFeatures: cfg.GuestFeatures,
	}
	var err error
	if in.KernelSHA256, err = hashFile(d.OS.Kernel); err != nil {
		return attest.DigestInput{}, fmt.Errorf("measuring domain %s: %w", d.Name, err)
	}
	if d.OS.Initrd != "" {
		if in.InitrdSHA256, err = hashFile(d.OS.Initrd); err != nil {
			return attest.DigestInput{}, fmt.Errorf("measuring domain %s: %w", d.Name, err)
		}
	}
	return in, nil
}

func hashFile(path string) (*[32]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("hashing boot file: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxBootFile+1))
	if err != nil {
		return nil, fmt.Errorf("hashing boot file: %w", err)
	}
	if n == 0 || n > maxBootFile {
		return nil, fmt.Errorf("hashing boot file %s: %d bytes", path, n)
	}
	return (*[32]byte)(h.Sum(nil)), nil
}
