package cloudsim_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

const prefix = "siesta-v1-test0001-w-"

// stage is everything a server needs, ready.
type stage struct {
	group, port, root, data string
	kernel, initrd          string
}

func image(name, content string) openstack.ImageSpec {
	short, long := sha256.Sum256([]byte(content)), sha512.Sum512([]byte(content))
	return openstack.ImageSpec{
		ID: openstack.ImageID("test0001", short), Name: prefix + name, SHA512: hex.EncodeToString(long[:]), Size: int64(len(content)),
		ContainerFormat: "aki", DiskFormat: "aki",
		Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader([]byte(content))), nil
		},
	}
}

func (s *site) portSpec(group string) openstack.PortSpec {
	return openstack.PortSpec{Name: prefix + "port-g1", NetworkID: s.network, MAC: "02:00:00:00:00:01", SecurityGroupID: group}
}

func volumeSpec(role string) openstack.VolumeSpec {
	return openstack.VolumeSpec{Name: prefix + role + "-g1", SizeGiB: 1, Metadata: map[string]string{"siesta.role": role}}
}

func groupSpec() openstack.SecurityGroupSpec {
	return openstack.SecurityGroupSpec{Name: prefix + "sg-g1", Rules: []openstack.Rule{{Direction: "egress", EtherType: "IPv4", Protocol: "tcp", PortMin: 443, PortMax: 443}}}
}

func (st stage) server() openstack.ServerSpec {
	return openstack.ServerSpec{Name: prefix + "server-g1", FlavorID: "1", PortID: st.port, RootVolumeID: st.root, DataVolumeID: st.data, Metadata: map[string]string{"siesta.gen": "1"}}
}

func (s *site) stage(t *testing.T, c *openstack.Client) stage {
	t.Helper()
	ctx := t.Context()
	var st stage
	g, err := c.EnsureSecurityGroup(ctx, groupSpec())
	must(t, err)
	p, err := c.EnsurePort(ctx, s.portSpec(g.ID))
	must(t, err)
	k, err := c.EnsureImage(ctx, image("img-k", "kernel"))
	must(t, err)
	i, err := c.EnsureImage(ctx, image("img-i", "initrd"))
	must(t, err)
	st.group, st.port, st.kernel, st.initrd = g.ID, p.ID, k.ID, i.ID
	for role, id := range map[string]*string{"root": &st.root, "data": &st.data} {
		v, err := c.EnsureVolume(ctx, volumeSpec(role))
		must(t, err)
		*id = v.ID
		until(t, "an available volume", func() bool {
			v, err := c.Volume(ctx, v.ID)
			must(t, err)
			return v.Status == "available"
		})
	}
	must(t, c.SetBootMetadata(ctx, st.root, map[string]string{"kernel_id": k.ID, "ramdisk_id": i.ID, "os_command_line": "siesta.ws=w siesta.gen=1", "hw_qemu_guest_agent": "yes"}))
	return st
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until polls what changes on the simulated cloud's own clock.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		}
	}
}

// creations is every kind of thing that can be made, with how to make it and which request makes it.
func creations(s *site) []struct {
	kind, service, method, path string
	make                        func(ctx context.Context, c *openstack.Client, st stage) (string, error)
} {
	type row = struct {
		kind, service, method, path string
		make                        func(ctx context.Context, c *openstack.Client, st stage) (string, error)
	}
	return []row{
		{"security group", "network", "POST", "/security-groups$", func(ctx context.Context, c *openstack.Client, _ stage) (string, error) {
			spec := groupSpec()
			spec.Name = prefix + "sg-g2"
			g, err := c.EnsureSecurityGroup(ctx, spec)
			if err == nil && len(g.Rules) != 1 {
				err = fmt.Errorf("group has rules %+v", g.Rules)
			}
			return g.ID, err
		}},
		{"port", "network", "POST", "/ports$", func(ctx context.Context, c *openstack.Client, st stage) (string, error) {
			spec := s.portSpec(st.group)
			spec.Name, spec.MAC = prefix+"port-g2", "02:00:00:00:00:02"
			p, err := c.EnsurePort(ctx, spec)
			return p.ID, err
		}},
		{"volume", "volume", "POST", "/volumes$", func(ctx context.Context, c *openstack.Client, _ stage) (string, error) {
			spec := volumeSpec("data")
			spec.Name = prefix + "data-g2"
			v, err := c.EnsureVolume(ctx, spec)
			return v.ID, err
		}},
		{"image", "image", "POST", "/images$", func(ctx context.Context, c *openstack.Client, _ stage) (string, error) {
			i, err := c.EnsureImage(ctx, image("img-x", "other bytes"))
			return i.ID, err
		}},
		{"server", "compute", "POST", "/servers$", func(ctx context.Context, c *openstack.Client, st stage) (string, error) {
			v, err := c.EnsureServer(ctx, st.server())
			return v.ID, err
		}},
	}
}

// TestLostAnswer makes every creation succeed in the cloud and fail on the wire, and the other way round: the next look
// finds what is there, and exactly one is ever made.
func TestLostAnswer(t *testing.T) {
	for _, way := range []string{"applied and dropped", "refused by a proxy", "stalled past the deadline"} {
		t.Run(way, func(t *testing.T) {
			s := newSite(t, cloudsim.Config{})
			c := s.client(t, "prov")
			st := s.stage(t, c)
			for _, row := range creations(s) {
				t.Run(row.kind, func(t *testing.T) {
					before := s.Created(row.kind)
					f := cloudsim.Fault{Service: row.service, Method: row.method, Path: regexp.MustCompile(row.path), Times: 1}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					switch way {
					case "applied and dropped":
						f.DropAnswer = true
					case "refused by a proxy":
						f.Status, f.Body = 504, "<html>gateway timeout</html>"
					case "stalled past the deadline":
						stall := make(chan struct{})
						defer close(stall)
						f.Stall = stall
						var stop context.CancelFunc
						ctx, stop = context.WithTimeout(ctx, 50*time.Millisecond)
						defer stop()
					}
					remove := s.Inject(f)
					first, err := row.make(ctx, c, st)
					remove()
					if err != nil {
						if kind := openstack.KindOf(err); kind != openstack.Ambiguous && kind != openstack.Retryable {
							t.Fatalf("the first try: %v is %q, want ambiguous or retryable", err, kind)
						}
						first, err = row.make(t.Context(), c, st)
						must(t, err)
					}
					again, err := row.make(t.Context(), c, st)
					must(t, err)
					if again != first || s.Created(row.kind) != before+1 {
						t.Errorf("ids %s and %s, %d made, want one", first, again, s.Created(row.kind)-before)
					}
				})
			}
		})
	}
}

func TestLostAnswerOfSecret(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	c := s.client(t, "keys")
	drop := func(method, path string) func() {
		return s.Inject(cloudsim.Fault{Service: "key-manager", Method: method, Path: regexp.MustCompile(path), Times: 1, DropAnswer: true})
	}
	defer drop("POST", "/secrets$")()
	id, err := c.EnsureSecret(t.Context(), prefix+"key-g1")
	must(t, err)
	defer drop("PUT", "/secrets/[^/]+$")()
	must(t, c.PutSecretPayload(t.Context(), id, []byte("wrapped")))
	again, err := c.EnsureSecret(t.Context(), prefix+"key-g1")
	must(t, err)
	if again != id || s.Created("secret") != 1 {
		t.Errorf("ids %s and %s, %d made", id, again, s.Created("secret"))
	}
	// A write that is refused before it is applied stays undone, and says that it may not be.
	other, err := c.EnsureSecret(t.Context(), prefix+"key-g2")
	must(t, err)
	defer s.Inject(cloudsim.Fault{Service: "key-manager", Method: "PUT", Times: 1, Status: 502})()
	if err := c.PutSecretPayload(t.Context(), other, []byte("wrapped")); openstack.KindOf(err) != openstack.Ambiguous {
		t.Errorf("a lost write: %v, want ambiguous", err)
	}
	must(t, c.PutSecretPayload(t.Context(), other, []byte("wrapped")))
}

// TestTwoAtOnce lets two clients make the same thing at the same time.
func TestTwoAtOnce(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	a, b := s.client(t, "prov"), s.client(t, "prov")
	st := s.stage(t, a)
	rows := creations(s)
	for _, row := range rows {
		t.Run(row.kind, func(t *testing.T) {
			living := s.Living(row.kind)
			ids := make([]string, 2)
			errs := make([]error, 2)
			var both sync.WaitGroup
			for i, c := range []*openstack.Client{a, b} {
				both.Go(func() {
					for range 200 { // a loser may have to look again while the winner's is on its way
						ids[i], errs[i] = row.make(t.Context(), c, st)
						if kind := openstack.KindOf(errs[i]); kind != openstack.Retryable && kind != openstack.Conflict && kind != openstack.Ambiguous {
							return
						}
					}
				})
			}
			both.Wait()
			for _, err := range errs {
				must(t, err)
			}
			until(t, "one survivor", func() bool { return s.Living(row.kind) == living+1 })
			last, err := row.make(t.Context(), a, st)
			must(t, err)
			if s.Living(row.kind) != living+1 {
				t.Errorf("%d are left, want one more than %d", s.Living(row.kind), living)
			}
			if ids[0] != last && ids[1] != last {
				t.Errorf("survivor %s was nobody's answer: %v", last, ids)
			}
		})
	}
	t.Run("secret", func(t *testing.T) {
		k, l := s.client(t, "keys"), s.client(t, "keys")
		var both sync.WaitGroup
		for _, c := range []*openstack.Client{k, l} {
			both.Go(func() { _, _ = c.EnsureSecret(t.Context(), prefix+"key-g1") })
		}
		both.Wait()
		_, err := k.EnsureSecret(t.Context(), prefix+"key-g1")
		must(t, err)
		if s.Living("secret") != 1 {
			t.Errorf("%d secrets are left, want 1", s.Living("secret"))
		}
	})
}

// TestQuotas meets each service's own way of saying that there is no room.
func TestQuotas(t *testing.T) {
	s := newSite(t, cloudsim.Config{})
	c := s.client(t, "prov")
	st := s.stage(t, c)
	s.SetQuotas(cloudsim.Quotas{Servers: -1, Volumes: -1, Ports: -1, SecurityGroups: -1, Images: -1, Secrets: -1})
	for _, row := range creations(s) {
		t.Run(row.kind, func(t *testing.T) {
			_, err := row.make(t.Context(), c, st)
			if openstack.KindOf(err) != openstack.Quota {
				t.Errorf("over quota: %v is %q", err, openstack.KindOf(err))
			}
		})
	}
	_, err := s.client(t, "keys").EnsureSecret(t.Context(), prefix+"key-g1")
	if openstack.KindOf(err) != openstack.Quota {
		t.Errorf("secrets over quota: %v", err)
	}
	s.SetQuotas(cloudsim.Quotas{})
	s.NoValidHost(true)
	srv, err := c.EnsureServer(t.Context(), st.server())
	must(t, err)
	until(t, "a server in ERROR", func() bool {
		srv, err = c.Server(t.Context(), srv.ID)
		must(t, err)
		return srv.Status == "ERROR"
	})
	if openstack.KindOf(srv.Err()) != openstack.Quota {
		t.Errorf("no valid host: %v", srv.Err())
	}
}
