package openstack

import (
	"context"
	"net/url"
	"regexp"
)

// Flavor is a shape of server with the extra specs that the site really stored.
type Flavor struct {
	ID         string
	Name       string
	VCPUs      int
	RAMMiB     int
	DiskGiB    int
	ExtraSpecs map[string]string
}

type flavorWire struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	VCPUs      int               `json:"vcpus"`
	RAM        int               `json:"ram"`
	Disk       int               `json:"disk"`
	ExtraSpecs map[string]string `json:"extra_specs"`
}

var (
	flavorID     = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._ -]{0,254}$`)
	flavorIDLike = regexp.MustCompile(`^([0-9]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
)

const maxFlavors = 1000

// EncryptionModel is Nova's name, from 2026.2 on, of what protects the memory of a guest, for the name that sites have it
// under; empty where there is none, as for a simulated one.
func EncryptionModel(tee string) string {
	return map[string]string{"sev-snp": "amd-sev-snp", "tdx": "intel-tdx"}[tee]
}

// Flavor finds a flavor by id or exact name. What looks like an id is tried as one first.
func (c *Client) Flavor(ctx context.Context, nameOrID string) (Flavor, error) {
	const op = "reading flavor"
	if !flavorID.MatchString(nameOrID) {
		return Flavor{}, unusable(compute, op, clean(nameOrID, 64), "it is not a flavor's name or id")
	}
	byID := func() (Flavor, error) {
		var doc struct{ Flavor flavorWire }
		if err := c.get(ctx, compute, op, nameOrID, nil, &doc, "flavors", nameOrID); err != nil {
			return Flavor{}, err
		}
		return doc.Flavor.check(nameOrID)
	}
	if flavorIDLike.MatchString(nameOrID) {
		f, err := byID()
		if KindOf(err) != NotFound {
			return f, err
		}
	}
	var doc struct{ Flavors []flavorWire }
	query := url.Values{"limit": {"1000"}}
	if err := c.get(ctx, compute, op, nameOrID, query, &doc, "flavors", "detail"); err != nil {
		return Flavor{}, err
	}
	if len(doc.Flavors) > maxFlavors {
		return Flavor{}, unusable(compute, op, nameOrID, "the list is longer than asked for")
	}
	for _, f := range doc.Flavors {
		if f.Name == nameOrID { // unique in Nova
			return f.check(nameOrID)
		}
	}
	return byID()
}

func (w flavorWire) check(asked string) (Flavor, error) {
	if !flavorID.MatchString(w.ID) || w.VCPUs < 1 || w.VCPUs > 4096 || w.RAM < 1 || len(w.ExtraSpecs) > 256 {
		return Flavor{}, unusable(compute, "reading flavor", asked, "the answer is not a flavor")
	}
	if w.ID != asked && w.Name != asked {
		return Flavor{}, unusable(compute, "reading flavor", asked, "another flavor came back")
	}
	return Flavor{ID: w.ID, Name: clean(w.Name, 255), VCPUs: w.VCPUs, RAMMiB: w.RAM, DiskGiB: w.Disk, ExtraSpecs: w.ExtraSpecs}, nil
}
