package openstack

import "context"

// Network is a Neutron network that servers may be put on.
type Network struct {
	ID, Name     string
	Status       string
	AdminStateUp bool
	PortSecurity bool
	Shared       bool
	Subnets      []string
}

// Network finds a network by id or exact name; two of the same name are a Conflict.
func (c *Client) Network(ctx context.Context, nameOrID string) (Network, error) {
	return Network{}, errUnwritten
}
