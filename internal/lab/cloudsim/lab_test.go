//go:build lab

package cloudsim_test

import (
	"os"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/openstack"
	"github.com/eosc-siesta/siestad/internal/openstack/conformance"
)

// setting is one of the variables that deploy/lab writes; a lab that is not up fails the test rather than skip it.
func setting(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: run inside the lab, with the environment that deploy/lab/lab env prints", name)
	}
	return v
}

// TestLabConformance runs the suite that cloudsim passes against real services.
func TestLabConformance(t *testing.T) {
	conformance.Run(t, conformance.Target{
		CloudsFile: setting(t, "SIESTA_LAB_CLOUDS"), Entry: setting(t, "SIESTA_LAB_PROV"), KeysEntry: setting(t, "SIESTA_LAB_KEYS"),
		Region: setting(t, "SIESTA_LAB_REGION"), Hosts: []string{"127.0.0.1"}, Network: setting(t, "SIESTA_LAB_NETWORK"),
		Flavor: setting(t, "SIESTA_LAB_FLAVOR"), VolumeType: setting(t, "SIESTA_LAB_VOLUME_TYPE"),
		Boots: true, Wait: 5 * time.Minute, Poll: time.Second,
	})
}

// TestLabPreflight reads a real site.
func TestLabPreflight(t *testing.T) {
	client := func(entry string) *openstack.Client {
		c, err := openstack.New(openstack.Config{
			Site: "lab", Installation: "preflite", CloudsFile: setting(t, "SIESTA_LAB_CLOUDS"), CloudsEntry: entry,
			Region: setting(t, "SIESTA_LAB_REGION"), AllowedHosts: []string{"127.0.0.1"}, Timeout: 2 * time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	prov, keys := client(setting(t, "SIESTA_LAB_PROV")), client(setting(t, "SIESTA_LAB_KEYS"))
	spec := openstack.PreflightSpec{
		Roles: []string{"member"}, TEE: "simulated", Flavors: []string{setting(t, "SIESTA_LAB_FLAVOR")},
		Network: setting(t, "SIESTA_LAB_NETWORK"), VolumeType: setting(t, "SIESTA_LAB_VOLUME_TYPE"), Need: openstack.Need{Servers: 1, VCPUs: 1, Volumes: 2, VolumeGiB: 2},
	}
	check := func(r openstack.Report, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			t.Logf("%-22s %-5v %s", c.Name, c.OK, c.Detail)
			if !c.OK {
				t.Errorf("%s: %s (%s)", c.Name, c.Detail, c.Fix)
			}
		}
	}
	check(prov.Preflight(t.Context(), spec))
	check(keys.Preflight(t.Context(), openstack.PreflightSpec{Keys: true, Other: prov}))
	spec.TEE = "sev-snp"
	r, err := prov.Preflight(t.Context(), spec)
	if err != nil || r.OK() {
		t.Errorf("Zed knows no SEV-SNP, and the report is %+v, %v", r, err)
	}
}
