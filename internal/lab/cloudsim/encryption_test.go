package cloudsim

import (
	"maps"
	"strings"
	"testing"
)

func TestEncrypts(t *testing.T) {
	image := func(model string, change ...string) map[string]string {
		out := map[string]string{
			"hw_firmware_type": "uefi", "hw_machine_type": "q35", "hw_firmware_stateless": "true", "hw_video_model": "none",
			"hw_mem_encryption": "true", "hw_mem_encryption_model": model,
		}
		for i := 0; i < len(change); i += 2 {
			out[change[i]] = change[i+1]
		}
		maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
		return out
	}
	flavor := func(model string) map[string]string {
		return map[string]string{"hw:mem_encryption": "true", "hw:mem_encryption_model": model}
	}
	const snp, tdx = "amd-sev-snp", "intel-tdx"
	for name, c := range map[string]struct {
		flavor, image map[string]string
		says          string
	}{
		"nothing asked":               {nil, map[string]string{"kernel_id": "k"}, ""},
		"SEV-SNP":                     {flavor(snp), image(snp, "hw_video_model", ""), ""},
		"TDX":                         {flavor(tdx), image(tdx), ""},
		"TDX by its flavor alone":     {flavor(tdx), image("", "hw_mem_encryption", ""), ""},
		"TDX, image for SEV-SNP":      {flavor(tdx), image(snp), "hw_mem_encryption_model=amd-sev-snp"},
		"TDX, a screen":               {flavor(tdx), image(tdx, "hw_video_model", ""), "hw_video_model=none"},
		"TDX, firmware with state":    {flavor(tdx), image(tdx, "hw_firmware_stateless", ""), "hw_firmware_stateless"},
		"TDX, BIOS":                   {flavor(tdx), image(tdx, "hw_firmware_type", "bios"), "hw_firmware_type"},
		"TDX, an old machine":         {flavor(tdx), image(tdx, "hw_machine_type", "pc"), "hw_machine_type"},
		"TDX, SCSI":                   {flavor(tdx), image(tdx, "hw_disk_bus", "scsi"), "SCSI"},
		"SEV-SNP, SCSI":               {flavor(snp), image(snp, "hw_disk_bus", "scsi"), ""},
		"SEV-SNP, firmware and state": {flavor(snp), image(snp, "hw_firmware_stateless", ""), "hw_firmware_stateless"},
		"another model":               {flavor("arm-cca"), image(""), "Invalid memory encryption model"},
		"refused by the image":        {flavor(tdx), image(tdx, "hw_mem_encryption", "false"), "conflicting"},
	} {
		if got := encrypts(c.flavor, c.image); c.says == "" && got != "" || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
