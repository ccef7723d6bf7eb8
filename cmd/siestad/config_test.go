package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/permit"
)

const goodConfig = `installation: test0001
database:
  connection: host=/run/postgresql dbname=siesta
listen:
  api: 127.0.0.1:8080
  guests: 127.0.0.1:8081
issuers:
  - url: https://id.example.org/realms/siesta
    audience: siestad
    clients: [siesta-cli]
keyring:
  file: DIR/keyring
log:
  origin: siesta.example.org/log
  key_file: DIR/log.pem
  last_seen_file: DIR/last-seen
broker:
  key_file: DIR/broker.pem
attestation:
  min_tcb:
    Genoa: {bootloader: 10, snp: 20, microcode: 20}
sites:
  - name: ifca
    tee: sev-snp
    allowed_hosts: [cloud.example.org]
    compute: {file: DIR/compute.yaml}
    keys: {file: DIR/keys.yaml}
    network: siesta
    flavors: [snp.small]
    volume_type: ceph
    vcpu_types: [EPYC-Milan]
    guest_features: [0x1]
    chips:
      - id: CHIP
    broker_url: https://192.0.2.7:8443
tokens: {issuer: https://siesta.example.org, key_file: DIR/tokens.pem}
`

// writeConfig makes the files that a configuration names, then the configuration with the given replacements.
func writeConfig(t *testing.T, replace ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := initKeys(filepath.Join(dir, "k"), "siesta.example.org/log", io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := writeTokenKey(filepath.Join(dir, "values.pem")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keyring", "log.pem", "broker.pem", "tokens.pem"} {
		if err := os.Rename(filepath.Join(dir, "k", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	credential := "auth_url: https://cloud.example.org:5000/v3\napplication_credential_id: id\napplication_credential_secret: secret\n"
	for _, name := range []string{"compute.yaml", "keys.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(credential), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.NewReplacer(replace...).Replace(goodConfig)
	text = strings.NewReplacer("DIR", dir, "CHIP", strings.Repeat("0f", 64)).Replace(text)
	path := filepath.Join(dir, "siestad.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGoodConfigLoads(t *testing.T) {
	c, err := loadConfig(writeConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	list, err := sites(c)
	if err != nil {
		t.Fatal(err)
	}
	policy := list[0].Policy
	if len(policy.Chips) != 1 || policy.Simulated || policy.RequirePolicy != 0x30000 || len(policy.Measurements) != 0 {
		t.Errorf("the site's policy: %+v", policy)
	}
	rules := list[0].Rules
	if len(rules) != 1 || rules[0].RemotePrefix != "192.0.2.7/32" || rules[0].PortMin != 8443 || rules[0].Direction != "egress" {
		t.Errorf("the site's rules: %+v", rules)
	}
}

func TestEveryFaultIsNamedWithItsLineAndWhatToDo(t *testing.T) {
	for name, row := range map[string]struct {
		old, new string
		line     int
		says     string
	}{
		"unknown field":         {"  audience: siestad", "  audience: siestad\n    audiense: x", 10, "audiense"},
		"installation":          {"test0001", "Test", 1, "eight characters"},
		"no database":           {"connection: host=/run/postgresql dbname=siesta", `connection: ""`, 3, "how to reach Postgres"},
		"password in the file":  {"dbname=siesta", "password=x", 3, "password_file"},
		"password in a URL":     {"host=/run/postgresql dbname=siesta", "postgres://u:p@h/d", 3, "password_file"},
		"two on one port":       {"guests: 127.0.0.1:8081", "guests: 127.0.0.1:8080", 6, "share 127.0.0.1:8080"},
		"issuer without TLS":    {"https://id.example.org", "http://id.example.org", 8, "https"},
		"issuer without client": {"clients: [siesta-cli]", "clients: []", 10, "clients"},
		"no keyring":            {"file: DIR/keyring", "file: DIR/absent", 12, "keys init"},
		"token issuer":          {"tokens: {issuer: https", "tokens: {issuer: http", 36, "https URL"},
		"no token key":          {"key_file: DIR/tokens.pem", "key_file: DIR/absent", 36, "keys token"},
		"no floor":              {"    Genoa: {bootloader: 10, snp: 20, microcode: 20}\n", "    {}\n", 20, "floor"},
		"level that none has":   {"{bootloader: 10,", "{fmc: 1, bootloader: 10,", 21, "only Turin"},
		"unknown product line":  {"Genoa:", "Rome:", 21, "Milan, Genoa or Turin"},
		"simulated site":        {"tee: sev-snp", "tee: none", 24, "choose from sev-snp"},
		"one credential":        {"keys: {file: DIR/keys.yaml}", "keys: {file: DIR/compute.yaml}", 27, "another user"},
		"no credential":         {"keys: {file: DIR/keys.yaml}", "keys: {}", 27, "clouds_file and cloud, or file"},
		"processor model":       {"EPYC-Milan", "Pentium", 31, "Pentium"},
		"not SNP":               {"[0x1]", "[0x20]", 32, "bit 0"},
		"chip id":               {"id: CHIP", "id: beef", 34, "128 hexadecimal digits"},
		"broker by name":        {"https://192.0.2.7:8443", "https://broker.example.org:8443", 35, "resolve no names"},
		"broker with a path":    {"https://192.0.2.7:8443", "https://192.0.2.7:8443/x", 35, "nothing after it"},
		"vendor in the clear":   {"sites:\n", "collateral: {kds_url: http://kds.example.org}\nsites:\n", 22, "https URL"},
		"vendor while offline":  {"sites:\n", "collateral: {kds_url: https://kds.example.org, offline: true}\nsites:\n", 22, "offline is true"},
		"half of Intel":         {"sites:\n", "collateral: {pcs_url: https://pcs.example.org}\nsites:\n", 22, "both pcs_url and root_crl_url"},
		"long grace":            {"sites:\n", "collateral: {grace: 25h}\nsites:\n", 22, "at most 24h"},
		"no publisher's key":    {"sites:\n", "reference_values: {key_file: DIR/absent}\nsites:\n", 22, "keys token"},
		"an endorser's secret":  {"sites:\n", "reference_values: {endorser_keys: [DIR/tokens.pem]}\nsites:\n", 22, "PUBLIC KEY"},
		"product without TCB":   {"- id: CHIP", "- id: CHIP\n        product: Genoa", 34, "both product and tcb"},
		"doubled key":           {"network: siesta", "network: siesta\n    network: other", 29, "already defined"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeConfig(t, row.old, row.new)
			_, err := loadConfig(path)
			if err == nil {
				t.Fatal("the configuration was accepted")
			}
			want := fmt.Sprintf("%s:%d: ", path, row.line)
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got:\n%v\nwant a line that begins with %q and says %q", err, want, row.says)
			}
		})
	}
}

func TestPublisherHasAKeyOrSaysNothing(t *testing.T) {
	c, err := loadConfig(writeConfig(t, "sites:\n", "reference_values: {key_file: DIR/values.pem}\nsites:\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := publisher(c)
	if err != nil || p.Name != c.Log.Origin || p.Build == "" || p.Key.Public().ID() == "" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := publisher(&Config{}); err != nil || p.Key.Public().ID() != "" {
		t.Errorf("without a key: %+v, %v", p, err)
	}
}

// A copy is the same key, and so is its public half where others' keys are named.
func TestReferenceValuesHaveAKeyOfTheirOwn(t *testing.T) {
	for name, c := range map[string]struct{ file, also, says string }{
		"the log's":           {"log.pem", "", "log.key_file is the same key"},
		"the broker's":        {"broker.pem", "", "broker.key_file is the same key"},
		"that of tokens":      {"tokens.pem", "", "tokens.key_file is the same key"},
		"the next of tokens":  {"values.pem", "tokens: {issuer: https://siesta.example.org, key_file: DIR/tokens.pem, next_key_file: DIR/copy.pem}", "tokens.next_key_file is the same key"},
		"the last of tokens":  {"values.pem", "tokens: {issuer: https://siesta.example.org, key_file: DIR/tokens.pem, previous_key_file: DIR/copy.pem}", "tokens.previous_key_file is the same key"},
		"that of TLS":         {"values.pem", "  tls: {certificate: DIR/copy.pem, key: DIR/copy.pem}", "listen.tls.key is the same key"},
		"that of guests' TLS": {"values.pem", "  guests_tls: {certificate: DIR/copy.pem, key: DIR/copy.pem}", "listen.guests_tls.key is the same key"},
		"an endorser's":       {"log.pem", "", "reference_values.endorser_keys has the same key"},
		"that of floors":      {"log.pem", "  floor_keys: [DIR/public.pem]", "attestation.floor_keys has the same key"},
		"no key":              {"compute.yaml", "", "it is not PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			replace := []string{"sites:\n", "reference_values: {key_file: DIR/" + c.file + ", endorser_keys: [DIR/public.pem]}\nsites:\n"}
			switch {
			case strings.HasPrefix(c.also, "tokens"):
				replace = append(replace, "tokens: {issuer: https://siesta.example.org, key_file: DIR/tokens.pem}", c.also)
			case strings.Contains(c.also, "tls"):
				replace = append(replace, "issuers:\n", c.also+"\nissuers:\n")
			case c.also != "":
				replace = append(replace, "attestation:\n", "attestation:\n"+c.also+"\n")
			}
			path := writeConfig(t, replace...)
			dir := filepath.Dir(path)
			copied, err := os.ReadFile(filepath.Join(dir, "values.pem"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "copy.pem"), copied, 0o600); err != nil {
				t.Fatal(err)
			}
			writePublic(t, filepath.Join(dir, "log.pem"), filepath.Join(dir, "public.pem"))
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			line := 1 + strings.Count(string(text[:strings.Index(string(text), "reference_values")]), "\n")
			_, err = loadConfig(path)
			if want := fmt.Sprintf("%s:%d: reference_values.key_file: ", path, line); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %s … %s", err, want, c.says)
			}
		})
	}
}

func writePublic(t *testing.T, private, public string) {
	t.Helper()
	der, err := readPEM(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKIXPublicKey(key.(crypto.Signer).Public()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := loadConfig(writeConfig(t, "test0001", "X", "tee: sev-snp", "tee: none", "volume_type: ceph", "volume_typ: ceph"))
	if err == nil {
		t.Fatal("the configuration was accepted")
	}
	for _, part := range []string{"installation", "tee", "volume_typ", "volume_type: name the volume type"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("no word of %s in:\n%v", part, err)
		}
	}
}

func TestSecretsMustBePrivate(t *testing.T) {
	path := writeConfig(t)
	if err := os.Chmod(filepath.Join(filepath.Dir(path), "broker.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := loadConfig(path)
	if err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a broker key that all can read: got %v", err)
	}
}

func TestBadYAMLAndEmptyFiles(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "not YAML": "a: [b", "a list": "- a\n", "binary": "\x00\x01"} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadConfig(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error that names the file", name, err)
		}
	}
	if _, err := loadConfig(filepath.Join(t.TempDir(), "absent.yaml")); err == nil {
		t.Error("an absent file was accepted")
	}
}

func TestKeysAreNeverOverwritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := initKeys(dir, "siesta.example.org/log", io.Discard); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "broker.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := initKeys(dir, "siesta.example.org/log", io.Discard); err == nil {
		t.Error("keys were made a second time")
	}
	after, err := os.ReadFile(filepath.Join(dir, "broker.pem"))
	if err != nil || string(before) != string(after) {
		t.Error("the broker key changed")
	}
}

func TestDatabasePasswordStaysInItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("it's \\ hard\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dsn, err := DatabaseConfig{Connection: "host=h dbname=d", PasswordFile: file}.dsn()
	if want := `host=h dbname=d password='it\'s \\ hard'`; err != nil || dsn != want {
		t.Errorf("got %s, %v, want %s", dsn, err, want)
	}
}

// A freeze can name what the configuration names, written as the broker compares it.
func TestFreezableIsWhatTheConfigurationNames(t *testing.T) {
	id := func(digit string) string { return strings.Repeat(digit, 128) }
	got := freezable(&Config{Sites: []SiteConfig{
		{Name: "ifca", Chips: []ChipConfig{{ID: id("A"), Host: "node-1"}, {ID: id("b"), Host: "node-1"}, {ID: id("c")}}},
		{Name: "bari"},
	}})
	want := []permit.Site{{Name: "ifca", Hosts: []string{"node-1"}, Chips: []string{id("a"), id("b"), id("c")}}, {Name: "bari"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
