package openstack

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const goodClouds = `clouds:
  a:
    region_name: One
    auth:
      auth_url: https://keystone.example:5000/v3
      application_credential_id: id
      application_credential_secret: secret-canary
  password:
    auth: {auth_url: "https://keystone.example:5000/v3", username: u, password: secret-canary, project_name: p}
  elsewhere:
    auth: {auth_url: "https://other.example/v3", application_credential_id: id, application_credential_secret: secret-canary}
`

func TestNew(t *testing.T) {
	// What the environment says must not matter.
	t.Setenv("OS_CLOUD", "password")
	t.Setenv("OS_REGION_NAME", "Wrong")
	clouds := write(t, goodClouds)
	good := Config{Site: "s", Installation: "abcd1234", CloudsFile: clouds, CloudsEntry: "a", AllowedHosts: []string{"keystone.example"}}
	c, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if c.cfg.Region != "One" || !c.auth.AllowReauth || c.auth.Scope != nil {
		t.Errorf("region %q, auth %v", c.cfg.Region, c.auth.AllowReauth)
	}
	if printed := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(printed, "secret-canary") {
		t.Errorf("a printed client shows its credential: %s", printed)
	}
	file := write(t, "auth_url: https://keystone.example:5000/v3\napplication_credential_id: id\napplication_credential_secret: secret-canary\n")
	if _, err := New(Config{Site: "s", Installation: "abcd1234", ApplicationCredentialFile: file, AllowedHosts: []string{"keystone.example:5000"}}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"nothing":           func(c *Config) { *c = Config{} },
		"no site":           func(c *Config) { c.Site = "" },
		"long installation": func(c *Config) { c.Installation = "abcd12345" },
		"no hosts":          func(c *Config) { c.AllowedHosts = nil },
		"URL as host":       func(c *Config) { c.AllowedHosts = []string{"https://keystone.example"} },
		"wildcard":          func(c *Config) { c.AllowedHosts = []string{"*"} },
		"foreign Keystone":  func(c *Config) { c.CloudsEntry = "elsewhere" },
		"password":          func(c *Config) { c.CloudsEntry = "password" },
		"unknown entry":     func(c *Config) { c.CloudsEntry = "none" },
		"no file":           func(c *Config) { c.CloudsFile = clouds + ".none" },
		"broken file":       func(c *Config) { c.CloudsFile = write(t, "secret-canary: [") },
		"both sources":      func(c *Config) { c.ApplicationCredentialFile = file },
		"unknown field": func(c *Config) {
			*c = Config{Site: "s", Installation: "abcd1234", ApplicationCredentialFile: write(t, "secret-canary: x\n"), AllowedHosts: []string{"keystone.example"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			change(&cfg)
			_, err := New(cfg)
			if err == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(err.Error(), "secret-canary") {
				t.Errorf("%v quotes the file", err)
			}
		})
	}
}

func TestHosts(t *testing.T) {
	l, err := newHostList([]string{"Keystone.example", "nova.example:8774", "[::1]:5000"})
	if err != nil {
		t.Fatal(err)
	}
	for raw, ok := range map[string]bool{
		"https://keystone.example/v3": true, "http://KEYSTONE.example:5000": true, "http://nova.example:8774/v2.1": true, "http://[::1]:5000/": true,
		"http://nova.example/": false, "http://nova.example:8775": false, "https://evil.example": false, "ftp://keystone.example": false,
		"http://user:pass@keystone.example": false, "http://keystone.example.evil": false, "http:///v3": false,
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.check(u) == nil; got != ok {
			t.Errorf("%s: %v, want %v", raw, got, ok)
		}
	}
}

func TestServiceRoot(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "/": "", "/v2.1": "", "/v3/0f3c": "", "/compute/v2.1/": "/compute", "/a/b": "/a/b", "/volume/v3/pid": "/volume", "/identity": "/identity", "/vault": "/vault",
	} {
		if got := serviceRoot(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func TestOffered(t *testing.T) {
	for _, row := range []struct {
		name      string
		svc       service
		doc       string
		low, high string
	}{
		{"Nova", compute, `{"version": {"id": "v2.1", "version": "2.93", "min_version": "2.1"}}`, "2.1", "2.93"},
		{"Cinder", volume, `{"versions": [{"id": "v3.0", "version": "3.70", "min_version": "3.0"}]}`, "3.0", "3.70"},
		{"Barbican before", keyManager, `{"versions": {"values": [{"id": "v1", "status": "stable"}]}}`, "0.0", "0.0"},
		{"Barbican since", keyManager, `{"versions": {"values": [{"id": "v1", "min_version": "1.0", "max_version": "1.2"}]}}`, "1.0", "1.2"},
		{"other versions", volume, `{"versions": [{"id": "v2.0", "version": "2.99", "min_version": "2.0"}]}`, "0.0", "0.0"},
		{"nonsense", compute, `{"version": {"id": "v2.1", "version": "-1.x", "min_version": ""}}`, "0.0", "0.0"},
		{"no object", compute, `[]`, "0.0", "0.0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			low, high := offered([]byte(row.doc), row.svc)
			if low.String() != row.low || high.String() != row.high {
				t.Errorf("%s to %s, want %s to %s", low, high, row.low, row.high)
			}
		})
	}
}

func TestBoundedBody(t *testing.T) {
	read := func(size, limit int) error {
		_, err := io.ReadAll(&boundedBody{body: io.NopCloser(strings.NewReader(strings.Repeat("x", size))), left: int64(limit), cancel: func() {}})
		return err
	}
	if err := read(10, 10); err != nil {
		t.Errorf("exactly the limit: %v", err)
	}
	if err := read(11, 10); !errors.Is(err, errBodyTooLong) {
		t.Errorf("one more: %v", err)
	}
}

func TestOctets(t *testing.T) {
	for size, ok := range map[int64]bool{4: false, 5: true, 6: false} {
		_, err := io.ReadAll(&octetReader{src: io.NopCloser(strings.NewReader("bytes")), left: size})
		if (err == nil) != ok {
			t.Errorf("5 bytes announced as %d: %v", size, err)
		}
	}
}

func TestBootProperties(t *testing.T) {
	line := func(n int) map[string]string {
		return map[string]string{"kernel_id": "k", "ramdisk_id": "r", "os_command_line": strings.Repeat("x", n)}
	}
	for name, row := range map[string]struct {
		properties map[string]string
		ok         bool
	}{
		"255 bytes": {line(255), true}, "256 bytes": {line(256), false}, "empty line": {line(0), false}, "nothing": {nil, false},
		"line feed": {map[string]string{"kernel_id": "k", "ramdisk_id": "r", "os_command_line": "a\nb"}, false},
		"umlaut":    {map[string]string{"kernel_id": "k", "ramdisk_id": "r", "os_command_line": "ä"}, false},
	} {
		if err := checkBootProperties(row.properties); (err == nil) != row.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRuleForms(t *testing.T) {
	same := []Rule{
		{Direction: "egress", EtherType: "IPv4", Protocol: "tcp", PortMin: 1, PortMax: 2},
		{Direction: "Egress", EtherType: "ipv4", Protocol: "6", PortMin: 1, PortMax: 2, RemotePrefix: "0.0.0.0/0"},
		{Direction: "egress", EtherType: "IPv4", Protocol: "TCP", PortMin: 1, PortMax: 2, RemotePrefix: "10.0.0.1/0"},
	}
	for _, r := range same {
		if n, err := r.normal(); err != nil || n != same[0] {
			t.Errorf("%+v becomes %+v, %v", r, n, err)
		}
	}
	for _, r := range []Rule{
		{},
		{Direction: "egress"},
		{Direction: "up", EtherType: "IPv4"},
		{Direction: "egress", EtherType: "IPv4", PortMin: 2, PortMax: 1},
		{Direction: "egress", EtherType: "IPv4", RemotePrefix: "::/0"},
		{Direction: "egress", EtherType: "IPv4", RemotePrefix: "everyone"},
	} {
		if _, err := r.normal(); err == nil {
			t.Errorf("%+v is accepted", r)
		}
	}
	group := "a group"
	if _, known := (ruleWire{Direction: "ingress", EtherType: "IPv4", RemoteGroup: &group}).rule(); known {
		t.Error("a rule that lets a group in is taken for one that lets anyone in")
	}
}

func TestImageID(t *testing.T) {
	id := ImageID("abcd1234", [32]byte{1})
	if !uuidForm.MatchString(id) || id != ImageID("abcd1234", [32]byte{1}) || id == ImageID("abcd1235", [32]byte{1}) || id == ImageID("abcd1234", [32]byte{2}) {
		t.Errorf("image id %s is not a function of installation and contents", id)
	}
	if id != "4c4c605b-aacc-84c4-8bda-ddca997bdcb4" {
		t.Errorf("image id is %s: the derivation changed, and images at sites would be uploaded again", id)
	}
}
