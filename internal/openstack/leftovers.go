package openstack

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"regexp"
	"slices"
)

// Resource is something at the site that carries this installation's name prefix.
type Resource struct {
	Service, Kind, ID, Name string
}

const listPages = 1000

// Leftovers lists everything in Nova, Cinder, Neutron, Glance and Barbican that bears the prefix, so that what no row
// accounts for can be found. A service missing from the catalog is skipped, and so is a key manager that is closed to this
// credential: a site's keys are kept under another.
func (c *Client) Leftovers(ctx context.Context) ([]Resource, error) {
	who, err := c.Identity(ctx)
	if err != nil {
		return nil, err
	}
	mine := url.Values{"project_id": {who.ProjectID}}
	// Only Nova filters by prefix; the others are asked for all the project's.
	named := url.Values{"name": {"^" + regexp.QuoteMeta(c.prefix)}}
	lists := []struct {
		svc   service
		kind  string
		path  []string
		key   string
		query url.Values
	}{
		{compute, "server", []string{"servers", "detail"}, "servers", named},
		{volume, "volume", []string{"volumes", "detail"}, "volumes", nil},
		{volume, "snapshot", []string{"snapshots"}, "snapshots", nil},
		{network, "port", []string{"ports"}, "ports", mine},
		{network, "security group", []string{"security-groups"}, "security_groups", mine},
		{network, "network", []string{"networks"}, "networks", mine},
		{image, "image", []string{"images"}, "images", url.Values{"owner": {who.ProjectID}}},
	}
	var all []Resource
	for _, l := range lists {
		found, err := c.listNamed(ctx, l.svc, l.kind, l.path, l.key, l.query)
		if errors.Is(err, errNoService) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	secrets, err := c.secretsLike(ctx, "listing secrets", c.prefix+"%")
	if err != nil && !errors.Is(err, errNoService) && KindOf(err) != Forbidden {
		return nil, err
	}
	for _, s := range secrets {
		if c.owned(s.Name) {
			all = append(all, Resource{keyManager.name, "secret", s.id, clean(s.Name, 63)})
		}
	}
	slices.SortFunc(all, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// Named lists what bears exactly that name, of one kind as Leftovers calls it. It is the cheap way to find one thing.
func (c *Client) Named(ctx context.Context, kind, name string) ([]Resource, error) {
	const op = "finding by name"
	if err := c.nameable(kind, op, name); err != nil {
		return nil, err
	}
	if kind == "secret" {
		secrets, err := c.secretsLike(ctx, op, name)
		var found []Resource
		for _, s := range secrets {
			if s.Name == name {
				found = append(found, Resource{keyManager.name, kind, s.id, name})
			}
		}
		return found, err
	}
	exact := url.Values{"name": {name}}
	list := map[string]struct {
		svc   service
		path  []string
		key   string
		query url.Values
	}{
		"server":         {compute, []string{"servers", "detail"}, "servers", url.Values{"name": {"^" + regexp.QuoteMeta(name) + "$"}}},
		"volume":         {volume, []string{"volumes", "detail"}, "volumes", exact},
		"port":           {network, []string{"ports"}, "ports", exact},
		"security group": {network, []string{"security-groups"}, "security_groups", exact},
		"image":          {image, []string{"images"}, "images", exact},
	}
	l, known := list[kind]
	if !known {
		return nil, &Error{Kind: Permanent, Service: kind, Op: op, Object: name, Reason: "there is no such kind"}
	}
	found, err := c.listNamed(ctx, l.svc, kind, l.path, l.key, l.query)
	return slices.DeleteFunc(found, func(r Resource) bool { return r.Name != name }), err
}

// listNamed pages through a list by marker, with URLs of our own making: the links in answers are not followed.
func (c *Client) listNamed(ctx context.Context, svc service, kind string, path []string, key string, query url.Values) ([]Resource, error) {
	op := "listing " + kind + "s"
	var found []Resource
	seen := map[string]bool{}
	marker := ""
	for range listPages {
		q := url.Values{"limit": {"500"}} // below every service's default maximum
		for k, v := range query {
			q[k] = v
		}
		if marker != "" {
			q.Set("marker", marker)
		}
		doc := map[string]any{}
		if err := c.get(ctx, svc, op, "", q, &doc, path...); err != nil {
			return nil, err
		}
		entries, _ := doc[key].([]any)
		before := len(seen)
		for _, e := range entries {
			fields, _ := e.(map[string]any)
			id, _ := fields["id"].(string)
			name, _ := fields["name"].(string)
			if !uuidForm.MatchString(id) {
				return nil, unusable(svc, op, "", "an entry has no UUID")
			}
			if seen[id] {
				continue
			}
			seen[id], marker = true, id
			if status, _ := fields["status"].(string); c.owned(name) && status != "DELETED" {
				found = append(found, Resource{svc.name, kind, id, clean(name, 255)})
			}
		}
		// Not by the page's length: a site may cut pages shorter than asked for, or not know pages at all.
		if len(seen) == before {
			return found, nil
		}
	}
	return nil, unusable(svc, op, "", "there are more than can be")
}
