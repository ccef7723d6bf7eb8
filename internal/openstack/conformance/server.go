package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/openstack"
)

// server goes the way of a workspace: group, port, images, volumes, boot metadata, server, stop, start, delete.
func (s *suite) server(t *testing.T) {
	ctx := t.Context()
	group, err := s.cloud.EnsureSecurityGroup(ctx, openstack.SecurityGroupSpec{Name: s.prefix + "w-sg-g1"})
	must(t, err)
	portSpec := openstack.PortSpec{Name: s.prefix + "w-port-g1", NetworkID: s.Network, MAC: "02:" + pairs(random()[:10]), SecurityGroupID: group.ID}
	port, err := s.cloud.EnsurePort(ctx, portSpec)
	must(t, err)
	again, err := s.cloud.EnsurePort(ctx, portSpec)
	must(t, err)
	if again.ID != port.ID || port.DeviceID != "" || len(port.IPs) == 0 {
		t.Errorf("port %+v, again %+v", port, again)
	}
	twin := map[string]any{"port": map[string]any{"network_id": s.Network, "mac_address": portSpec.MAC, "name": "twin"}}
	if status, answer := s.raw.do(t, "POST", "network", "/v2.0/ports", twin, nil); status != 409 || !strings.Contains(fmt.Sprint(answer), "MacAddressInUse") {
		t.Errorf("a second port with the MAC: %d %v, want 409 MacAddressInUse", status, answer)
	}
	wantKind(t, s.cloud.DeleteSecurityGroup(ctx, group.ID), openstack.Conflict)

	kernel, err := s.cloud.EnsureImage(ctx, s.imageSpec("img-kernel", "aki", s.Kernel))
	must(t, err)
	initrd, err := s.cloud.EnsureImage(ctx, s.imageSpec("img-initrd", "ari", s.Initrd))
	must(t, err)
	volume := func(role string) string {
		v, err := s.cloud.EnsureVolume(ctx, openstack.VolumeSpec{Name: s.prefix + "w-" + role + "-g1", SizeGiB: 1, Type: s.VolumeType, Metadata: map[string]string{"siesta.role": role}})
		must(t, err)
		s.available(ctx, t, v.ID)
		return v.ID
	}
	root, data := volume("root"), volume("data")
	flavor, err := s.cloud.Flavor(ctx, s.Flavor)
	must(t, err)
	spec := openstack.ServerSpec{
		Name: s.prefix + "w-server-g1", FlavorID: flavor.ID, PortID: port.ID, RootVolumeID: root, DataVolumeID: data,
		Metadata: map[string]string{"siesta.gen": "1"},
	}
	_, err = s.cloud.EnsureServer(ctx, spec)
	wantKind(t, err, openstack.Permanent) // the root volume is not bootable yet
	must(t, s.cloud.SetBootMetadata(ctx, root, map[string]string{"kernel_id": kernel.ID, "ramdisk_id": initrd.ID, "os_command_line": "console=ttyS0 siesta.ws=conformance"}))

	srv, err := s.cloud.EnsureServer(ctx, spec)
	must(t, err)
	second, err := s.cloud.EnsureServer(ctx, spec)
	must(t, err)
	if second.ID != srv.ID {
		t.Errorf("a second EnsureServer gave %s, want %s", second.ID, srv.ID)
	}
	s.becomes(t, srv.ID, "ACTIVE")
	third, err := s.cloud.EnsureServer(ctx, spec)
	must(t, err)
	if third.ID != srv.ID || third.FlavorVCPUs != flavor.VCPUs || len(third.Volumes) != 2 {
		t.Errorf("the running server is %+v", third)
	}
	s.held(t, spec, srv.ID)
	if s.Boots {
		s.eventually(t, "the kernel's words on the console", func() bool {
			log, err := s.cloud.ConsoleLog(ctx, srv.ID, 200)
			must(t, err)
			return strings.Contains(log, Banner)
		})
	}
	must(t, s.cloud.StartServer(ctx, srv.ID)) // runs already
	must(t, s.cloud.StopServer(ctx, srv.ID))
	s.becomes(t, srv.ID, "SHUTOFF")
	must(t, s.cloud.StopServer(ctx, srv.ID))
	must(t, s.cloud.StartServer(ctx, srv.ID))
	s.becomes(t, srv.ID, "ACTIVE")

	must(t, s.cloud.DeleteServer(ctx, srv.ID))
	if status, _ := s.raw.do(t, "DELETE", "compute", "/servers/"+srv.ID, nil, nil); status != 204 && status != 404 {
		t.Errorf("deleting a server that is being deleted: %d, want 204, or 404 when it is gone", status)
	}
	s.eventually(t, "the server's end", func() bool {
		_, err := s.cloud.Server(ctx, srv.ID)
		if openstack.KindOf(err) != openstack.NotFound {
			must(t, err)
		}
		return err != nil
	})
	must(t, s.cloud.DeleteServer(ctx, srv.ID))
	s.available(ctx, t, root)
	s.available(ctx, t, data)
	s.eventually(t, "a free port", func() bool {
		p, err := s.cloud.Port(ctx, port.ID)
		must(t, err)
		return p.DeviceID == ""
	})
	for range 2 {
		must(t, s.cloud.DeletePort(ctx, port.ID))
	}
	must(t, s.cloud.DeleteSecurityGroup(ctx, group.ID))
	s.dropVolume(t, root)
	s.dropVolume(t, data)
	must(t, s.cloud.DeleteImage(ctx, kernel.ID))
	must(t, s.cloud.DeleteImage(ctx, initrd.ID))
}

// held shows what a running server keeps from others: its port and its volumes.
func (s *suite) held(t *testing.T, spec openstack.ServerSpec, id string) {
	t.Helper()
	ctx := t.Context()
	p, err := s.cloud.Port(ctx, spec.PortID)
	must(t, err)
	v, err := s.cloud.Volume(ctx, spec.DataVolumeID)
	must(t, err)
	if p.DeviceID != id || v.Status != "in-use" || len(v.Attachments) != 1 || v.Attachments[0] != id {
		t.Errorf("port %+v and volume %+v, want both held by %s", p, v, id)
	}
	wantKind(t, s.cloud.DeleteVolume(ctx, spec.DataVolumeID), openstack.Conflict)
	if status, answer := s.raw.do(t, "DELETE", "volumev3", "/volumes/"+spec.DataVolumeID, nil, nil); status != 400 {
		t.Errorf("deleting a volume in use: %d %v, want 400", status, answer)
	}
	thief := map[string]any{"server": map[string]any{
		"name": "thief", "flavorRef": spec.FlavorID, "networks": []any{map[string]any{"port": spec.PortID}},
		"block_device_mapping_v2": []any{map[string]any{"uuid": spec.RootVolumeID, "source_type": "volume", "destination_type": "volume", "boot_index": 0}},
	}}
	if status, answer := s.raw.do(t, "POST", "compute", "/servers", thief, map[string]string{"X-OpenStack-Nova-API-Version": "2.90"}); status < 400 {
		t.Errorf("a second server on the port and disk: %d %v, want a refusal", status, answer)
	}
	// With a disk of its own it is the port that stands in the way.
	spare, err := s.cloud.EnsureVolume(ctx, openstack.VolumeSpec{Name: s.prefix + "w-spare-g1", SizeGiB: 1, Type: s.VolumeType})
	must(t, err)
	s.available(ctx, t, spare.ID)
	bootable := map[string]any{"os-set_bootable": map[string]any{"bootable": true}}
	if status, answer := s.raw.do(t, "POST", "volumev3", "/volumes/"+spare.ID+"/action", bootable, nil); status != 200 {
		t.Errorf("making a volume bootable: %d %v, want 200", status, answer)
	}
	thief["server"].(map[string]any)["block_device_mapping_v2"] = []any{map[string]any{"uuid": spare.ID, "source_type": "volume", "destination_type": "volume", "boot_index": 0}}
	if status, answer := s.raw.do(t, "POST", "compute", "/servers", thief, map[string]string{"X-OpenStack-Nova-API-Version": "2.90"}); status != 409 {
		t.Errorf("a second server on the port: %d %v, want 409", status, answer)
	}
	s.eventually(t, "an unreserved volume", func() bool {
		v, err := s.cloud.Volume(ctx, spare.ID)
		must(t, err)
		return v.Status == "available"
	})
	s.dropVolume(t, spare.ID)
	other := spec
	other.Name = s.prefix + "other-server-g1"
	_, err = s.cloud.EnsureServer(ctx, other)
	wantKind(t, err, openstack.Conflict)
}

func (s *suite) becomes(t *testing.T, id, status string) {
	t.Helper()
	s.eventually(t, "a server that is "+status, func() bool {
		srv, err := s.cloud.Server(t.Context(), id)
		must(t, err)
		must(t, srv.Err())
		return srv.Status == status && srv.TaskState == ""
	})
}

// pairs puts colons between pairs of digits.
func pairs(hex string) string {
	var out []string
	for i := 0; i+2 <= len(hex); i += 2 {
		out = append(out, hex[i:i+2])
	}
	return strings.Join(out, ":")
}
