package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eosc-siesta/siestad/internal/openstack"
)

// Target is the cloud under test.
type Target struct {
	CloudsFile string // with application credentials
	Entry      string // for compute, volumes, network and images
	KeysEntry  string // for the key manager
	Region     string
	Hosts      []string // allow-list

	Network    string // id, owned by the project of Entry
	Flavor     string // name
	VolumeType string // name; empty: the default

	Kernel, Initrd []byte        // nil: Kernel and Initrd of this package
	Boots          bool          // servers are machines: the console shows Banner
	Wait           time.Duration // for an asynchronous change
	Poll           time.Duration
}

// suite is one run.
type suite struct {
	Target
	cloud, keys *openstack.Client
	prefix      string // of names
	raw, rawKey *plain
}

func newSuite(t *testing.T, target Target) *suite {
	t.Helper()
	// The installation is the run's own, so that runs beside each other and remains of earlier ones do not meet.
	installation := random()[:8]
	client := func(entry string) *openstack.Client {
		c, err := openstack.New(openstack.Config{
			Site: entry, Installation: installation, CloudsFile: target.CloudsFile, CloudsEntry: entry,
			Region: target.Region, AllowedHosts: target.Hosts, Timeout: 2 * time.Minute,
		})
		must(t, err)
		return c
	}
	if target.Kernel == nil {
		target.Kernel, target.Initrd = Kernel(), []byte("no archive")
	}
	return &suite{
		Target: target, cloud: client(target.Entry), keys: client(target.KeysEntry), prefix: "siesta-v1-" + installation + "-",
		raw: newPlain(t, target.CloudsFile, target.Entry), rawKey: newPlain(t, target.CloudsFile, target.KeysEntry),
	}
}

// Banner is what Kernel writes to the serial console.
const Banner = "siesta conformance kernel"

// Kernel is the least that QEMU takes for a Linux kernel: a header, and real-mode code that writes Banner to the first
// serial port and halts. So the suite needs no distribution's kernel.
func Kernel() []byte {
	k := make([]byte, 4096)
	k[0x1f1] = 1                                 // one setup sector after the boot sector
	copy(k[0x200:], []byte{0xeb, 0x66})          // jump over the header
	copy(k[0x202:], "HdrS\x04\x02")              // boot protocol 2.04
	k[0x211] = 1                                 // the rest is loaded high
	copy(k[0x22c:], []byte{0xff, 0xff, 0xff, 7}) // highest address of an initrd
	copy(k[0x268:], []byte{
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xbe, 0x90, 0x02, // mov si, banner
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz halt
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp next
		0xfa,       // halt: cli
		0xf4,       // hlt
		0xeb, 0xfd, // jmp hlt
	})
	copy(k[0x290:], Banner+"\r\n\x00")
	return k
}

func (s *suite) imageSpec(suffix string, format string, content []byte) openstack.ImageSpec {
	digest, long := sha256.Sum256(content), sha512.Sum512(content)
	installation := strings.Split(s.prefix, "-")[2]
	return openstack.ImageSpec{
		ID: openstack.ImageID(installation, digest), Name: s.prefix + suffix, SHA512: hex.EncodeToString(long[:]),
		Size: int64(len(content)), ContainerFormat: format, DiskFormat: format,
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// eventually polls until done, and fails the test at the target's patience.
func (s *suite) eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(s.Wait)
	defer deadline.Stop()
	tick := time.NewTicker(s.Poll)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not within %v", what, s.Wait)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, kind openstack.Kind) {
	t.Helper()
	if got := openstack.KindOf(err); got != kind {
		t.Fatalf("error %v is %q, want %q", err, got, kind)
	}
}

// plain speaks HTTP to a cloud without the client under test.
type plain struct {
	endpoints map[string]string
	token     string
	project   string
	auth      string
	id        string
}

func newPlain(t *testing.T, file, entry string) *plain {
	t.Helper()
	raw, err := os.ReadFile(file)
	must(t, err)
	var doc struct {
		Clouds map[string]struct {
			Auth struct {
				URL    string `yaml:"auth_url"`
				ID     string `yaml:"application_credential_id"`
				Secret string `yaml:"application_credential_secret"`
			} `yaml:"auth"`
		} `yaml:"clouds"`
	}
	must(t, yaml.Unmarshal(raw, &doc))
	cred := doc.Clouds[entry].Auth
	p := &plain{auth: cred.URL, id: cred.ID, endpoints: map[string]string{}}
	status, answer, header := p.authenticate(t, cred.ID, cred.Secret)
	if status != 201 {
		t.Fatalf("authenticating as %s: %d", entry, status)
	}
	p.token = header.Get("X-Subject-Token")
	token := answer["token"].(map[string]any)
	p.project = token["project"].(map[string]any)["id"].(string)
	for _, s := range token["catalog"].([]any) {
		for _, e := range s.(map[string]any)["endpoints"].([]any) {
			if endpoint := e.(map[string]any); endpoint["interface"] == "public" {
				p.endpoints[s.(map[string]any)["type"].(string)] = strings.TrimRight(endpoint["url"].(string), "/")
			}
		}
	}
	return p
}

func (p *plain) authenticate(t *testing.T, id, secret string) (int, map[string]any, http.Header) {
	t.Helper()
	body := map[string]any{"auth": map[string]any{"identity": map[string]any{
		"methods":                []string{"application_credential"},
		"application_credential": map[string]any{"id": id, "secret": secret},
	}}}
	return p.send(t, "POST", strings.TrimRight(p.auth, "/")+"/auth/tokens", body, nil)
}

// do sends a request to a service of the catalog and returns status and JSON.
func (p *plain) do(t *testing.T, method, service, path string, body any, header map[string]string) (int, map[string]any) {
	t.Helper()
	all := map[string]string{"X-Auth-Token": p.token}
	for k, v := range header {
		all[k] = v
	}
	status, answer, _ := p.send(t, method, p.endpoints[service]+path, body, all)
	return status, answer
}

func (p *plain) send(t *testing.T, method, url string, body any, header map[string]string) (int, map[string]any, http.Header) {
	t.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		content = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		must(t, err)
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, content)
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(t, err)
	answer := map[string]any{}
	_ = json.Unmarshal(raw, &answer) // not every answer is JSON
	return resp.StatusCode, answer, resp.Header
}
