package workspace

import (
	"fmt"
	"slices"

	"github.com/eosc-siesta/siestad/internal/openstack"
)

// TEE says what protects the guests of a site.
type TEE string

// Simulated sites exist in development builds only.
const (
	SEVSNP       TEE = "sev-snp"
	TDX          TEE = "tdx"
	SimulatedTEE TEE = "simulated"
	SimulatedTDX TEE = "simulated-tdx"
)

var tees = []TEE{SEVSNP, TDX, SimulatedTEE, SimulatedTDX}

// Simulated says that nothing protects the guests.
func (t TEE) Simulated() bool { return t == SimulatedTEE || t == SimulatedTDX }

// OnTDX says that a guest is a trust domain, whose evidence are quotes.
func (t TEE) OnTDX() bool { return t == TDX || t == SimulatedTDX }

// model is Nova's name for it, empty where nothing protects.
func (t TEE) model() string { return openstack.EncryptionModel(string(t)) }

// bootProperties are the image properties from which Nova boots the guest.
func bootProperties(tee TEE, kernelID, ramdiskID, line string) map[string]string {
	p := map[string]string{"kernel_id": kernelID, "ramdisk_id": ramdiskID, "os_command_line": line}
	if tee.Simulated() {
		// What simulates the hardware answers on the guest agent's port.
		p["hw_qemu_guest_agent"] = "yes"
		return p
	}
	// The model is named, because Nova takes plain SEV where it is not.
	p["hw_firmware_type"] = "uefi"
	p["hw_machine_type"] = "q35"
	p["hw_firmware_stateless"] = "true"
	p["hw_mem_encryption"] = "true"
	p["hw_mem_encryption_model"] = tee.model()
	if tee == TDX {
		p["hw_video_model"] = "none" // Nova asks for it
	}
	return p
}

// encrypted says whether a flavor's extra specs ask for the encryption that the site offers. Nova's Zed accepts the words
// and drops the model that it does not know; so it is the stored specs that are read.
func encrypted(tee TEE, specs map[string]string) bool {
	return tee.Simulated() || specs["hw:mem_encryption"] == "true" && specs["hw:mem_encryption_model"] == tee.model()
}

// checkTEE refuses a site of which nothing that boots could be recognised, or more than its hardware can be.
func (s *Site) checkTEE() error {
	p := s.Policy
	switch {
	case !slices.Contains(tees, s.TEE):
		return fmt.Errorf("workspace: site %s offers no known TEE", s.Name)
	case p.Simulated != s.TEE.Simulated():
		return fmt.Errorf("workspace: site %s and its policy do not agree whether its TEE is simulated", s.Name)
	case s.TEE.OnTDX() != (p.TDX != nil) || s.TEE.OnTDX() && len(p.Products)+len(p.Chips) > 0:
		return fmt.Errorf("workspace: site %s and its policy do not agree whether its TEE is TDX", s.Name)
	case s.TEE.OnTDX() && len(s.VCPUSigs)+len(s.GuestFeatures) > 0:
		return fmt.Errorf("workspace: site %s names processor signatures or guest features, which TDX does not measure", s.Name)
	case s.TEE.OnTDX():
		return nil
	case len(s.VCPUSigs) == 0 || len(s.GuestFeatures) == 0:
		return fmt.Errorf("workspace: site %s names no processor signature or no guest features, so nothing it boots can be recognised", s.Name)
	case len(s.VCPUSigs)*len(s.GuestFeatures) > 64:
		return fmt.Errorf("workspace: site %s would accept more than 64 measurements for one guest", s.Name)
	}
	return nil
}
