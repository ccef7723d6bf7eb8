package openstack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// PreflightSpec says what a site must offer. Empty fields are not checked, except that an unknown TEE fails.
type PreflightSpec struct {
	Roles      []string // the credential must hold all of them
	TEE        string   // "sev-snp" or "tdx"; in development builds "simulated" or "simulated-tdx"
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
	Fix    string // what can be done where it is not OK, and by whom
}

// Report is the outcome of a preflight, in the order in which the checks were made.
type Report struct {
	Site   string
	Checks []PreflightCheck
}

// OK says whether anything was checked and all of it passed.
func (r Report) OK() bool {
	return len(r.Checks) > 0 && !slices.ContainsFunc(r.Checks, func(c PreflightCheck) bool { return !c.OK })
}

func (r *Report) passed(name, detail string) {
	r.Checks = append(r.Checks, PreflightCheck{Name: name, OK: true, Detail: detail})
}

func (r *Report) failed(name, detail, fix string) {
	r.Checks = append(r.Checks, PreflightCheck{Name: name, Detail: detail, Fix: fix})
}

// Preflight looks at everything the site must offer and changes nothing but a probe secret, which it removes.
// The error is for a preflight that could not be carried out; what the site lacks is in the report.
func (c *Client) Preflight(ctx context.Context, spec PreflightSpec) (Report, error) {
	r := Report{Site: c.cfg.Site}
	if !c.checkIdentity(ctx, &r, spec) {
		return r, ctx.Err()
	}
	wantsCompute := len(spec.Flavors) > 0 || spec.Network != "" || spec.TEE != "" || spec.VolumeType != "" || spec.Need != Need{}
	if wantsCompute {
		c.checkService(ctx, &r, compute, "flavors")
		c.checkService(ctx, &r, volume, "types")
		c.checkService(ctx, &r, network, "networks")
		c.checkService(ctx, &r, image, "images")
		c.checkFlavors(ctx, &r, spec)
		if spec.Network != "" {
			c.checkNetwork(ctx, &r, spec.Network)
		}
		c.checkVolumeType(ctx, &r, spec.VolumeType)
		c.checkCapacity(ctx, &r, spec.Need)
	}
	if spec.Keys && c.checkService(ctx, &r, keyManager, "secrets") {
		c.checkIsolation(ctx, &r, spec.Other)
	}
	return r, ctx.Err()
}

func (c *Client) checkIdentity(ctx context.Context, r *Report, spec PreflightSpec) bool {
	who, err := c.Identity(ctx)
	if err != nil {
		r.failed("identity", err.Error(), "check auth_url, the allow-list, and that the application credential still exists and has not expired")
		return false
	}
	r.passed("identity", fmt.Sprintf("user %s in project %s", who.UserName, who.ProjectName))
	var missing []string
	for _, role := range spec.Roles {
		if !slices.ContainsFunc(who.Roles, func(h string) bool { return strings.EqualFold(h, role) }) {
			missing = append(missing, role)
		}
	}
	if len(missing) > 0 {
		r.failed("roles", "the credential lacks "+strings.Join(missing, ", "),
			"make a new application credential that carries these roles; it cannot be changed afterwards")
	} else {
		r.passed("roles", strings.Join(who.Roles, ", "))
	}
	return true
}

// checkService makes the cheapest call that needs a token. It covers the catalog, the allow-list, the microversions and
// whether access rules can work there at all.
func (c *Client) checkService(ctx context.Context, r *Report, svc service, list string) bool {
	name := "service/" + svc.name
	query := map[string][]string{"limit": {"1"}}
	if svc.name == volume.name {
		query = nil // types know no limit in every release
	}
	err := c.get(ctx, svc, "reading", list, query, nil, list)
	if err == nil {
		r.passed(name, "endpoint allowed, microversion agreed, token accepted")
		return true
	}
	fix := "see the service's log for the request id"
	var e *Error
	switch {
	case errors.Is(err, errNoService):
		fix = "the site must register the service in its catalog, for this region and interface"
	case errors.As(err, &e) && e.Op == "reading the catalog":
		fix = "if the endpoint is the site's own, add its host to allowed_hosts; if it is not, ask the site who changed the catalog"
	case errors.As(err, &e) && e.Status == 401 && c.identityNow().AccessRules:
		fix = "the credential has access rules, which work only where the service sets [keystone_authtoken] service_type; ask the site to set it, or add a rule for the call"
	case KindOf(err) == Retryable:
		fix = "the service does not answer; try again, then ask the site"
	}
	r.failed(name, err.Error(), fix)
	return false
}

func (c *Client) identityNow() Identity {
	c.lock <- struct{}{}
	defer c.release()
	if c.session == nil {
		return Identity{}
	}
	return c.session.identity
}

// checkFlavors reads the extra specs back: a release that does not know a model drops it when the flavor is made, and a
// server then boots on it unencrypted without a word.
func (c *Client) checkFlavors(ctx context.Context, r *Report, spec PreflightSpec) {
	model, simulated := EncryptionModel(spec.TEE), spec.TEE == "simulated" || spec.TEE == "simulated-tdx"
	if model == "" && !simulated {
		r.failed("tee", fmt.Sprintf("%.40q is no TEE that can be booted", spec.TEE), "set the site's tee to sev-snp or tdx")
		return // nobody knows what to ask of its flavors
	}
	if len(spec.Flavors) == 0 {
		r.failed("flavors", "no flavor is allowed at the site", "list the site's flavors in the configuration")
	}
	for _, asked := range spec.Flavors {
		name := "flavor/" + clean(asked, 64)
		f, err := c.Flavor(ctx, asked)
		switch {
		case err != nil:
			r.failed(name, err.Error(), "correct the flavor's name, or ask the site to make the flavor and show it to the project")
		case simulated:
			r.passed(name, fmt.Sprintf("%d vCPU, %d MiB; nothing is required of a simulated TEE", f.VCPUs, f.RAMMiB))
		case !strings.EqualFold(f.ExtraSpecs["hw:mem_encryption"], "true") || f.ExtraSpecs["hw:mem_encryption_model"] != model:
			r.failed(name, "its extra specs do not ask for "+model+": a server on it would boot unencrypted or weaker",
				"the site must set hw:mem_encryption=true and hw:mem_encryption_model="+model+"; Nova knows the model from 2026.2 on and drops it silently before")
		default:
			r.passed(name, fmt.Sprintf("%d vCPU, %d MiB, %s", f.VCPUs, f.RAMMiB, model))
		}
	}
}

func (c *Client) checkNetwork(ctx context.Context, r *Report, asked string) {
	const name = "network"
	n, err := c.Network(ctx, asked)
	who := c.identityNow()
	switch {
	case err != nil:
		r.failed(name, err.Error(), "create the network in the project, or correct its name")
	case !n.AdminStateUp || !n.PortSecurity:
		r.failed(name, "it is down, or its port security is off", "the network's owner must set admin_state_up and port_security_enabled")
	case len(n.Subnets) == 0:
		r.failed(name, "it has no subnet", "create a subnet with DHCP")
	case n.ProjectID != who.ProjectID && !slices.Contains(who.Roles, "admin"):
		r.failed(name, "it belongs to another project", "use a network of the credential's project: only its owner may choose a port's MAC, on which safe repetition rests")
	default:
		r.passed(name, n.Name)
	}
}

type volumeType struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	ExtraSpecs map[string]string `json:"extra_specs"`
}

func (c *Client) checkVolumeType(ctx context.Context, r *Report, asked string) {
	const name, op = "volume type", "reading volume type"
	var found *volumeType
	if asked == "" {
		var doc struct {
			Type volumeType `json:"volume_type"`
		}
		err := c.get(ctx, volume, op, "default", nil, &doc, "types", "default")
		if err != nil {
			r.failed(name, err.Error(), "name a volume type in the site's configuration")
			return
		}
		found = &doc.Type
	} else {
		var doc struct {
			Types []volumeType `json:"volume_types"`
		}
		if err := c.get(ctx, volume, op, asked, nil, &doc, "types"); err != nil {
			r.failed(name, err.Error(), "the project must be able to see the type")
			return
		}
		for i, t := range doc.Types {
			if t.Name == asked || t.ID == asked {
				found = &doc.Types[i]
			}
		}
	}
	switch {
	case found == nil:
		r.failed(name, fmt.Sprintf("%.64q is not among the project's", asked), "correct the type's name, or ask the site to show it to the project")
		return
	case strings.Contains(strings.ToLower(found.ExtraSpecs["multiattach"]), "true"):
		r.failed(name, found.Name+" makes volumes that several servers can hold at once", "use a type without multiattach")
		return
	case !uuidForm.MatchString(found.ID):
		r.failed(name, "the answer is not a volume type", "see the service's log")
		return
	}
	var encryption map[string]any
	err := c.get(ctx, volume, op, found.Name, nil, &encryption, "types", found.ID, "encryption")
	switch {
	case KindOf(err) == Forbidden || KindOf(err) == NotFound:
		// The default policy keeps it from tenants; each volume is read back when it is made.
		r.passed(name, clean(found.Name, 64)+"; its encryption cannot be read here and is read back from each volume")
	case err != nil:
		r.failed(name, err.Error(), "see the service's log for the request id")
	case encryption["provider"] != nil || encryption["encryption_id"] != nil:
		r.failed(name, clean(found.Name, 64)+" is encrypted by the host, which fetches the key itself", "use a type without encryption: the guest encrypts")
	default:
		r.passed(name, clean(found.Name, 64)+", neither multi-attachable nor encrypted by the host")
	}
}

func (c *Client) checkCapacity(ctx context.Context, r *Report, need Need) {
	const name = "capacity"
	have, err := c.Capacity(ctx)
	if err != nil {
		r.failed(name, err.Error(), "the project must be able to read its limits")
		return
	}
	var short []string
	for _, u := range []struct {
		what  string
		usage Usage
		need  int
	}{
		{"servers", have.Servers, need.Servers},
		{"vCPUs", have.VCPUs, need.VCPUs},
		{"MiB of memory", have.RAMMiB, need.RAMMiB},
		{"volumes", have.Volumes, need.Volumes},
		{"GiB of volumes", have.VolumeGiB, need.VolumeGiB},
	} {
		if u.usage.Max >= 0 && u.usage.Max-u.usage.Used < u.need {
			short = append(short, fmt.Sprintf("%d of %d %s are used and %d are needed", u.usage.Used, u.usage.Max, u.what, u.need))
		}
	}
	if len(short) > 0 {
		r.failed(name, strings.Join(short, "; "), "delete workspaces, or ask the site for a larger quota")
		return
	}
	r.passed(name, "there is room for one more workspace")
}

// Usage of a limited resource; Max below zero means unlimited.
type Usage struct{ Used, Max int }

// Capacity is what the project has left at the site.
type Capacity struct {
	Servers, VCPUs, RAMMiB, Volumes, VolumeGiB Usage
}

// Capacity reads the project's limits in Nova and Cinder.
func (c *Client) Capacity(ctx context.Context) (Capacity, error) {
	const op = "reading limits"
	var nova struct {
		Limits struct {
			Absolute struct {
				MaxServers  int `json:"maxTotalInstances"`
				UsedServers int `json:"totalInstancesUsed"`
				MaxCores    int `json:"maxTotalCores"`
				UsedCores   int `json:"totalCoresUsed"`
				MaxRAM      int `json:"maxTotalRAMSize"`
				UsedRAM     int `json:"totalRAMUsed"`
			} `json:"absolute"`
		} `json:"limits"`
	}
	if err := c.get(ctx, compute, op, "", nil, &nova, "limits"); err != nil {
		return Capacity{}, err
	}
	var cinder struct {
		Limits struct {
			Absolute struct {
				MaxVolumes  int `json:"maxTotalVolumes"`
				UsedVolumes int `json:"totalVolumesUsed"`
				MaxGiB      int `json:"maxTotalVolumeGigabytes"`
				UsedGiB     int `json:"totalGigabytesUsed"`
			} `json:"absolute"`
		} `json:"limits"`
	}
	if err := c.get(ctx, volume, op, "", nil, &cinder, "limits"); err != nil {
		return Capacity{}, err
	}
	n, v := nova.Limits.Absolute, cinder.Limits.Absolute
	return Capacity{
		Servers:   Usage{n.UsedServers, n.MaxServers},
		VCPUs:     Usage{n.UsedCores, n.MaxCores},
		RAMMiB:    Usage{n.UsedRAM, n.MaxRAM},
		Volumes:   Usage{v.UsedVolumes, v.MaxVolumes},
		VolumeGiB: Usage{v.UsedGiB, v.MaxGiB},
	}, nil
}
