package openstack

import "context"

// PortSpec describes a server's network port.
type PortSpec struct {
	Name            string
	NetworkID       string
	MAC             string // deterministic: (network, MAC) is unique in Neutron and so the natural key
	SecurityGroupID string
}

// Port is a Neutron port. DeviceID is the server that holds it: the mutex of server creation.
type Port struct {
	ID, Name       string
	NetworkID      string
	MAC            string
	DeviceID       string
	Status         string
	IPs            []string
	SecurityGroups []string
}

// EnsurePort finds the port by its MAC on the network, or creates it.
func (c *Client) EnsurePort(ctx context.Context, spec PortSpec) (Port, error) {
	return Port{}, errUnwritten
}

// Port reads one port.
func (c *Client) Port(ctx context.Context, id string) (Port, error) { return Port{}, errUnwritten }

// PortByMAC finds a port by its natural key; NotFound where there is none.
func (c *Client) PortByMAC(ctx context.Context, networkID, mac string) (Port, error) {
	return Port{}, errUnwritten
}

// DeletePort deletes a port of this installation; absence is success.
func (c *Client) DeletePort(ctx context.Context, id string) error { return errUnwritten }
