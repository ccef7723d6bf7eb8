package conformance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/openstack"
)

func random() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // does not fail
	return hex.EncodeToString(b)
}

// Run drives the whole suite against one target.
func Run(t *testing.T, target Target) {
	s := newSuite(t, target)
	t.Cleanup(func() { s.sweep(t) })
	t.Run("identity", s.identity)
	t.Run("refusals", s.refusals)
	t.Run("shapes", s.shapes)
	t.Run("secrets", s.secrets)
	t.Run("secret lists", s.secretLists)
	t.Run("security group", s.securityGroup)
	t.Run("images", s.images)
	t.Run("volumes", s.volumes)
	t.Run("server", s.server)
	t.Run("nothing left", func(t *testing.T) {
		for _, c := range []*openstack.Client{s.cloud, s.keys} {
			s.eventually(t, "an empty site", func() bool {
				left, err := c.Leftovers(t.Context())
				must(t, err)
				return len(left) == 0
			})
		}
	})
}

// sweep removes what a failed run left.
func (s *suite) sweep(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	for _, c := range []*openstack.Client{s.cloud, s.keys} {
		left, err := c.Leftovers(ctx)
		if err != nil {
			t.Errorf("listing what is left: %v", err)
		}
		for _, kind := range []string{"server", "port", "volume", "security group", "image", "secret"} {
			for _, r := range left {
				if r.Kind != kind {
					continue
				}
				t.Logf("removing %s %s", r.Kind, r.Name)
				remove := map[string]func(context.Context, string) error{
					"server": c.DeleteServer, "port": c.DeletePort, "volume": c.DeleteVolume,
					"security group": c.DeleteSecurityGroup, "image": c.DeleteImage, "secret": c.DeleteSecret,
				}[kind]
				if err := remove(ctx, r.ID); err != nil {
					t.Logf("removing it: %v", err)
				}
			}
		}
	}
}

func (s *suite) identity(t *testing.T) {
	who, err := s.cloud.Identity(t.Context())
	must(t, err)
	if who.ProjectID != s.raw.project || len(who.Roles) == 0 {
		t.Errorf("identity is %+v, want project %s and roles", who, s.raw.project)
	}
	if status, _, _ := s.raw.authenticate(t, s.raw.id, "wrong"); status != 401 {
		t.Errorf("a wrong secret: %d, want 401", status)
	}
	if status, _, _ := s.raw.authenticate(t, random(), "wrong"); status != 404 {
		t.Errorf("an unknown credential: %d, want 404", status)
	}
}

// refusals are answers that the client's rules rest on, whatever it does itself.
func (s *suite) refusals(t *testing.T) {
	nowhere := "00000000-0000-4000-8000-000000000000"
	for _, row := range []struct {
		name, method, service, path string
		body                        any
		header                      map[string]string
		want                        int
	}{
		{"compute without token", "GET", "compute", "/servers/detail", nil, map[string]string{"X-Auth-Token": ""}, 401},
		{"volume without token", "GET", "volumev3", "/volumes/detail", nil, map[string]string{"X-Auth-Token": ""}, 401},
		{"network without token", "POST", "network", "/v2.0/ports", map[string]any{}, map[string]string{"X-Auth-Token": "gAAAAAnone"}, 401},
		{"image without token", "GET", "image", "/v2/images", nil, map[string]string{"X-Auth-Token": ""}, 401},
		{"compute microversion", "GET", "compute", "/flavors", nil, map[string]string{"X-OpenStack-Nova-API-Version": "2.999"}, 406},
		{"volume microversion", "GET", "volumev3", "/types", nil, map[string]string{"OpenStack-API-Version": "volume 3.999"}, 406},
		{"name filter is a regular expression", "GET", "compute", "/servers/detail?name=(", nil, nil, 400},
		{"no such server", "GET", "compute", "/servers/" + nowhere, nil, nil, 404},
		{"no such flavor", "GET", "compute", "/flavors/siesta-none", nil, nil, 404},
		{"server of unknown flavor", "POST", "compute", "/servers", map[string]any{"server": map[string]any{
			"name": "x", "flavorRef": nowhere, "networks": []any{map[string]any{"port": nowhere}},
			"block_device_mapping_v2": []any{map[string]any{"uuid": nowhere, "source_type": "volume", "destination_type": "volume", "boot_index": 0}},
		}}, map[string]string{"X-OpenStack-Nova-API-Version": "2.90"}, 400},
		{"no such volume", "GET", "volumev3", "/volumes/" + nowhere, nil, nil, 404},
		{"volume of no size", "POST", "volumev3", "/volumes", map[string]any{"volume": map[string]any{"name": "x", "size": 0}}, nil, 400},
		{"volume of unknown type", "POST", "volumev3", "/volumes", map[string]any{"volume": map[string]any{"name": "x", "size": 1, "volume_type": "siesta-none"}}, nil, 404},
		{"no such port", "GET", "network", "/v2.0/ports/" + nowhere, nil, nil, 404},
		{"port on no network", "POST", "network", "/v2.0/ports", map[string]any{"port": map[string]any{"network_id": nowhere}}, nil, 404},
		{"port with a bad MAC", "POST", "network", "/v2.0/ports", map[string]any{"port": map[string]any{"network_id": s.Network, "mac_address": "no"}}, nil, 400},
		{"port in no group", "POST", "network", "/v2.0/ports", map[string]any{"port": map[string]any{"network_id": s.Network, "security_groups": []string{nowhere}}}, nil, 404},
		{"rule of a bad direction", "POST", "network", "/v2.0/security-group-rules", map[string]any{"security_group_rule": map[string]any{"security_group_id": nowhere, "direction": "up"}}, nil, 400},
		{"no such image", "GET", "image", "/v2/images/" + nowhere, nil, nil, 404},
		{"image of an unknown format", "POST", "image", "/v2/images", map[string]any{"name": "x", "container_format": "none-such", "disk_format": "raw"}, nil, 400},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, answer := s.raw.do(t, row.method, row.service, row.path, row.body, row.header); got != row.want {
				t.Errorf("%s %s: %d %v, want %d", row.method, row.path, got, answer, row.want)
			}
		})
	}
}

func (s *suite) shapes(t *testing.T) {
	ctx := t.Context()
	f, err := s.cloud.Flavor(ctx, s.Flavor)
	must(t, err)
	again, err := s.cloud.Flavor(ctx, f.ID)
	must(t, err)
	if !reflect.DeepEqual(f, again) || f.ExtraSpecs == nil {
		t.Errorf("by name %+v, by id %+v; want the same, with extra specs", f, again)
	}
	_, err = s.cloud.Flavor(ctx, "siesta-none")
	wantKind(t, err, openstack.NotFound)
	n, err := s.cloud.Network(ctx, s.Network)
	must(t, err)
	byName, err := s.cloud.Network(ctx, n.Name)
	must(t, err)
	if byName.ID != n.ID || !n.PortSecurity || len(n.Subnets) == 0 {
		t.Errorf("network by id %+v, by name %+v", n, byName)
	}
	_, err = s.cloud.Network(ctx, "siesta-none")
	wantKind(t, err, openstack.NotFound)
	have, err := s.cloud.Capacity(ctx)
	must(t, err)
	if have.Servers.Max == 0 || have.VolumeGiB.Max == 0 {
		t.Errorf("capacity %+v has no limits", have)
	}
}

func (s *suite) secrets(t *testing.T) {
	ctx := t.Context()
	id, err := s.keys.EnsureSecret(ctx, s.prefix+"key-g1")
	must(t, err)
	again, err := s.keys.EnsureSecret(ctx, s.prefix+"key-g1")
	must(t, err)
	if again != id {
		t.Errorf("a second EnsureSecret gave %s, want %s", again, id)
	}
	_, err = s.keys.SecretPayload(ctx, id)
	wantKind(t, err, openstack.NotFound)
	payload := make([]byte, 400)
	_, _ = rand.Read(payload)
	must(t, s.keys.PutSecretPayload(ctx, id, payload))
	wantKind(t, s.keys.PutSecretPayload(ctx, id, []byte("another")), openstack.Conflict)
	got, err := s.keys.SecretPayload(ctx, id)
	must(t, err)
	if string(got) != string(payload) {
		t.Error("another payload came back")
	}
	acl, err := s.keys.SecretACL(ctx, id)
	must(t, err)
	if !acl.ProjectAccess || len(acl.Users) != 0 {
		t.Errorf("ACL of a new secret is %+v, want access of the project", acl)
	}
	reader := random()
	must(t, s.keys.SetSecretACL(ctx, id, []string{reader}))
	must(t, s.keys.SetSecretACL(ctx, id, []string{reader}))
	must(t, s.keys.SetSecretACL(ctx, id, nil))
	consumer := openstack.Consumer{Service: "siesta", ResourceType: "workspace", ResourceID: "01jx0000000000000000000000"}
	for range 2 {
		must(t, s.keys.AddConsumer(ctx, id, consumer))
	}
	for range 2 {
		must(t, s.keys.RemoveConsumer(ctx, id, consumer))
	}
	must(t, s.keys.AddConsumer(ctx, id, consumer)) // in the way of nothing
	for range 2 {
		must(t, s.keys.DeleteSecret(ctx, id))
	}
	_, err = s.keys.SecretPayload(ctx, id)
	wantKind(t, err, openstack.NotFound)
	if status, _ := s.rawKey.do(t, "GET", "key-manager", "/v1/secrets", nil, map[string]string{"X-Auth-Token": ""}); status != 401 {
		t.Errorf("secrets without token: %d, want 401", status)
	}
}

// secretLists shows that the name filter is LIKE, that a page is 10 unless asked for, and 100 at most, and that a large
// payload is refused.
func (s *suite) secretLists(t *testing.T) {
	ctx := t.Context()
	var ids []string
	for i := range 12 {
		id, err := s.keys.EnsureSecret(ctx, fmt.Sprintf("%spage%02d-key-g1", s.prefix, i))
		must(t, err)
		ids = append(ids, id)
	}
	list := func(query string) (int, float64) {
		status, doc := s.rawKey.do(t, "GET", "key-manager", "/v1/secrets?"+query, nil, nil)
		if status != 200 {
			t.Fatalf("listing %s: %d", query, status)
		}
		total, _ := doc["total"].(float64)
		found, _ := doc["secrets"].([]any)
		return len(found), total
	}
	for _, row := range []struct {
		query string
		found int
		total float64
	}{
		{"name=" + s.prefix + "%25", 10, 12},
		{"limit=100&name=" + s.prefix + "%25", 12, 12},
		{"limit=100&offset=10&name=" + s.prefix + "%25", 2, 12},
		{"name=" + s.prefix + "page0_-key-g1", 10, 10},
		{"name=" + s.prefix + "page01-key-g1", 1, 1},
		{"name=" + s.prefix + "page", 0, 0},
	} {
		if found, total := list(row.query); found != row.found || total != row.total {
			t.Errorf("%s: %d of %v, want %d of %v", row.query, found, total, row.found, row.total)
		}
	}
	status, _ := s.rawKey.do(t, "PUT", "key-manager", "/v1/secrets/"+ids[0], make([]byte, 20001), map[string]string{"Content-Type": "application/octet-stream"})
	if status != 413 {
		t.Errorf("a payload of 20001 bytes: %d, want 413", status)
	}
	left, err := s.keys.Leftovers(ctx)
	must(t, err)
	secrets := slices.DeleteFunc(left, func(r openstack.Resource) bool { return r.Kind != "secret" })
	if len(secrets) != len(ids) {
		t.Errorf("%d secrets are listed as ours, want %d", len(secrets), len(ids))
	}
	for _, id := range ids {
		must(t, s.keys.DeleteSecret(ctx, id))
	}
}

func (s *suite) securityGroup(t *testing.T) {
	ctx := t.Context()
	spec := openstack.SecurityGroupSpec{Name: s.prefix + "sg-g1", Description: "conformance"}
	g, err := s.cloud.EnsureSecurityGroup(ctx, spec)
	must(t, err)
	if len(g.Rules) != 0 {
		t.Errorf("an empty group has rules %+v", g.Rules)
	}
	spec.Rules = []openstack.Rule{
		{Direction: "egress", EtherType: "IPv4", Protocol: "tcp", PortMin: 8443, PortMax: 8443, RemotePrefix: "10.0.2.2/32"},
		{Direction: "egress", EtherType: "IPv4", Protocol: "udp", PortMin: 123, PortMax: 123, RemotePrefix: "0.0.0.0/0"},
		{Direction: "ingress", EtherType: "IPv6", Protocol: "tcp", PortMin: 22, PortMax: 23, RemotePrefix: "2001:db8::/32"},
	}
	with, err := s.cloud.EnsureSecurityGroup(ctx, spec)
	must(t, err)
	if with.ID != g.ID || len(with.Rules) != 3 {
		t.Errorf("the group became %+v, want %s with three rules", with, g.ID)
	}
	again, err := s.cloud.EnsureSecurityGroup(ctx, spec)
	must(t, err)
	if !reflect.DeepEqual(again, with) {
		t.Errorf("ensured again %+v, want %+v", again, with)
	}
	// A rule that we would never write neither hides the group nor keeps it.
	foreign := map[string]any{"security_group_id": g.ID, "direction": "ingress", "ethertype": "IPv4", "remote_group_id": g.ID}
	if status, answer := s.raw.do(t, "POST", "network", "/v2.0/security-group-rules", map[string]any{"security_group_rule": foreign}, nil); status != 201 {
		t.Errorf("a rule for members of a group: %d %v, want 201", status, answer)
	}
	must(t, s.cloud.SecurityGroupExists(ctx, g.ID))
	foreign["remote_ip_prefix"] = "10.0.0.0/8"
	if status, answer := s.raw.do(t, "POST", "network", "/v2.0/security-group-rules", map[string]any{"security_group_rule": foreign}, nil); status != 400 {
		t.Errorf("a rule for members of a group and a prefix: %d %v, want 400", status, answer)
	}
	rule := map[string]any{"security_group_rule": map[string]any{
		"security_group_id": g.ID, "direction": "egress", "ethertype": "IPv4", "protocol": "tcp",
		"port_range_min": 8443, "port_range_max": 8443, "remote_ip_prefix": "10.0.2.2/32",
	}}
	if status, answer := s.raw.do(t, "POST", "network", "/v2.0/security-group-rules", rule, nil); status != 409 {
		t.Errorf("the same rule again: %d %v, want 409", status, answer)
	}
	for range 2 {
		must(t, s.cloud.DeleteSecurityGroup(ctx, g.ID))
	}
	wantKind(t, s.cloud.SecurityGroupExists(ctx, g.ID), openstack.NotFound)
}

func (s *suite) images(t *testing.T) {
	ctx := t.Context()
	spec := s.imageSpec("img-once", "aki", []byte(random()))
	first, err := s.cloud.EnsureImage(ctx, spec)
	must(t, err)
	again, err := s.cloud.EnsureImage(ctx, spec)
	must(t, err)
	if first.ID != spec.ID || again != first || first.Status != "active" {
		t.Errorf("first %+v, again %+v, want id %s, active", first, again, spec.ID)
	}
	record := map[string]any{"id": spec.ID, "name": spec.Name, "container_format": "aki", "disk_format": "aki"}
	if status, _ := s.raw.do(t, "POST", "image", "/v2/images", record, nil); status != 409 {
		t.Errorf("the same id again: %d, want 409", status)
	}
	octets := map[string]string{"Content-Type": "application/octet-stream"}
	if status, _ := s.raw.do(t, "PUT", "image", "/v2/images/"+spec.ID+"/file", []byte("other"), octets); status != 409 {
		t.Errorf("other bytes for an active image: %d, want 409", status)
	}
	for range 2 {
		must(t, s.cloud.DeleteImage(ctx, spec.ID))
	}
	if status, _ := s.raw.do(t, "POST", "image", "/v2/images", record, nil); status != 409 {
		t.Errorf("the id of a deleted image: %d, want 409", status)
	}
	reborn, err := s.cloud.EnsureImage(ctx, spec)
	must(t, err)
	if reborn.ID == spec.ID || reborn.SHA512 != spec.SHA512 {
		t.Errorf("after deletion %+v, want another id and the same bytes", reborn)
	}
	must(t, s.cloud.DeleteImage(ctx, reborn.ID))
}

func (s *suite) volumes(t *testing.T) {
	ctx := t.Context()
	spec := openstack.VolumeSpec{Name: s.prefix + "data-g9", SizeGiB: 1, Type: s.VolumeType, Metadata: map[string]string{"siesta.role": "data", "siesta.gen": "9"}}
	v, err := s.cloud.EnsureVolume(ctx, spec)
	must(t, err)
	again, err := s.cloud.EnsureVolume(ctx, spec)
	must(t, err)
	if again.ID != v.ID || v.MultiAttach || v.Encrypted || !maps.Equal(v.Metadata, spec.Metadata) {
		t.Errorf("first %+v, again %+v", v, again)
	}
	s.available(ctx, t, v.ID)
	other := spec
	other.SizeGiB = 2
	_, err = s.cloud.EnsureVolume(ctx, other)
	wantKind(t, err, openstack.Permanent)
	properties := map[string]string{"kernel_id": random(), "ramdisk_id": random(), "os_command_line": "console=ttyS0 siesta.ws=x " + strings.Repeat("l", 229)}
	must(t, s.cloud.SetBootMetadata(ctx, v.ID, properties))
	must(t, s.cloud.SetBootMetadata(ctx, v.ID, properties))
	properties["os_command_line"] += "l"
	wantKind(t, s.cloud.SetBootMetadata(ctx, v.ID, properties), openstack.Permanent)
	fewer := map[string]string{"kernel_id": random(), "ramdisk_id": random(), "os_command_line": "quiet"}
	stray := map[string]any{"os-set_image_metadata": map[string]any{"metadata": map[string]string{"hw_stray": "1"}}}
	if status, _ := s.raw.do(t, "POST", "volumev3", "/volumes/"+v.ID+"/action", stray, nil); status != 200 {
		t.Errorf("setting image metadata: %d, want 200", status)
	}
	must(t, s.cloud.SetBootMetadata(ctx, v.ID, fewer))
	read, err := s.cloud.Volume(ctx, v.ID)
	must(t, err)
	if !read.Bootable || !maps.Equal(read.ImageMetadata, fewer) {
		t.Errorf("read back %+v, want bootable with %v", read, fewer)
	}
	s.dropVolume(t, v.ID)
	_, err = s.cloud.VolumeByName(ctx, spec.Name)
	wantKind(t, err, openstack.NotFound)
}

func (s *suite) available(ctx context.Context, t *testing.T, id string) {
	t.Helper()
	s.eventually(t, "an available volume", func() bool {
		v, err := s.cloud.Volume(ctx, id)
		must(t, err)
		must(t, v.Err())
		return v.Status == "available" && len(v.Attachments) == 0
	})
}

func (s *suite) dropVolume(t *testing.T, id string) {
	t.Helper()
	must(t, s.cloud.DeleteVolume(t.Context(), id))
	s.eventually(t, "the volume's end", func() bool {
		_, err := s.cloud.Volume(t.Context(), id)
		return openstack.KindOf(err) == openstack.NotFound
	})
	must(t, s.cloud.DeleteVolume(t.Context(), id))
}
