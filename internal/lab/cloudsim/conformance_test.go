package cloudsim_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
	"github.com/eosc-siesta/siestad/internal/openstack"
	"github.com/eosc-siesta/siestad/internal/openstack/conformance"
)

// site is a simulated cloud that listens, with two projects' credentials in a clouds.yaml.
type site struct {
	*cloudsim.Cloud
	host, clouds, network string
	cred                  *cloudsim.Credential
}

func newSite(t *testing.T, cfg cloudsim.Config) *site {
	t.Helper()
	cfg.Dir = t.TempDir()
	cloud, err := cloudsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(cloud)
	t.Cleanup(func() { srv.Close(); cloud.Close() })
	project, keys := cloud.AddProject("siesta"), cloud.AddProject("siesta-keys")
	s := &site{
		Cloud: cloud, host: strings.TrimPrefix(srv.URL, "http://"), clouds: filepath.Join(cfg.Dir, "clouds.yaml"),
		network: cloud.AddNetwork(project, "siesta"), cred: cloud.AddCredential(project, "prov", "member", "reader"),
	}
	raw := cloudsim.CloudsYAML(srv.URL, map[string]*cloudsim.Credential{
		"prov": s.cred, "keys": cloud.AddCredential(keys, "broker", "member", "creator"),
		"colleague": cloud.AddCredential(keys, "colleague", "member", "creator"), "stranger": cloud.AddCredential(project, "stranger", "member", "creator"),
	})
	if err := os.WriteFile(s.clouds, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) client(t *testing.T, entry string) *openstack.Client {
	t.Helper()
	c, err := openstack.New(openstack.Config{Site: "sim", Installation: "test0001", CloudsFile: s.clouds, CloudsEntry: entry, AllowedHosts: []string{s.host}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConformance(t *testing.T) {
	for name, cfg := range map[string]cloudsim.Config{
		"zed":    {},
		"recent": {ComputeMax: "2.104", KeyManagerMax: "1.2", BarbicanNewDefaults: true, SoftDelete: false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cfg)
			conformance.Run(t, conformance.Target{
				CloudsFile: s.clouds, Entry: "prov", KeysEntry: "keys", Hosts: []string{s.host}, Network: s.network,
				Flavor: "siesta.small", Wait: 10 * time.Second, Poll: 2 * time.Millisecond,
			})
		})
	}
}
