package cloudsim_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

func wantKind(t *testing.T, err error, kind openstack.Kind) {
	t.Helper()
	if got := openstack.KindOf(err); got != kind {
		t.Fatalf("error %v is %q, want %q", err, got, kind)
	}
}

func TestForeignHostInCatalog(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	s.Poison("compute", "http://evil.example/compute/v2.1")
	s.Poison("network", "file:///etc")
	c := s.client(t, "prov")
	_, err := c.Flavor(t.Context(), "siesta.small")
	wantKind(t, err, openstack.Permanent)
	if !strings.Contains(err.Error(), "evil.example") {
		t.Errorf("%v does not name the host", err)
	}
	_, err = c.Network(t.Context(), s.network)
	wantKind(t, err, openstack.Permanent)
	r, err := c.Preflight(t.Context(), openstack.PreflightSpec{TEE: "simulated", Flavors: []string{"siesta.small"}})
	must(t, err)
	if r.OK() {
		t.Errorf("preflight accepts a poisoned catalog: %+v", r)
	}
}

// TestRedirect shows that an answer cannot send the token elsewhere.
func TestRedirect(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	c := s.client(t, "prov")
	defer s.Inject(cloudsim.Fault{Service: "network", Method: "GET", Times: 1, Status: 307, Header: map[string]string{"Location": "http://" + s.host + "/image/v2/images"}})()
	ctx, trace := openstack.WithTrace(t.Context())
	_, err := c.Network(ctx, s.network)
	wantKind(t, err, openstack.Permanent)
	for _, call := range trace.Calls() {
		if call.Service == "network" && !strings.HasPrefix(call.Path, "/network/") {
			t.Errorf("the redirect was followed: %+v", call)
		}
	}
}

func TestRenewal(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	c := s.client(t, "prov")
	_, err := c.Flavor(t.Context(), "siesta.small")
	must(t, err)
	s.ExpireTokens()
	_, err = c.Flavor(t.Context(), "siesta.small")
	must(t, err)
	// In the middle of an upload the body must be sent again from its start.
	defer s.Inject(cloudsim.Fault{Service: "image", Method: "PUT", Times: 1, Status: 401})()
	_, err = c.EnsureImage(t.Context(), image("img-k", strings.Repeat("kernel", 100000)))
	must(t, err)
	if n := s.Created("token"); n != 3 {
		t.Errorf("%d authentications, want 3", n)
	}
	s.RevokeCredential(s.cred.ID)
	_, err = c.Flavor(t.Context(), "siesta.small")
	wantKind(t, err, openstack.Forbidden)
}

func TestTrace(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	c := s.client(t, "prov")
	ctx, trace := openstack.WithTrace(t.Context())
	_, err := c.EnsureSecurityGroup(ctx, groupSpec())
	must(t, err)
	id := regexp.MustCompile(`^req-[0-9a-f-]{36}$`)
	posts := 0
	for _, call := range trace.Calls() {
		if !id.MatchString(call.Sent) || call.Status == 0 || call.Service == "" {
			t.Errorf("incomplete record %+v", call)
		}
		if call.Service == "network" && !id.MatchString(call.RequestID) {
			t.Errorf("no request id in %+v", call)
		}
		if call.Method == "POST" && strings.HasSuffix(call.Path, "/security-groups") {
			posts++
		}
	}
	if posts != 1 || trace.Calls()[0].Service != "identity" {
		t.Errorf("%d POSTs, first call %+v", posts, trace.Calls()[0])
	}
}

func TestForeignThingsStay(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	c := s.client(t, "prov")
	st := s.stage(t, c)
	other, err := openstack.New(openstack.Config{Site: "sim", Installation: "other001", CloudsFile: s.clouds, CloudsEntry: "prov", AllowedHosts: []string{s.host}})
	must(t, err)
	for what, err := range map[string]error{
		"port":   other.DeletePort(t.Context(), st.port),
		"volume": other.DeleteVolume(t.Context(), st.data),
		"group":  other.DeleteSecurityGroup(t.Context(), st.group),
		"image":  other.DeleteImage(t.Context(), st.kernel),
	} {
		if openstack.KindOf(err) != openstack.Permanent {
			t.Errorf("deleting another installation's %s: %v", what, err)
		}
	}
	left, err := other.Leftovers(t.Context())
	must(t, err)
	if len(left) != 0 {
		t.Errorf("another installation sees %+v as its own", left)
	}
	mine, err := c.Leftovers(t.Context())
	must(t, err)
	for _, r := range mine {
		found, err := c.Named(t.Context(), r.Kind, r.Name)
		must(t, err)
		if len(found) != 1 || found[0] != r {
			t.Errorf("%+v is found by name as %+v", r, found)
		}
	}
	if found, err := c.Named(t.Context(), "port", prefix+"port-g77"); err != nil || len(found) != 0 {
		t.Errorf("a port that is not there: %+v, %v", found, err)
	}
	if len(mine) != 6 { // two volumes, two images, port, group
		t.Errorf("%d are listed as ours, want 6: %+v", len(mine), mine)
	}
}

func TestVolumesThatAreRefused(t *testing.T) {
	s := newSite(t, cloudsim.Config{VolumeTypes: []cloudsim.VolumeType{{Name: "plain"}, {Name: "shared", MultiAttach: true}, {Name: "hosted", Encrypted: true}}})
	c := s.client(t, "prov")
	for _, typ := range []string{"shared", "hosted"} {
		spec := volumeSpec(typ)
		spec.Type = typ
		_, err := c.EnsureVolume(t.Context(), spec)
		wantKind(t, err, openstack.Permanent)
	}
	st := s.stage(t, c)
	properties := map[string]string{"kernel_id": st.kernel, "ramdisk_id": st.initrd, "os_command_line": "siesta.gen=2"}
	tampered := fmt.Sprintf(`{"volume": {"id": %q, "name": %q, "status": "available", "size": 1, "bootable": "true", "volume_image_metadata": {"kernel_id": %q, "ramdisk_id": %q, "os_command_line": "siesta.gen=3"}}}`,
		st.root, prefix+"root-g1", st.kernel, st.initrd)
	defer s.Inject(cloudsim.Fault{Service: "volume", Method: "GET", Path: regexp.MustCompile("/volumes/[^/]+$"), Status: 200, Body: tampered})()
	err := c.SetBootMetadata(t.Context(), st.root, properties)
	wantKind(t, err, openstack.Permanent)
	if !strings.Contains(err.Error(), "read back") {
		t.Errorf("%v does not say what is wrong", err)
	}
}

func TestPreflight(t *testing.T) {
	snp := map[string]string{"hw:mem_encryption": "true", "hw:mem_encryption_model": "amd-sev-snp"}
	cfg := cloudsim.Config{
		Flavors: []cloudsim.Flavor{
			{ID: "1", Name: "snp", VCPUs: 2, RAMMiB: 512, ExtraSpecs: snp},
			{ID: "2", Name: "dropped", VCPUs: 2, RAMMiB: 512},
			{ID: "4", Name: "tdx", VCPUs: 2, RAMMiB: 512, ExtraSpecs: map[string]string{"hw:mem_encryption": "true", "hw:mem_encryption_model": "intel-tdx"}},
			{ID: "3", Name: "sev", VCPUs: 2, RAMMiB: 512, ExtraSpecs: map[string]string{"hw:mem_encryption": "true"}},
		},
		VolumeTypes: []cloudsim.VolumeType{{Name: "plain"}, {Name: "shared", MultiAttach: true}},
	}
	s := newSite(t, cfg)
	newer := newSite(t, cloudsim.Config{BarbicanNewDefaults: true})
	for _, row := range []struct {
		name  string
		site  *site
		entry string
		spec  openstack.PreflightSpec
		fails string // the one check that must not be OK; empty: none
	}{
		{"all well", s, "prov", openstack.PreflightSpec{Roles: []string{"member"}, TEE: "sev-snp", Flavors: []string{"snp"}, Network: s.network, VolumeType: "plain", Need: openstack.Need{Servers: 1, VCPUs: 2}}, ""},
		{"role", s, "prov", openstack.PreflightSpec{Roles: []string{"admin"}, TEE: "sev-snp", Flavors: []string{"snp"}}, "roles"},
		{"model that was dropped", s, "prov", openstack.PreflightSpec{TEE: "sev-snp", Flavors: []string{"dropped"}}, "flavor/dropped"},
		{"plain SEV", s, "prov", openstack.PreflightSpec{TEE: "sev-snp", Flavors: []string{"sev"}}, "flavor/sev"},
		{"TDX", s, "prov", openstack.PreflightSpec{TEE: "tdx", Flavors: []string{"tdx"}}, ""},
		{"SEV-SNP instead of TDX", s, "prov", openstack.PreflightSpec{TEE: "tdx", Flavors: []string{"snp"}}, "flavor/snp"},
		{"TDX instead of SEV-SNP", s, "prov", openstack.PreflightSpec{TEE: "sev-snp", Flavors: []string{"tdx"}}, "flavor/tdx"},
		{"simulated TDX", s, "prov", openstack.PreflightSpec{TEE: "simulated-tdx", Flavors: []string{"dropped"}}, ""},
		{"no flavor", s, "prov", openstack.PreflightSpec{TEE: "sev-snp"}, "flavors"},
		{"no TEE", s, "prov", openstack.PreflightSpec{Flavors: []string{"snp"}}, "tee"},
		{"unknown network", s, "prov", openstack.PreflightSpec{TEE: "simulated", Flavors: []string{"snp"}, Network: "none"}, "network"},
		{"shared volumes", s, "prov", openstack.PreflightSpec{TEE: "simulated", Flavors: []string{"snp"}, VolumeType: "shared"}, "volume type"},
		{"no room", s, "prov", openstack.PreflightSpec{TEE: "simulated", Flavors: []string{"snp"}, Need: openstack.Need{Servers: 100000}}, "capacity"},
		{"no second credential", s, "keys", openstack.PreflightSpec{Keys: true}, "key isolation"},
		{"colleague under the older policy", s, "keys", openstack.PreflightSpec{Keys: true, Other: s.client(t, "colleague")}, "key isolation"},
		{"colleague under the newer policy", newer, "keys", openstack.PreflightSpec{Keys: true, Other: newer.client(t, "colleague")}, ""},
		{"stranger in another project", s, "keys", openstack.PreflightSpec{Keys: true, Other: s.client(t, "stranger")}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, err := row.site.client(t, row.entry).Preflight(t.Context(), row.spec)
			must(t, err)
			var failed []string
			for _, c := range r.Checks {
				if !c.OK {
					failed = append(failed, c.Name)
					if c.Fix == "" || c.Detail == "" {
						t.Errorf("%s does not say what is wrong or how to mend it: %+v", c.Name, c)
					}
				}
			}
			if got := strings.Join(failed, ","); got != row.fails || r.OK() != (row.fails == "") {
				t.Errorf("failed %q, want %q: %+v", got, row.fails, r.Checks)
			}
			if n := row.site.Living("secret"); n != 0 {
				t.Errorf("the probe left %d secrets", n)
			}
		})
	}
}

// fakeMachine is a guest that does as it is told.
type fakeMachine struct{ done chan struct{} }

func (m *fakeMachine) Powerdown(context.Context) error { close(m.done); return nil }
func (m *fakeMachine) Done() <-chan struct{}           { return m.done }
func (m *fakeMachine) Kill() {
	select {
	case <-m.done:
	default:
		close(m.done)
	}
}

func TestMachines(t *testing.T) {
	boots := make(chan cloudsim.BootSpec, 4)
	machines := make(chan *fakeMachine, 4)
	s := newSite(t, cloudsim.Config{Boot: func(spec cloudsim.BootSpec) (cloudsim.Machine, error) {
		m := &fakeMachine{done: make(chan struct{})}
		boots <- spec
		machines <- m
		return m, os.WriteFile(spec.Console, []byte("one\ntwo\n"), 0o600)
	}})
	c := s.client(t, "prov")
	st := s.stage(t, c)
	srv, err := c.EnsureServer(t.Context(), st.server())
	must(t, err)
	is := func(status string) {
		t.Helper()
		until(t, "a server that is "+status, func() bool {
			got, err := c.Server(t.Context(), srv.ID)
			must(t, err)
			return got.Status == status && got.TaskState == ""
		})
	}
	is("ACTIVE")
	first := <-boots
	if first.Append != "siesta.ws=w siesta.gen=1" || !first.GuestAgentChannel || len(first.Disks) != 2 || first.Disks[1].Serial != st.data[:20] || first.MAC != "02:00:00:00:00:01" {
		t.Errorf("booted with %+v", first)
	}
	if raw, err := os.ReadFile(first.Kernel); err != nil || string(raw) != "kernel" {
		t.Errorf("kernel is %q, %v", raw, err)
	}
	if info, err := os.Stat(first.Disks[1].Path); err != nil || info.Size() != 1<<30 {
		t.Errorf("data disk is %+v, %v", info, err)
	}
	if log, err := c.ConsoleLog(t.Context(), srv.ID, 1); err != nil || !strings.Contains(log, "two") {
		t.Errorf("console says %q, %v", log, err)
	}
	close((<-machines).done) // the guest powers itself off
	is("SHUTOFF")
	// The line of a later metadata change, or of a deleted image, is not what the server boots with.
	must(t, c.SetBootMetadata(t.Context(), st.root, map[string]string{"kernel_id": st.kernel, "ramdisk_id": st.initrd, "os_command_line": "other"}))
	must(t, c.DeleteImage(t.Context(), st.kernel))
	must(t, c.StartServer(t.Context(), srv.ID))
	is("ACTIVE")
	second := <-boots
	if fmt.Sprint(second) != fmt.Sprint(first) {
		t.Errorf("booted again with %+v, first with %+v", second, first)
	}
	must(t, c.StopServer(t.Context(), srv.ID))
	is("SHUTOFF")
	<-machines
	must(t, c.StartServer(t.Context(), srv.ID))
	is("ACTIVE")
	must(t, c.DeleteServer(t.Context(), srv.ID))
	<-(<-machines).done
	until(t, "the server's end", func() bool { return s.Living("server") == 0 })
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.clouds), "consoles", "*")); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestSoftDelete(t *testing.T) {
	s := newSite(t, cloudsim.Config{SoftDelete: true})
	c := s.client(t, "prov")
	srv, err := c.EnsureServer(t.Context(), s.stage(t, c).server())
	must(t, err)
	until(t, "an ACTIVE server", func() bool {
		got, err := c.Server(t.Context(), srv.ID)
		must(t, err)
		return got.Status == "ACTIVE"
	})
	must(t, c.DeleteServer(t.Context(), srv.ID))
	until(t, "a softly deleted server", func() bool {
		got, err := c.Server(t.Context(), srv.ID)
		must(t, err)
		return got.Status == "SOFT_DELETED"
	})
	must(t, c.DeleteServer(t.Context(), srv.ID))
	until(t, "the server's end", func() bool { return s.Living("server") == 0 })
}

// TestRuleOfAnother shows that a rule which somebody else adds does not survive, and that a group into which rules keep
// coming is called broken.
func TestRuleOfAnother(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	c, other := s.client(t, "prov"), s.client(t, "stranger")
	_, err := c.EnsureSecurityGroup(t.Context(), groupSpec())
	must(t, err)
	wider := groupSpec()
	wider.Rules = append(wider.Rules, openstack.Rule{Direction: "ingress", EtherType: "IPv4"})
	_, err = other.EnsureSecurityGroup(t.Context(), wider)
	must(t, err)
	g, err := c.EnsureSecurityGroup(t.Context(), groupSpec())
	must(t, err)
	if len(g.Rules) != 1 {
		t.Errorf("rules are %+v", g.Rules)
	}
	defer s.Inject(cloudsim.Fault{Service: "network", Method: "DELETE", Status: 204})()
	_, err = other.EnsureSecurityGroup(t.Context(), openstack.SecurityGroupSpec{Name: groupSpec().Name})
	wantKind(t, err, openstack.Permanent)
}
