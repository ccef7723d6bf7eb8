package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v3"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// validation collects faults instead of stopping at the first.
type validation struct {
	*faults
	root *yaml.Node
}

var (
	installationPattern = regexp.MustCompile(`^[a-z0-9]{8}$`)
	hostPattern         = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$`)
	namePattern         = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,62}$`)
	originPattern       = regexp.MustCompile(`^[A-Za-z0-9.-]+(/[A-Za-z0-9._-]+)*$`)
)

// need records a fault at path unless ok holds.
func (v *validation) need(ok bool, path []any, format string, args ...any) {
	if !ok {
		v.list = append(v.list, fault{line: lineOf(v.root, path...), text: dotted(path) + ": " + fmt.Sprintf(format, args...)})
	}
}

func dotted(path []any) string {
	var b strings.Builder
	for _, step := range path {
		switch s := step.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", s)
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, s)
		}
	}
	return b.String()
}

func at(path ...any) []any { return path }

func (v *validation) config(c *Config) {
	v.need(installationPattern.MatchString(c.Installation), at("installation"), "write eight characters of a-z and 0-9, once and for ever")
	v.need(c.Database.Connection != "", at("database", "connection"), "say how to reach Postgres, such as host=/run/postgresql dbname=siesta")
	v.need(!strings.Contains(c.Database.Connection, "password"), at("database", "connection"), "put the password into a file and name it in password_file")
	if u, err := url.Parse(c.Database.Connection); err == nil && u.User != nil {
		_, has := u.User.Password()
		v.need(!has, at("database", "connection"), "put the password into a file and name it in password_file")
	}
	if c.Database.PasswordFile != "" {
		v.secretFile(c.Database.PasswordFile, at("database", "password_file"), "")
	}
	v.listeners(c.Listen)
	v.need(len(c.Issuers) > 0, at("issuers"), "name at least one OpenID issuer")
	for i, issuer := range c.Issuers {
		v.issuer(issuer, at("issuers", i))
	}
	v.keyring(c.Keyring)
	v.need(originPattern.MatchString(c.Log.Origin) && len(c.Log.Origin) <= 200, at("log", "origin"), "name the log, such as siesta.example.org/log")
	v.secretFile(c.Log.KeyFile, at("log", "key_file"), "make one with `siestad keys init`")
	v.need(c.Log.LastSeenFile != "", at("log", "last_seen_file"), "name a file outside the database that this program may write")
	v.secretFile(c.Broker.KeyFile, at("broker", "key_file"), "make one with `siestad keys init`")
	v.need(c.Broker.Lease == 0 || c.Broker.Lease >= 10*time.Second && c.Broker.Lease <= time.Hour, at("broker", "lease"), "choose between 10s and 1h")
	v.tokens(c.Tokens)
	v.attestation(c.Attestation, c.Sites)
	v.collateral(c.Collateral)
	v.referenceValues(c)
	v.need(len(c.Sites) > 0, at("sites"), "name at least one cloud")
	seen := map[string]bool{}
	for i, site := range c.Sites {
		v.site(site, at("sites", i))
		v.need(!seen[site.Name], at("sites", i, "name"), "two sites are called %q", site.Name)
		seen[site.Name] = true
	}
	if c.LogLevel != "" {
		_, err := zapcore.ParseLevel(c.LogLevel)
		v.need(err == nil, at("log_level"), "choose debug, info, warn or error")
	}
}

func (v *validation) keyring(k KeyringConfig) {
	switch {
	case k.PKCS11 == (PKCS11Config{}):
		v.secretFile(k.File, at("keyring", "file"), "make one with `siestad keys init`")
	case k.File != "":
		v.need(false, at("keyring"), "name either a file or a token")
	default:
		v.need(hasPKCS11, at("keyring", "pkcs11"), "this siestad was built without PKCS#11; build it with -tags pkcs11 and cgo")
		_, err := os.Stat(k.PKCS11.Module)
		v.need(err == nil, at("keyring", "pkcs11", "module"), "cannot be read: %v", err)
		v.need(k.PKCS11.Token != "", at("keyring", "pkcs11", "token"), "write the token's label")
		v.secretFile(k.PKCS11.PINFile, at("keyring", "pkcs11", "pin_file"), "write the user's PIN into a file of your own")
	}
}

func (v *validation) tokens(t TokensConfig) {
	if t == (TokensConfig{}) {
		return
	}
	u, err := url.Parse(t.Issuer)
	v.need(err == nil && u.Scheme == "https" && u.Host != "" && u.RawQuery == "" && u.Fragment == "", at("tokens", "issuer"),
		"name this service by an https URL, such as https://siesta.example.org")
	v.secretFile(t.KeyFile, at("tokens", "key_file"), "make one with `siestad keys token`")
	for name, file := range map[string]string{"next_key_file": t.NextKeyFile, "previous_key_file": t.PreviousKeyFile} {
		if file != "" {
			v.secretFile(file, at("tokens", name), "make one with `siestad keys token`")
		}
	}
}

func (v *validation) listeners(l ListenConfig) {
	addresses := map[string]string{"api": l.API, "guests": l.Guests}
	if l.Metrics != "" {
		addresses["metrics"] = l.Metrics
	}
	seen := map[string]string{}
	for _, name := range []string{"api", "guests", "metrics"} {
		address, ok := addresses[name]
		if !ok {
			continue
		}
		_, _, err := net.SplitHostPort(address)
		v.need(err == nil, at("listen", name), "write host:port, such as 127.0.0.1:8080")
		v.need(seen[address] == "" || strings.HasSuffix(address, ":0"), at("listen", name), "%s and %s share %s; give each its own", seen[address], name, address)
		seen[address] = name
	}
	v.tls(l.TLS, at("listen", "tls"))
	v.tls(l.GuestsTLS, at("listen", "guests_tls"))
}

func (v *validation) tls(t TLSConfig, path []any) {
	v.need((t.Certificate == "") == (t.Key == ""), path, "name both certificate and key, or neither")
	if t.Certificate != "" && t.Key != "" {
		_, err := os.Stat(t.Certificate)
		v.need(err == nil, append(path, "certificate"), "cannot be read: %v", err)
		v.secretFile(t.Key, append(slices.Clone(path), "key"), "")
	}
}

func (v *validation) issuer(i IssuerConfig, path []any) {
	field := func(name string) []any { return append(slices.Clone(path), name) }
	u, err := url.Parse(i.URL)
	v.need(err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())) && u.RawQuery == "" && u.Fragment == "",
		field("url"), "write the issuer's https URL exactly as its tokens do (http on loopback only)")
	v.need(i.Audience != "", field("audience"), "name the audience that tokens must have, siestad as a rule")
	v.need(len(i.Clients) > 0 && !slices.Contains(i.Clients, ""), field("clients"), "name the clients whose tokens are accepted")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (v *validation) attestation(a AttestationConfig, sites []SiteConfig) {
	elsewhere := len(sites) > 0 && !slices.ContainsFunc(sites, func(s SiteConfig) bool { return slices.Contains(tees, s.TEE) && !workspace.TEE(s.TEE).OnTDX() })
	v.need(len(a.MinTCB) > 0 || elsewhere, at("attestation", "min_tcb"), "give a floor for each product line that may hold keys; without one everything is refused")
	for line, tcb := range a.MinTCB {
		v.need(slices.Contains(attest.ProductLines(), line), at("attestation", "min_tcb", line), "%q is not a product line that can be judged; choose Milan, Genoa or Turin", line)
		v.need(line == attest.Turin || tcb.FMC == 0, at("attestation", "min_tcb", line), "only Turin has an fmc level")
	}
	for i, file := range a.RevocationLists {
		_, err := os.Stat(file)
		v.need(err == nil, at("attestation", "revocation_lists", i), "cannot be read: %v", err)
	}
	for i, file := range a.FloorKeys {
		_, err := floorKeys([]string{file})
		v.need(err == nil, at("attestation", "floor_keys", i), "%v", err)
	}
	for i, word := range a.TDX.TCBStatuses {
		v.need(slices.Contains(attest.TCBStatuses(), word), at("attestation", "tdx", "tcb_statuses", i), "choose from %s", strings.Join(attest.TCBStatuses(), ", "))
	}
	v.need(a.TDX.MinEvaluationNumber >= 0, at("attestation", "tdx", "min_evaluation_number"), "write the number of Intel's data set, or leave it out")
}

func (v *validation) referenceValues(c *Config) {
	r, path := c.ReferenceValues, at("reference_values", "key_file")
	if r.KeyFile != "" {
		v.secretFile(r.KeyFile, path, "make one with `siestad keys token`")
		key, err := publisherKey(r.KeyFile)
		v.need(err == nil || errors.Is(err, fs.ErrNotExist), path, "%v", err)
		if err == nil {
			v.ownKey(c, key.Public().ID(), path)
		}
	}
	for i, file := range r.EndorserKeys {
		_, err := endorserKeys([]string{file})
		v.need(err == nil, at("reference_values", "endorser_keys", i), "%v", err)
	}
}

// ownKey makes sure that the key at path, of this name, is that of nothing else: whoever has a document of one purpose should
// not be able to take it for one of another, and each is turned over in its own time. What cannot be read is judged in its place.
func (v *validation) ownKey(c *Config, id string, path []any) {
	for _, other := range [][2]string{
		{"log.key_file", c.Log.KeyFile},
		{"broker.key_file", c.Broker.KeyFile},
		{"tokens.key_file", c.Tokens.KeyFile},
		{"tokens.next_key_file", c.Tokens.NextKeyFile},
		{"tokens.previous_key_file", c.Tokens.PreviousKeyFile},
		{"listen.tls.key", c.Listen.TLS.Key},
		{"listen.guests_tls.key", c.Listen.GuestsTLS.Key},
	} {
		key, err := publisherKey(other[1])
		v.need(err != nil || key.Public().ID() != id, path, "%s is the same key; give reference values one of their own", other[0])
	}
	for name, files := range map[string][]string{"reference_values.endorser_keys": c.ReferenceValues.EndorserKeys, "attestation.floor_keys": c.Attestation.FloorKeys} {
		keys, err := endorserKeys(files)
		same := slices.ContainsFunc(keys, func(key corim.PublicKey) bool { return key.ID() == id })
		v.need(err != nil || !same, path, "%s has the same key; give reference values one of their own", name)
	}
}

func (v *validation) collateral(c CollateralConfig) {
	for name, raw := range map[string]string{"kds_url": c.KDSURL, "pcs_url": c.PCSURL, "root_crl_url": c.RootCRLURL} {
		if raw == "" {
			continue
		}
		u, err := url.Parse(raw)
		v.need(err == nil && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && (u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())),
			at("collateral", name), "write an https URL without a query (http on loopback only)")
		v.need(!c.Offline, at("collateral", name), "offline is true: leave the address out, or offline")
	}
	v.need((c.PCSURL == "") == (c.RootCRLURL == ""), at("collateral"), "name both pcs_url and root_crl_url, or neither")
	v.need(c.Grace >= 0 && c.Grace <= 24*time.Hour, at("collateral", "grace"), "choose at most 24h")
	v.need(c.Budget >= 0 && c.Budget <= 1000, at("collateral", "budget"), "choose between 1 and 1000")
}

func (v *validation) site(s SiteConfig, path []any) {
	field := func(names ...any) []any { return append(slices.Clone(path), names...) }
	v.need(namePattern.MatchString(s.Name), field("name"), "must match %s", namePattern)
	v.need(len(s.AllowedHosts) > 0, field("allowed_hosts"), "name every host of the site's catalog, Keystone's included")
	v.credential(s.Compute, field("compute"))
	v.credential(s.Keys, field("keys"))
	v.need(s.Compute != s.Keys || s.Compute == (CredentialConfig{}), field("keys"), "use a credential of another user than compute's: who makes servers must not read keys")
	v.need(s.Network != "", field("network"), "name the network that guests are put on")
	v.need(len(s.Flavors) > 0, field("flavors"), "name the flavors that workspaces may use")
	v.need(s.VolumeType != "", field("volume_type"), "name the volume type")
	v.need(s.MaxDataGiB >= 0 && s.MaxDataGiB <= 16384, field("max_data_gib"), "choose between 1 and 16384")
	switch {
	case !slices.Contains(tees, s.TEE): // what its hardware is to be asked is not known
		v.need(false, field("tee"), "choose from %s", strings.Join(tees, ", "))
	case workspace.TEE(s.TEE).OnTDX():
		v.tdxSite(s, field)
	default:
		v.snpSite(s, field)
	}
	v.once(s, field)
	_, err := brokerAddress(s.BrokerURL)
	v.need(err == nil, field("broker_url"), "%v", err)
}

// absent refuses a field that says something about other hardware than the site's.
func (v *validation) absent(set bool, path []any, of, instead string) {
	v.need(!set, path, "it is for sites with tee: %s; leave it out here%s", of, instead)
}

func (v *validation) snpSite(s SiteConfig, field func(...any) []any) {
	v.absent(len(s.Platforms) > 0, field("platforms"), "tdx", " and register the processors in chips")
	v.absent(s.XFAM != 0, field("xfam"), "tdx", "")
	v.absent(s.XFAMMask != 0, field("xfam_mask"), "tdx", "")
	v.absent(len(s.RTMR0) > 0, field("rtmr0"), "tdx", "")
	v.need(len(s.VCPUTypes) > 0, field("vcpu_types"), "name the processor models that the hosts give guests, such as EPYC-Milan")
	for _, name := range s.VCPUTypes {
		_, ok := attest.VCPUSig(name)
		v.need(ok, field("vcpu_types"), "%q is no processor model whose signature is known", name)
	}
	v.need(len(s.GuestFeatures) > 0, field("guest_features"), "name the SEV features that the hosts set, [0x1] as a rule")
	for i, f := range s.GuestFeatures {
		v.need(f&1 == 1, field("guest_features", i), "0x%x lacks bit 0: that would not be SEV-SNP", f)
	}
	v.need(len(s.Chips) > 0, field("chips"), "register the processors of the site's hosts; evidence from any other is refused")
	for i, chip := range s.Chips {
		id, err := hex.DecodeString(chip.ID)
		v.need(err == nil && len(id) == 64, field("chips", i, "id"), "write 128 hexadecimal digits")
		v.need(chip.Host == "" || hostPattern.MatchString(chip.Host), field("chips", i, "host"), "must match %s", hostPattern)
		v.need(chip.Product == "" || slices.Contains(attest.ProductLines(), chip.Product), field("chips", i, "product"), "choose Milan, Genoa or Turin")
		v.need((chip.Product == "") == (chip.TCB == nil), field("chips", i), "name both product and tcb, or neither")
		if chip.VCEKFile != "" {
			_, err := os.Stat(chip.VCEKFile)
			v.need(err == nil, field("chips", i, "vcek_file"), "cannot be read: %v", err)
		}
	}
}

func (v *validation) tdxSite(s SiteConfig, field func(...any) []any) {
	const most = 64
	v.absent(len(s.VCPUTypes) > 0, field("vcpu_types"), "sev-snp", "")
	v.absent(len(s.GuestFeatures) > 0, field("guest_features"), "sev-snp", "; TDX has xfam")
	v.absent(len(s.Chips) > 0, field("chips"), "sev-snp", " and register the machines in platforms")
	v.need(len(s.Platforms) > 0, field("platforms"), "register the machines of the site; evidence from any other is refused")
	for i, p := range s.Platforms {
		v.need(isHex(p.PPID, 16), field("platforms", i, "ppid"), "write 32 hexadecimal digits")
		v.need(p.FMSPC == "" || isHex(p.FMSPC, 6), field("platforms", i, "fmspc"), "write 12 hexadecimal digits, or leave it out")
		v.need(p.Host == "" || hostPattern.MatchString(p.Host), field("platforms", i, "host"), "must match %s", hostPattern)
	}
	v.need(s.XFAM&3 == 3, field("xfam"), "write the word that the hosts' quotes show, such as 0x602e7; its bits 0 and 1 are always set")
	v.need(s.XFAM&^attest.XFAMKnown == 0, field("xfam"), "it has bits that no quote of a guest has: %#x; no bit but those of %#x is known", s.XFAM&^attest.XFAMKnown, attest.XFAMKnown)
	v.need(s.XFAMMask == 0 || s.XFAM&^s.XFAMMask == 0, field("xfam_mask"), "xfam has bits that are not in the mask; clear them there or set them here")
	v.need(len(s.RTMR0) <= most, field("rtmr0"), "name at most %d values", most)
	for i, value := range s.RTMR0 {
		v.need(isHex(value, 48), field("rtmr0", i), "write 96 hexadecimal digits")
	}
}

// once refuses a chip or platform that is named twice: it may be in one machine alone.
func (v *validation) once(s SiteConfig, field func(...any) []any) {
	seen := map[string]bool{}
	again := func(id string, path []any) {
		id = strings.ToLower(id)
		v.need(id == "" || !seen[id], path, "it is registered twice; leave one of them out")
		seen[id] = true
	}
	for i, chip := range s.Chips {
		again(chip.ID, field("chips", i, "id"))
	}
	for i, p := range s.Platforms {
		again(p.PPID, field("platforms", i, "ppid"))
	}
}

func isHex(s string, size int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == size
}

// brokerAddress checks a broker URL and returns its address, for the one way out of the guests' security group.
func brokerAddress(raw string) (*net.TCPAddr, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("write http://ADDRESS:PORT or https://ADDRESS:PORT, nothing after it")
	}
	ip, port := net.ParseIP(u.Hostname()), u.Port()
	if ip == nil || port == "" {
		return nil, fmt.Errorf("write an address and a port: guests resolve no names")
	}
	if len(raw) > 48 {
		return nil, fmt.Errorf("use at most 48 characters: the measured line has 255 for everything")
	}
	return net.ResolveTCPAddr("tcp", net.JoinHostPort(ip.String(), port))
}

func (v *validation) credential(c CredentialConfig, path []any) {
	switch {
	case c.File != "" && c.CloudsFile == "" && c.Cloud == "":
		v.secretFile(c.File, append(slices.Clone(path), "file"), "")
	case c.File == "" && c.CloudsFile != "" && c.Cloud != "":
		v.secretFile(c.CloudsFile, append(slices.Clone(path), "clouds_file"), "")
	default:
		v.need(false, path, "name either clouds_file and cloud, or file")
	}
}

// secretFile checks that a secret is there and that only its owner can read it.
func (v *validation) secretFile(name string, path []any, advice string) {
	if advice != "" {
		advice = "; " + advice
	}
	if name == "" {
		v.need(false, path, "is missing%s", advice)
		return
	}
	info, err := os.Stat(name)
	if err != nil {
		v.need(false, path, "cannot be read: %v%s", err, advice)
		return
	}
	v.need(info.Mode().IsRegular(), path, "%s is not a file", name)
	v.need(info.Mode().Perm()&0o077 == 0, path, "%s can be read by others (mode %04o); chmod 600 it", name, info.Mode().Perm())
}
