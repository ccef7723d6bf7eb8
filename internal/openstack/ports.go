package openstack

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
)

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

type portWire struct {
	ID             string              `json:"id"`
	Name           string              `json:"name"`
	NetworkID      string              `json:"network_id"`
	MAC            string              `json:"mac_address"`
	DeviceID       string              `json:"device_id"`
	Status         string              `json:"status"`
	SecurityGroups []string            `json:"security_groups"`
	PortSecurity   *bool               `json:"port_security_enabled"`
	AddressPairs   []struct{}          `json:"allowed_address_pairs"`
	FixedIPs       []map[string]string `json:"fixed_ips"`
}

func (w portWire) check(op, asked string) (Port, error) {
	if !uuidForm.MatchString(w.ID) || !uuidForm.MatchString(w.NetworkID) || w.DeviceID != "" && len(w.DeviceID) > 255 ||
		len(w.FixedIPs) > 64 || len(w.SecurityGroups) > 64 {
		return Port{}, unusable(network, op, asked, "the answer is not a port")
	}
	p := Port{ID: w.ID, Name: clean(w.Name, 255), NetworkID: w.NetworkID, MAC: w.MAC, DeviceID: clean(w.DeviceID, 255), Status: clean(w.Status, 32)}
	for _, f := range w.FixedIPs {
		if a, err := netip.ParseAddr(f["ip_address"]); err == nil {
			p.IPs = append(p.IPs, a.String())
		}
	}
	for _, g := range w.SecurityGroups {
		p.SecurityGroups = append(p.SecurityGroups, clean(g, 36))
	}
	return p, nil
}

// EnsurePort finds the port by its MAC on the network, or creates it.
//
// If the process dies after the POST, the next call meets the same MAC: Neutron's unique index makes a second port
// impossible, whoever asks.
func (c *Client) EnsurePort(ctx context.Context, spec PortSpec) (Port, error) {
	const op = "creating port"
	if err := c.nameable(network.name, op, spec.Name); err != nil {
		return Port{}, err
	}
	if err := identifier(network, op, spec.NetworkID); err != nil {
		return Port{}, err
	}
	if err := identifier(network, op, spec.SecurityGroupID); err != nil {
		return Port{}, err
	}
	if mac, err := net.ParseMAC(spec.MAC); err != nil || len(mac) != 6 || mac.String() != spec.MAC {
		return Port{}, unusable(network, op, spec.Name, "the MAC is not six lower-case octets")
	}
	w, err := c.portByMAC(ctx, op, spec.NetworkID, spec.MAC)
	if KindOf(err) == NotFound {
		body := map[string]any{"port": map[string]any{
			"name":            spec.Name,
			"network_id":      spec.NetworkID,
			"mac_address":     spec.MAC,
			"security_groups": []string{spec.SecurityGroupID}, // never left to default: that would be the project's group
			"admin_state_up":  true,
		}}
		err = c.send(ctx, request{service: network, op: op, object: spec.Name, method: "POST", path: []string{"ports"}, body: body, ok: []int{201}})
		if kind := KindOf(err); kind != "" && kind != Conflict && kind != Ambiguous {
			return Port{}, err
		}
		// Created, taken by a twin, or the answer was lost: whatever now bears the MAC is the port.
		found, lookup := c.portByMAC(ctx, op, spec.NetworkID, spec.MAC)
		if KindOf(lookup) == NotFound && err != nil {
			return Port{}, err // a port of somebody else's holds the MAC, or nothing was applied
		}
		w, err = found, lookup
	}
	if err != nil {
		return Port{}, err
	}
	p, err := w.check(op, spec.Name)
	switch {
	case err != nil:
		return Port{}, err
	case p.Name != spec.Name || p.NetworkID != spec.NetworkID || p.MAC != spec.MAC:
		return Port{}, unusable(network, op, spec.Name, "another port has the MAC")
	case !slices.Equal(p.SecurityGroups, []string{spec.SecurityGroupID}):
		return Port{}, unusable(network, op, spec.Name, "the port does not carry exactly the wanted security group")
	case w.PortSecurity != nil && !*w.PortSecurity:
		return Port{}, unusable(network, op, spec.Name, "port security is off, so its security group means nothing")
	case len(w.AddressPairs) > 0:
		return Port{}, unusable(network, op, spec.Name, "the port allows further addresses")
	}
	return p, nil
}

// Port reads one port.
func (c *Client) Port(ctx context.Context, id string) (Port, error) {
	const op = "reading port"
	if err := identifier(network, op, id); err != nil {
		return Port{}, err
	}
	var doc struct{ Port portWire }
	if err := c.get(ctx, network, op, id, nil, &doc, "ports", id); err != nil {
		return Port{}, err
	}
	if doc.Port.ID != id {
		return Port{}, unusable(network, op, id, "another port came back")
	}
	return doc.Port.check(op, id)
}

// PortByMAC finds a port by its natural key; NotFound where there is none.
func (c *Client) PortByMAC(ctx context.Context, networkID, mac string) (Port, error) {
	const op = "finding port"
	w, err := c.portByMAC(ctx, op, networkID, mac)
	if err != nil {
		return Port{}, err
	}
	return w.check(op, mac)
}

func (c *Client) portByMAC(ctx context.Context, op, networkID, mac string) (portWire, error) {
	if err := identifier(network, op, networkID); err != nil {
		return portWire{}, err
	}
	var doc struct{ Ports []portWire }
	if err := c.get(ctx, network, op, mac, url.Values{"network_id": {networkID}, "mac_address": {mac}}, &doc, "ports"); err != nil {
		return portWire{}, err
	}
	for _, p := range doc.Ports {
		if p.MAC == mac && p.NetworkID == networkID {
			return p, nil
		}
	}
	return portWire{}, &Error{Kind: NotFound, Service: network.name, Op: op, Object: mac}
}

// DeletePort deletes a port of this installation; absence is success.
func (c *Client) DeletePort(ctx context.Context, id string) error {
	const op = "deleting port"
	p, err := c.Port(ctx, id)
	if ours, err := c.mayDelete(network, op, id, p.Name, err); !ours {
		return err
	}
	return c.remove(ctx, network, op, id, "ports", id)
}

// mayDelete guards every deletion: an object that is gone needs none, and one that does not bear this installation's
// prefix is refused, whatever a row may say about its id.
func (c *Client) mayDelete(svc service, op, id, name string, lookup error) (bool, error) {
	switch {
	case KindOf(lookup) == NotFound:
		return false, nil
	case lookup != nil:
		return false, lookup
	case !c.owned(name):
		return false, &Error{Kind: Permanent, Service: svc.name, Op: op, Object: id, Reason: "it does not bear this installation's prefix"}
	}
	return true, nil
}
