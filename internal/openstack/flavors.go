package openstack

import "context"

// Flavor is a shape of server with the extra specs that the site really stored.
type Flavor struct {
	ID         string
	Name       string
	VCPUs      int
	RAMMiB     int
	DiskGiB    int
	ExtraSpecs map[string]string
}

// Flavor finds a flavor by id or exact name.
func (c *Client) Flavor(ctx context.Context, nameOrID string) (Flavor, error) {
	return Flavor{}, errUnwritten
}
