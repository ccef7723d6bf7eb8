package openstack

import "context"

// Rule lets traffic through a security group. What no rule allows is dropped.
type Rule struct {
	Direction    string // "ingress" or "egress"
	EtherType    string // "IPv4" or "IPv6"
	Protocol     string // "tcp", "udp", "icmp"; empty: any
	PortMin      int    // zero with PortMax: any port
	PortMax      int
	RemotePrefix string // CIDR; empty: any
}

// SecurityGroupSpec describes a group whose rules are exactly Rules: an empty list drops everything.
type SecurityGroupSpec struct {
	Name        string
	Description string
	Rules       []Rule
}

// SecurityGroup is a group as read back.
type SecurityGroup struct {
	ID, Name string
	Rules    []Rule
}

// EnsureSecurityGroup makes the group exist with exactly the wanted rules: the rules that Neutron adds on its own are
// removed, and the result is read back and compared as a set.
func (c *Client) EnsureSecurityGroup(ctx context.Context, spec SecurityGroupSpec) (SecurityGroup, error) {
	return SecurityGroup{}, errUnwritten
}

// SecurityGroup reads one group.
func (c *Client) SecurityGroup(ctx context.Context, id string) (SecurityGroup, error) {
	return SecurityGroup{}, errUnwritten
}

// DeleteSecurityGroup deletes a group of this installation; absence is success.
func (c *Client) DeleteSecurityGroup(ctx context.Context, id string) error { return errUnwritten }
