package openstack

import "context"

// PreflightSpec says what a site must offer. Empty fields are not checked, except that an unknown TEE fails.
type PreflightSpec struct {
	Roles      []string // the credential must hold all of them
	TEE        string   // "sev-snp", or "simulated" in development builds
	Flavors    []string // every one must exist and, for a real TEE, ask for it
	Network    string
	VolumeType string
	Keys       bool    // check Barbican
	Other      *Client // a second credential in the same Barbican that must not be able to read our secrets
	Need       Need    // headroom
}

// Need is the room for one more workspace.
type Need struct {
	Servers, VCPUs, RAMMiB, Volumes, VolumeGiB int
}

// PreflightCheck is one thing that was looked at.
type PreflightCheck struct {
	Name   string
	OK     bool
	Detail string
	Fix    string // what the site's operator can do, where it is not OK
}

// Report is the outcome of a preflight, in the order in which the checks were made.
type Report struct {
	Site   string
	Checks []PreflightCheck
}

// OK says whether all checks passed.
func (r Report) OK() bool { return false }

// Preflight looks at everything the site must offer and changes nothing but a probe secret, which it removes.
// The error is for a preflight that could not be carried out; what the site lacks is in the report.
func (c *Client) Preflight(ctx context.Context, spec PreflightSpec) (Report, error) {
	return Report{}, errUnwritten
}

// Usage of a limited resource; Max below zero means unlimited.
type Usage struct{ Used, Max int }

// Capacity is what the project has left at the site.
type Capacity struct {
	Servers, VCPUs, RAMMiB, Volumes, VolumeGiB Usage
}

// Capacity reads the project's limits in Nova and Cinder.
func (c *Client) Capacity(ctx context.Context) (Capacity, error) { return Capacity{}, errUnwritten }
