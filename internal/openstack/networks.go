package openstack

import (
	"context"
	"net/url"
)

// Network is a Neutron network that servers may be put on.
type Network struct {
	ID, Name     string
	Status       string
	ProjectID    string
	AdminStateUp bool
	PortSecurity bool
	Shared       bool
	Subnets      []string
}

type networkWire struct {
	ID           string   `json:"id"`
	Name         string   `json:"name"`
	Status       string   `json:"status"`
	ProjectID    string   `json:"project_id"`
	AdminStateUp bool     `json:"admin_state_up"`
	PortSecurity *bool    `json:"port_security_enabled"`
	Shared       bool     `json:"shared"`
	Subnets      []string `json:"subnets"`
}

// Network finds a network by id or exact name; two of the same name are a Conflict.
func (c *Client) Network(ctx context.Context, nameOrID string) (Network, error) {
	const op = "reading network"
	if nameOrID == "" || len(nameOrID) > 255 {
		return Network{}, unusable(network, op, "", "a network needs a name or an id")
	}
	var found []networkWire
	if uuidForm.MatchString(nameOrID) {
		var doc struct{ Network networkWire }
		if err := c.get(ctx, network, op, nameOrID, nil, &doc, "networks", nameOrID); err != nil {
			return Network{}, err
		}
		found = append(found, doc.Network)
	} else {
		var doc struct{ Networks []networkWire }
		if err := c.get(ctx, network, op, nameOrID, url.Values{"name": {nameOrID}}, &doc, "networks"); err != nil {
			return Network{}, err
		}
		for _, n := range doc.Networks {
			if n.Name == nameOrID {
				found = append(found, n)
			}
		}
	}
	switch {
	case len(found) == 0:
		return Network{}, &Error{Kind: NotFound, Service: network.name, Op: op, Object: nameOrID}
	case len(found) > 1:
		return Network{}, &Error{Kind: Conflict, Service: network.name, Op: op, Object: nameOrID, Reason: "several networks bear the name; give the id"}
	}
	n := found[0]
	if !uuidForm.MatchString(n.ID) || len(n.Subnets) > 256 {
		return Network{}, unusable(network, op, nameOrID, "the answer is not a network")
	}
	out := Network{
		ID: n.ID, Name: clean(n.Name, 255), Status: clean(n.Status, 32), ProjectID: clean(n.ProjectID, 64),
		AdminStateUp: n.AdminStateUp, Shared: n.Shared,
		// A cloud without the extension has nothing that could be switched off.
		PortSecurity: n.PortSecurity == nil || *n.PortSecurity,
	}
	for _, s := range n.Subnets {
		out.Subnets = append(out.Subnets, clean(s, 36))
	}
	return out, nil
}
