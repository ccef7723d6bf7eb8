package openstack

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

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

type ruleWire struct {
	ID           string  `json:"id"`
	Direction    string  `json:"direction"`
	EtherType    string  `json:"ethertype"`
	Protocol     *string `json:"protocol"`
	PortMin      *int    `json:"port_range_min"`
	PortMax      *int    `json:"port_range_max"`
	RemotePrefix *string `json:"remote_ip_prefix"`
	RemoteGroup  *string `json:"remote_group_id"`
	AddressGroup *string `json:"remote_address_group_id"`
}

type groupWire struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	CreatedAt string     `json:"created_at"`
	Rules     []ruleWire `json:"security_group_rules"`
}

// rule reads a rule of the cloud's; false where it says something that Rule cannot.
func (w ruleWire) rule() (Rule, bool) {
	r := Rule{Direction: w.Direction, EtherType: w.EtherType}
	if w.Protocol != nil {
		r.Protocol = *w.Protocol
	}
	if w.PortMin != nil {
		r.PortMin = *w.PortMin
	}
	if w.PortMax != nil {
		r.PortMax = *w.PortMax
	}
	if w.RemotePrefix != nil {
		r.RemotePrefix = *w.RemotePrefix
	}
	n, err := r.normal()
	return n, err == nil && w.RemoteGroup == nil && w.AddressGroup == nil
}

// normal gives rules that mean the same the same form, and refuses those that mean nothing.
func (r Rule) normal() (Rule, error) {
	r.Direction, r.Protocol = strings.ToLower(r.Direction), strings.ToLower(r.Protocol)
	switch strings.ToLower(r.EtherType) {
	case "ipv4":
		r.EtherType = "IPv4"
	case "ipv6":
		r.EtherType = "IPv6"
	default:
		return r, fmt.Errorf("ethertype %.10q is neither IPv4 nor IPv6", r.EtherType)
	}
	if r.Direction != "ingress" && r.Direction != "egress" {
		return r, fmt.Errorf("direction %.10q is neither ingress nor egress", r.Direction)
	}
	switch r.Protocol {
	case "6":
		r.Protocol = "tcp"
	case "17":
		r.Protocol = "udp"
	case "1":
		r.Protocol = "icmp"
	case "any", "0":
		r.Protocol = ""
	}
	if r.PortMin < 0 || r.PortMax > 65535 || r.PortMin > r.PortMax {
		return r, fmt.Errorf("ports %d to %d are no range", r.PortMin, r.PortMax)
	}
	if r.RemotePrefix != "" {
		p, err := netip.ParsePrefix(r.RemotePrefix)
		if err != nil || p.Addr().Is4() != (r.EtherType == "IPv4") {
			return r, fmt.Errorf("remote prefix %.50q is no %s prefix", r.RemotePrefix, r.EtherType)
		}
		r.RemotePrefix = p.Masked().String()
		if p.Bits() == 0 {
			r.RemotePrefix = "" // anyone, said at length
		}
	}
	return r, nil
}

func (r Rule) body(group string) map[string]any {
	b := map[string]any{"security_group_id": group, "direction": r.Direction, "ethertype": r.EtherType}
	if r.Protocol != "" {
		b["protocol"] = r.Protocol
	}
	if r.PortMax != 0 {
		b["port_range_min"], b["port_range_max"] = r.PortMin, r.PortMax
	}
	if r.RemotePrefix != "" {
		b["remote_ip_prefix"] = r.RemotePrefix
	}
	return map[string]any{"security_group_rule": b}
}

// key orders rules for messages and comparison.
func (r Rule) key() string {
	return strings.Join([]string{r.Direction, r.EtherType, r.Protocol, strconv.Itoa(r.PortMin), strconv.Itoa(r.PortMax), r.RemotePrefix}, "|")
}

// repairs bounds how often a group is put right before it is called broken: more means that somebody adds rules as we
// remove them.
const repairs = 3

// EnsureSecurityGroup makes the group exist with exactly the wanted rules: the rules that Neutron adds on its own are
// removed, and the result is read back and compared as a set.
func (c *Client) EnsureSecurityGroup(ctx context.Context, spec SecurityGroupSpec) (SecurityGroup, error) {
	const op = "creating security group"
	if err := c.nameable(network.name, op, spec.Name); err != nil {
		return SecurityGroup{}, err
	}
	wanted := map[Rule]bool{}
	for _, r := range spec.Rules {
		n, err := r.normal()
		if err != nil {
			return SecurityGroup{}, unusable(network, op, spec.Name, err.Error())
		}
		wanted[n] = true
	}
	group, err := c.oneGroup(ctx, spec)
	if err != nil {
		return SecurityGroup{}, err
	}
	for range repairs {
		changed, err := c.repairRules(ctx, group, wanted)
		if err != nil {
			return SecurityGroup{}, err
		}
		if !changed {
			return group.check(op)
		}
		// What was asked for is believed only when it is read back.
		var doc struct {
			Group groupWire `json:"security_group"`
		}
		if err := c.get(ctx, network, op, spec.Name, nil, &doc, "security-groups", group.ID); err != nil {
			return SecurityGroup{}, err
		}
		if doc.Group.ID != group.ID {
			return SecurityGroup{}, unusable(network, op, spec.Name, "another group came back")
		}
		group = doc.Group
	}
	if changed := group.differs(wanted); changed {
		return SecurityGroup{}, unusable(network, op, spec.Name, "its rules do not become the wanted ones")
	}
	return group.check(op)
}

// oneGroup finds the group of that name, or creates it, and leaves exactly one: the oldest.
func (c *Client) oneGroup(ctx context.Context, spec SecurityGroupSpec) (groupWire, error) {
	const op = "creating security group"
	found, err := c.groupsByName(ctx, spec.Name)
	if err != nil {
		return groupWire{}, err
	}
	if len(found) == 0 {
		body := map[string]any{"security_group": map[string]any{"name": spec.Name, "description": spec.Description}}
		posted := c.send(ctx, request{service: network, op: op, object: spec.Name, method: "POST", path: []string{"security-groups"}, body: body, ok: []int{201}})
		if kind := KindOf(posted); kind != "" && kind != Ambiguous {
			return groupWire{}, posted
		}
		// The second look finds what a lost answer hid, and a twin that another made meanwhile.
		if found, err = c.groupsByName(ctx, spec.Name); err != nil {
			return groupWire{}, err
		}
		if len(found) == 0 {
			if posted == nil {
				posted = &Error{Kind: Ambiguous, Service: network.name, Op: op, Object: spec.Name, Reason: "it is not to be found after its creation"}
			}
			return groupWire{}, posted
		}
	}
	for _, loser := range found[1:] {
		if err := c.remove(ctx, network, "deleting duplicate security group", loser.ID, "security-groups", loser.ID); err != nil {
			return groupWire{}, err
		}
	}
	return found[0], nil
}

// groupsByName lists the project's groups of exactly that name, the one to keep first.
func (c *Client) groupsByName(ctx context.Context, name string) ([]groupWire, error) {
	who, err := c.Identity(ctx)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Groups []groupWire `json:"security_groups"`
	}
	query := url.Values{"name": {name}, "project_id": {who.ProjectID}}
	if err := c.get(ctx, network, "finding security group", name, query, &doc, "security-groups"); err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(doc.Groups, func(g groupWire) bool { return g.Name != name || !uuidForm.MatchString(g.ID) })
	slices.SortFunc(found, func(a, b groupWire) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// repairRules removes what is not wanted and adds what is missing; it says whether it had to do anything.
func (c *Client) repairRules(ctx context.Context, g groupWire, wanted map[Rule]bool) (changed bool, err error) {
	present := map[Rule]bool{}
	for _, w := range g.Rules {
		r, known := w.rule()
		if known && wanted[r] && !present[r] {
			present[r] = true
			continue
		}
		changed = true
		if err := identifier(network, "deleting security group rule", w.ID); err != nil {
			return changed, err
		}
		if err := c.remove(ctx, network, "deleting security group rule", w.ID, "security-group-rules", w.ID); err != nil {
			return changed, err
		}
	}
	for r := range wanted {
		if present[r] {
			continue
		}
		changed = true
		err := c.send(ctx, request{
			service: network, op: "creating security group rule", object: g.Name, method: "POST",
			path: []string{"security-group-rules"}, body: r.body(g.ID), ok: []int{201},
		})
		// Conflict: the rule exists. Ambiguous: the reading back will tell.
		if kind := KindOf(err); kind != "" && kind != Conflict && kind != Ambiguous {
			return changed, err
		}
	}
	return changed, nil
}

func (g groupWire) differs(wanted map[Rule]bool) bool {
	for _, w := range g.Rules {
		if r, known := w.rule(); !known || !wanted[r] {
			return true
		}
	}
	return len(g.Rules) != len(wanted)
}

func (g groupWire) check(op string) (SecurityGroup, error) {
	if !uuidForm.MatchString(g.ID) || len(g.Rules) > 1000 {
		return SecurityGroup{}, unusable(network, op, clean(g.Name, 63), "the answer is not a security group")
	}
	out := SecurityGroup{ID: g.ID, Name: clean(g.Name, 255)}
	for _, w := range g.Rules {
		r, known := w.rule()
		if !known {
			return SecurityGroup{}, unusable(network, op, out.Name, "it has a rule of an unknown form")
		}
		out.Rules = append(out.Rules, r)
	}
	slices.SortFunc(out.Rules, func(a, b Rule) int { return cmp.Compare(a.key(), b.key()) })
	return out, nil
}

// SecurityGroupExists returns nil if there is such a group, whatever rules somebody gave it, and NotFound if not.
func (c *Client) SecurityGroupExists(ctx context.Context, id string) error {
	_, err := c.groupByID(ctx, "finding security group", id)
	return err
}

func (c *Client) groupByID(ctx context.Context, op, id string) (groupWire, error) {
	if err := identifier(network, op, id); err != nil {
		return groupWire{}, err
	}
	var doc struct {
		Group groupWire `json:"security_group"`
	}
	if err := c.get(ctx, network, op, id, nil, &doc, "security-groups", id); err != nil {
		return groupWire{}, err
	}
	if doc.Group.ID != id {
		return groupWire{}, unusable(network, op, id, "another group came back")
	}
	return doc.Group, nil
}

// DeleteSecurityGroup deletes a group of this installation; absence is success.
func (c *Client) DeleteSecurityGroup(ctx context.Context, id string) error {
	const op = "deleting security group"
	g, err := c.groupByID(ctx, op, id)
	if ours, err := c.mayDelete(network, op, id, g.Name, err); !ours {
		return err
	}
	return c.remove(ctx, network, op, id, "security-groups", id)
}
