package cloudsim

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

type netw struct {
	ID, Name, Project, Subnet string
	next                      int // host part of the next address
}

type port struct {
	ID, Name, Project, Network, MAC, Device, Owner, IP string
	Groups                                             []string
	seq                                                int64
}

type rule struct {
	ID, Direction, EtherType, Protocol, Prefix, RemoteGroup string
	Min, Max                                                *int
}

type group struct {
	ID, Name, Description, Project string
	Created                        time.Time
	rules                          []*rule
	seq                            int64
}

func neutronError(status int, typ, message string) reply {
	return reply{status: status, body: map[string]any{"NeutronError": map[string]any{"type": typ, "message": message, "detail": ""}}}
}

func (c *Cloud) neutron(in *call, path []string) reply {
	if len(path) == 0 {
		return reply{status: 404}
	}
	id := ""
	if len(path) > 1 {
		id = path[1]
	}
	switch in.r.Method + " " + path[0] {
	case "GET networks":
		return c.readNetworks(in, id)
	case "GET ports":
		return c.readPorts(in, id)
	case "POST ports":
		return c.createPort(in)
	case "DELETE ports":
		if p := c.ports[id]; p == nil || p.Project != in.project() {
			return neutronError(404, "PortNotFound", fmt.Sprintf("Port %s could not be found.", id))
		}
		delete(c.ports, id)
		return reply{status: 204}
	case "GET security-groups":
		return c.readGroups(in, id)
	case "POST security-groups":
		return c.createGroup(in)
	case "DELETE security-groups":
		return c.deleteGroup(in, id)
	case "POST security-group-rules":
		return c.createRule(in)
	case "DELETE security-group-rules":
		return c.deleteRule(in, id)
	}
	return reply{status: 404, body: map[string]any{"NeutronError": map[string]any{"type": "HTTPNotFound", "message": "The resource could not be found.", "detail": ""}}}
}

// matches applies Neutron's exact filters; unknown ones are ignored, as there.
func matches(in *call, fields map[string]string) bool {
	for key, want := range in.r.URL.Query() {
		have, known := fields[key]
		if known && !slices.Contains(want, have) {
			return false
		}
	}
	return true
}

func (c *Cloud) readNetworks(in *call, id string) reply {
	show := func(n *netw) map[string]any {
		return map[string]any{
			"id": n.ID, "name": n.Name, "status": "ACTIVE", "admin_state_up": true, "shared": false, "project_id": n.Project,
			"tenant_id": n.Project, "port_security_enabled": true, "subnets": []string{n.Subnet}, "router:external": false,
		}
	}
	if id != "" {
		n := c.networks[id]
		if n == nil || n.Project != in.project() {
			return neutronError(404, "NetworkNotFound", fmt.Sprintf("Network %s could not be found.", id))
		}
		return reply{status: 200, body: map[string]any{"network": show(n)}}
	}
	var all []*netw
	for _, n := range c.networks {
		if n.Project == in.project() && matches(in, map[string]string{"name": n.Name, "project_id": n.Project}) {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b *netw) int { return cmp.Compare(a.ID, b.ID) })
	out := []any{}
	for _, n := range paged(in, all, func(n *netw) string { return n.ID }, 1000) {
		out = append(out, show(n))
	}
	return reply{status: 200, body: map[string]any{"networks": out}}
}

func showPort(p *port) map[string]any {
	status := "DOWN"
	if p.Device != "" {
		status = "ACTIVE"
	}
	return map[string]any{
		"id": p.ID, "name": p.Name, "network_id": p.Network, "mac_address": p.MAC, "device_id": p.Device, "device_owner": p.Owner,
		"status": status, "admin_state_up": true, "project_id": p.Project, "tenant_id": p.Project, "security_groups": p.Groups, "port_security_enabled": true,
		"allowed_address_pairs": []any{}, "fixed_ips": []any{map[string]any{"ip_address": p.IP, "subnet_id": newID()}},
	}
}

func (c *Cloud) readPorts(in *call, id string) reply {
	if id != "" {
		p := c.ports[id]
		if p == nil || p.Project != in.project() {
			return neutronError(404, "PortNotFound", fmt.Sprintf("Port %s could not be found.", id))
		}
		return reply{status: 200, body: map[string]any{"port": showPort(p)}}
	}
	var all []*port
	for _, p := range c.ports {
		fields := map[string]string{"name": p.Name, "mac_address": p.MAC, "network_id": p.Network, "device_id": p.Device, "project_id": p.Project}
		if p.Project == in.project() && matches(in, fields) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *port) int { return cmp.Compare(a.ID, b.ID) })
	out := []any{}
	for _, p := range paged(in, all, func(p *port) string { return p.ID }, 1000) {
		out = append(out, showPort(p))
	}
	return reply{status: 200, body: map[string]any{"ports": out}}
}

func (c *Cloud) createPort(in *call) reply {
	var req struct {
		Port struct {
			Name    string    `json:"name"`
			Network string    `json:"network_id"`
			MAC     string    `json:"mac_address"`
			Groups  *[]string `json:"security_groups"`
		} `json:"port"`
	}
	if !in.json(&req) {
		return neutronError(400, "HTTPBadRequest", "Invalid JSON")
	}
	n := c.networks[req.Port.Network]
	if n == nil || n.Project != in.project() {
		return neutronError(404, "NetworkNotFound", fmt.Sprintf("Network %s could not be found.", req.Port.Network))
	}
	mac := req.Port.MAC
	if mac == "" {
		mac = "fa:16:3e:" + newID()[:2] + ":" + newID()[:2] + ":" + newID()[:2]
	} else if m, err := net.ParseMAC(mac); err != nil || len(m) != 6 {
		return neutronError(400, "HTTPBadRequest", fmt.Sprintf("Invalid input for mac_address. Reason: '%s' is not a valid MAC address.", mac))
	}
	quota := limit(c.cfg.Quotas.Ports, 10000)
	mine := 0
	for _, p := range c.ports {
		if p.Project == in.project() {
			mine++
		}
		if p.Network == n.ID && p.MAC == mac {
			return neutronError(409, "MacAddressInUse", fmt.Sprintf("Unable to complete operation for network %s. The mac address %s is in use.", n.ID, mac))
		}
	}
	if mine >= quota {
		return neutronError(409, "OverQuota", "Quota exceeded for resources: ['port'].")
	}
	var groups []string
	if req.Port.Groups == nil {
		for _, g := range c.groups {
			if g.Project == in.project() && g.Name == "default" {
				groups = append(groups, g.ID)
			}
		}
	} else {
		for _, g := range *req.Port.Groups {
			if found := c.groups[g]; found == nil || found.Project != in.project() {
				return neutronError(404, "SecurityGroupNotFound", fmt.Sprintf("Security group %s does not exist", g))
			}
			groups = append(groups, g)
		}
	}
	n.next++
	host := n.next + 1
	ip := netip.AddrFrom4([4]byte{10, 0, byte(host >> 8), byte(host)})
	p := &port{ID: newID(), Name: req.Port.Name, Project: in.project(), Network: n.ID, MAC: mac, Groups: groups, IP: ip.String()}
	_, p.seq = c.tick()
	c.ports[p.ID] = p
	c.created["port"]++
	return reply{status: 201, body: map[string]any{"port": showPort(p)}}
}

func showRule(g *group, r *rule) map[string]any {
	text := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return map[string]any{
		"id": r.ID, "security_group_id": g.ID, "direction": r.Direction, "ethertype": r.EtherType, "protocol": text(r.Protocol),
		"port_range_min": r.Min, "port_range_max": r.Max, "remote_ip_prefix": text(r.Prefix), "remote_group_id": text(r.RemoteGroup), "remote_address_group_id": nil,
	}
}

func showGroup(g *group) map[string]any {
	rules := []any{}
	for _, r := range g.rules {
		rules = append(rules, showRule(g, r))
	}
	return map[string]any{
		"id": g.ID, "name": g.Name, "description": g.Description, "project_id": g.Project, "stateful": true,
		"created_at": g.Created.Format("2006-01-02T15:04:05Z"), "security_group_rules": rules,
	}
}

func (c *Cloud) readGroups(in *call, id string) reply {
	if id != "" {
		g := c.groups[id]
		if g == nil || g.Project != in.project() {
			return neutronError(404, "SecurityGroupNotFound", fmt.Sprintf("Security group %s does not exist", id))
		}
		return reply{status: 200, body: map[string]any{"security_group": showGroup(g)}}
	}
	var all []*group
	for _, g := range c.groups {
		if g.Project == in.project() && matches(in, map[string]string{"name": g.Name, "project_id": g.Project}) {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b *group) int { return cmp.Compare(a.ID, b.ID) })
	out := []any{}
	for _, g := range paged(in, all, func(g *group) string { return g.ID }, 1000) {
		out = append(out, showGroup(g))
	}
	return reply{status: 200, body: map[string]any{"security_groups": out}}
}

// newGroupLocked makes a group with the rules that Neutron adds on its own: everything may leave.
func (c *Cloud) newGroupLocked(project, name, description string) *group {
	now, seq := c.tick()
	g := &group{ID: newID(), Name: name, Description: description, Project: project, Created: now, seq: seq, rules: []*rule{
		{ID: newID(), Direction: "egress", EtherType: "IPv4"}, {ID: newID(), Direction: "egress", EtherType: "IPv6"},
	}}
	c.groups[g.ID] = g
	return g
}

func (c *Cloud) createGroup(in *call) reply {
	var req struct {
		Group struct {
			Name        string `json:"name"`
			Description string `json:"description"`
		} `json:"security_group"`
	}
	if !in.json(&req) || req.Group.Name == "" {
		return neutronError(400, "HTTPBadRequest", "Failed to parse request. Required attribute 'name' not specified")
	}
	if req.Group.Name == "default" {
		return neutronError(409, "SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
	}
	mine := 0
	for _, g := range c.groups {
		if g.Project == in.project() {
			mine++
		}
	}
	if mine >= limit(c.cfg.Quotas.SecurityGroups, 10000)+1 { // the default group is not counted here
		return neutronError(409, "OverQuota", "Quota exceeded for resources: ['security_group'].")
	}
	g := c.newGroupLocked(in.project(), req.Group.Name, req.Group.Description)
	c.created["security group"]++
	return reply{status: 201, body: map[string]any{"security_group": showGroup(g)}}
}

func (c *Cloud) deleteGroup(in *call, id string) reply {
	g := c.groups[id]
	if g == nil || g.Project != in.project() {
		return neutronError(404, "SecurityGroupNotFound", fmt.Sprintf("Security group %s does not exist", id))
	}
	for _, p := range c.ports {
		if slices.Contains(p.Groups, id) {
			return neutronError(409, "SecurityGroupInUse", fmt.Sprintf("Security Group %s in use.", id))
		}
	}
	if g.Name == "default" {
		return neutronError(409, "SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default security group.")
	}
	delete(c.groups, id)
	return reply{status: 204}
}

func (c *Cloud) createRule(in *call) reply {
	var req struct {
		Rule struct {
			Group     string `json:"security_group_id"`
			Direction string `json:"direction"`
			EtherType string `json:"ethertype"`
			Protocol  string `json:"protocol"`
			Min       *int   `json:"port_range_min"`
			Max       *int   `json:"port_range_max"`
			Prefix    string `json:"remote_ip_prefix"`
			Remote    string `json:"remote_group_id"`
		} `json:"security_group_rule"`
	}
	if !in.json(&req) {
		return neutronError(400, "HTTPBadRequest", "Invalid JSON")
	}
	q := req.Rule
	if q.Direction != "ingress" && q.Direction != "egress" {
		return neutronError(400, "HTTPBadRequest", fmt.Sprintf("Invalid input for direction. Reason: '%s' is not in ['ingress', 'egress'].", q.Direction))
	}
	if q.EtherType == "" {
		q.EtherType = "IPv4"
	}
	if q.Min != nil && q.Protocol == "" {
		return neutronError(400, "SecurityGroupProtocolRequiredWithPorts", "Must also specify protocol if port range is given.")
	}
	if q.Min != nil && q.Max != nil && *q.Min > *q.Max {
		return neutronError(400, "SecurityGroupInvalidPortRange", "For TCP/UDP protocols, port_range_min must be <= port_range_max")
	}
	if q.Prefix != "" && q.Remote != "" {
		return neutronError(400, "SecurityGroupRemoteGroupAndRemoteIpPrefix", "Only remote_ip_prefix or remote_group_id may be provided.")
	}
	if q.Prefix != "" {
		p, err := netip.ParsePrefix(q.Prefix)
		if err != nil {
			return neutronError(400, "HTTPBadRequest", fmt.Sprintf("Invalid input for remote_ip_prefix. Reason: '%s' is not a valid IP subnet.", q.Prefix))
		}
		if p.Addr().Is4() != strings.EqualFold(q.EtherType, "IPv4") {
			return neutronError(400, "SecurityGroupRuleParameterConflict", fmt.Sprintf("Conflicting value ethertype %s for CIDR %s", q.EtherType, q.Prefix))
		}
	}
	g := c.groups[q.Group]
	if g == nil || g.Project != in.project() {
		return neutronError(404, "SecurityGroupNotFound", fmt.Sprintf("Security group %s does not exist", q.Group))
	}
	if remote := c.groups[q.Remote]; q.Remote != "" && (remote == nil || remote.Project != in.project()) {
		return neutronError(404, "SecurityGroupNotFound", fmt.Sprintf("Security group %s does not exist", q.Remote))
	}
	n := &rule{ID: newID(), Direction: q.Direction, EtherType: q.EtherType, Protocol: q.Protocol, Prefix: q.Prefix, Min: q.Min, Max: q.Max, RemoteGroup: q.Remote}
	same := func(a, b *int) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }
	for _, r := range g.rules {
		if r.Direction == n.Direction && r.EtherType == n.EtherType && r.Protocol == n.Protocol && r.Prefix == n.Prefix && same(r.Min, n.Min) && same(r.Max, n.Max) && r.RemoteGroup == n.RemoteGroup {
			return neutronError(409, "SecurityGroupRuleExists", fmt.Sprintf("Security group rule already exists. Rule id is %s.", r.ID))
		}
	}
	g.rules = append(g.rules, n)
	return reply{status: 201, body: map[string]any{"security_group_rule": showRule(g, n)}}
}

func (c *Cloud) deleteRule(in *call, id string) reply {
	for _, g := range c.groups {
		if g.Project != in.project() {
			continue
		}
		for i, r := range g.rules {
			if r.ID == id {
				g.rules = slices.Delete(g.rules, i, i+1)
				return reply{status: 204}
			}
		}
	}
	return neutronError(404, "SecurityGroupRuleNotFound", fmt.Sprintf("Security group rule %s does not exist", id))
}
