package cloudsim

import "fmt"

// encrypts judges, as Nova 2026.2 does when a server is made, whether flavor and image properties together can be booted with
// encrypted memory. An older Nova knows no model and would boot such a server in the clear; here that is for a preflight to see.
// The answer is what is wrong, empty for nothing.
func encrypts(specs, image map[string]string) string {
	asked := specs["hw:mem_encryption"] == "true" || image["hw_mem_encryption"] == "true"
	if !asked {
		return ""
	}
	if specs["hw:mem_encryption"] == "false" || image["hw_mem_encryption"] == "false" {
		return "Flavor and image have conflicting values of mem_encryption"
	}
	model := specs["hw:mem_encryption_model"]
	if own := image["hw_mem_encryption_model"]; model == "" {
		model = own
	} else if own != "" && own != model {
		return fmt.Sprintf("Flavor has hw:mem_encryption_model=%s and image has hw_mem_encryption_model=%s", model, own)
	}
	needs := []string{"hw_firmware_type", "uefi", "hw_machine_type", "q35"}
	switch model {
	case "", "amd-sev", "amd-sev-es":
	case "amd-sev-snp":
		needs = append(needs, "hw_firmware_stateless", "true")
	case "intel-tdx":
		needs = append(needs, "hw_firmware_stateless", "true", "hw_video_model", "none")
		if image["hw_disk_bus"] == "scsi" {
			return "Memory encryption by intel-tdx cannot boot from a SCSI disk"
		}
	default:
		return fmt.Sprintf("Invalid memory encryption model: %s", model)
	}
	for i := 0; i < len(needs); i += 2 {
		if image[needs[i]] != needs[i+1] {
			return fmt.Sprintf("Memory encryption needs the image property %s=%s, and it is %q", needs[i], needs[i+1], image[needs[i]])
		}
	}
	return ""
}
