package main

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// onTDX turns the good configuration into one of a site with TDX; line 31 is the first that is another.
func onTDX(replace ...string) []string {
	return append(replace,
		"    Genoa: {bootloader: 10, snp: 20, microcode: 20}\n", "    {}\n",
		"tee: sev-snp", "tee: tdx",
		"    vcpu_types: [EPYC-Milan]\n    guest_features: [0x1]\n    chips:\n      - id: CHIP\n", `    platforms:
      - {ppid: PPID, fmspc: B0C06F000000, host: node-1}
      - {ppid: 00112233445566778899aabbccddeeff}
    xfam: 0x602e7
`)
}

// rewrite changes a file that writeConfig made.
func rewrite(t *testing.T, path string, replace ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
}

func loadTDX(t *testing.T, replace ...string) (*Config, error) {
	t.Helper()
	path := writeConfig(t, onTDX(replace...)...)
	rewrite(t, path, "PPID", strings.Repeat("A5", 16))
	return loadConfig(path)
}

func TestSiteOfTDX(t *testing.T) {
	rtmr0 := strings.Repeat("C0", 48)
	c, err := loadTDX(t, "attestation:\n", "attestation:\n  tdx: {tcb_statuses: [UpToDate, SWHardeningNeeded], min_evaluation_number: 17}\n")
	if err != nil {
		t.Fatal(err)
	}
	list, err := sites(c)
	if err != nil {
		t.Fatal(err)
	}
	p := list[0].Policy
	want := attest.NovaTDXPolicy()
	want.Platforms = [][]byte{bytes.Repeat([]byte{0xa5}, 16), {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}}
	want.XFAM = attest.MaskedBits{Mask: ^uint64(0), Value: 0x602e7}
	want.RTMRs[0].Any, want.RTMRs[3].Values = true, [][]byte{make([]byte, 48)}
	want.TCBStatuses, want.MinEvaluationNumber = []string{"UpToDate", "SWHardeningNeeded"}, 17
	if got, want := p.Hash(), (attest.Policy{TDX: &want}).Hash(); got != want {
		t.Errorf("the site's policy: %s", p.Canonical())
	}
	if list[0].TEE != workspace.TDX || len(list[0].VCPUSigs) != 0 {
		t.Errorf("the site: %+v", list[0])
	}

	c, err = loadTDX(t, "    broker_url", "    xfam_mask: 0x7ffff\n    rtmr0: ["+rtmr0+"]\n    broker_url")
	if err != nil {
		t.Fatal(err)
	}
	if list, err = sites(c); err != nil {
		t.Fatal(err)
	}
	if got := list[0].Policy.TDX; got.XFAM.Mask != 0x7ffff || got.RTMRs[0].Any || !bytes.Equal(got.RTMRs[0].Values[0], bytes.Repeat([]byte{0xc0}, 48)) ||
		!reflect.DeepEqual(got.TCBStatuses, []string{"UpToDate"}) || got.MinEvaluationNumber != 0 {
		t.Errorf("the site's policy: %+v", got)
	}
}

func TestFaultsOfTDXAreNamed(t *testing.T) {
	for name, row := range map[string]struct {
		old, new string
		line     int
		says     string
	}{
		"processor models":    {"    xfam: 0x602e7\n", "    xfam: 0x602e7\n    vcpu_types: [EPYC-Milan]\n", 35, "tee: sev-snp; leave it out"},
		"guest features":      {"    xfam: 0x602e7\n", "    xfam: 0x602e7\n    guest_features: [1]\n", 35, "TDX has xfam"},
		"chips":               {"    xfam: 0x602e7\n", "    xfam: 0x602e7\n    chips: [{id: CHIP}]\n", 35, "register the machines in platforms"},
		"no platform":         {"      - {ppid: PPID, fmspc: B0C06F000000, host: node-1}\n      - {ppid: 00112233445566778899aabbccddeeff}\n", "      []\n", 31, "register the machines"},
		"a short PPID":        {"ppid: PPID", "ppid: beef", 32, "32 hexadecimal digits"},
		"a PPID in the field": {"ppid: PPID", "ppid: CHIP", 32, "32 hexadecimal digits"},
		"FMSPC":               {"B0C06F000000", "B0C06F", 32, "12 hexadecimal digits"},
		"host":                {"node-1", "-", 32, "must match"},
		"no xfam":             {"    xfam: 0x602e7\n", "", 23, "0x602e7"},
		"half a word":         {"0x602e7", "0x60000", 34, "bits 0 and 1"},
		"mask":                {"    xfam: 0x602e7\n", "    xfam: 0x602e7\n    xfam_mask: 0x3\n", 35, "not in the mask"},
		"RTMR0":               {"    xfam: 0x602e7\n", "    xfam: 0x602e7\n    rtmr0: [CHIP]\n", 35, "96 hexadecimal digits"},
		"unknown features":    {"0x602e7", "0x602ef", 34, "bits that no quote of a guest has: 0x8;"},
		"a platform twice":    {"ppid: 00112233445566778899aabbccddeeff", "ppid: " + strings.Repeat("a5", 16), 33, "registered twice"},
		"revoked":             {"attestation:\n", "attestation:\n  tdx: {tcb_statuses: [UpToDate, Revoked]}\n", 20, "choose from ConfigurationAndSWHardeningNeeded"},
		"number":              {"attestation:\n", "attestation:\n  tdx: {min_evaluation_number: -1}\n", 20, "Intel's data set"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeConfig(t, onTDX()...)
			rewrite(t, path, row.old, strings.ReplaceAll(row.new, "CHIP", strings.Repeat("0f", 64)), "PPID", strings.Repeat("A5", 16))
			_, err := loadConfig(path)
			if want := fmt.Sprintf("%s:%d: ", path, row.line); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got:\n%v\nwant a line that begins with %q and says %q", err, want, row.says)
			}
		})
	}
	for name, text := range map[string]string{
		"platforms": "    platforms: [{ppid: 00112233445566778899aabbccddeeff}]\n", "xfam": "    xfam: 3\n", "xfam_mask": "    xfam_mask: 3\n", "rtmr0": "    rtmr0: [" + strings.Repeat("c0", 48) + "]\n",
	} {
		path := writeConfig(t, "    broker_url", text+"    broker_url")
		_, err := loadConfig(path)
		if want := fmt.Sprintf("%s:35: sites[0].%s: it is for sites with tee: tdx", path, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("at a site of SEV-SNP: got %v, want %s", err, want)
		}
	}
	// Of hardware that is not known nothing else is asked.
	unknown := writeConfig(t, onTDX()...)
	rewrite(t, unknown, "tee: tdx", "tee: intel-tdx", "PPID", strings.Repeat("A5", 16))
	_, err := loadConfig(unknown)
	if err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), "sites[0].tee: choose from") {
		t.Errorf("an unknown tee: %v", err)
	}
	// A floor for product lines is asked for as long as any site has one.
	if _, err := loadConfig(writeConfig(t, "    Genoa: {bootloader: 10, snp: 20, microcode: 20}\n", "    {}\n")); err == nil {
		t.Error("a site of SEV-SNP without floors is accepted")
	}
}

// A platform is frozen and quarantined as a chip is, under its PPID as leases have it.
func TestPlatformsHaveNamesForFreezes(t *testing.T) {
	c := &Config{Sites: []SiteConfig{{Name: "iisas", Platforms: []PlatformConfig{{PPID: strings.Repeat("AB", 16), Host: "node-1"}, {PPID: strings.Repeat("cd", 16)}}}}}
	id := func(pair string) string { return strings.Repeat(pair, 16) + strings.Repeat("0", 96) }
	want := []permit.Site{{Name: "iisas", Hosts: []string{"node-1"}, Chips: []string{id("ab"), id("cd")}}}
	if got := freezable(c); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if name := hosts(c)("iisas", id("ab")); name != "node-1" {
		t.Errorf("the platform is in %q", name)
	}
	if named, err := permit.Named("chip", strings.Repeat("AB", 16)); err != nil || named != want[0].Chips[0] {
		t.Errorf("a freeze names it %s (%v)", named, err)
	}
}

func TestIntelIsAskedBeforehand(t *testing.T) {
	c := &Config{
		Collateral: CollateralConfig{PCSURL: "https://pcs.example.org"},
		Sites: []SiteConfig{
			{Platforms: []PlatformConfig{{FMSPC: "B0C06F000000"}, {}}},
			{Platforms: []PlatformConfig{{FMSPC: "b0c06f000000"}, {FMSPC: "a0b1c2d3e4f5"}}},
		},
	}
	got, err := registered(c)
	want := []attest.Subject{
		{Kind: attest.KindIntelRootCRL, Key: "root"},
		{Kind: attest.KindPCKCRL, Key: "platform"},
		attest.TCBInfoSubject("b0c06f000000"),
		{Kind: attest.KindQEIdentity, Key: "td-qe"},
		attest.TCBInfoSubject("a0b1c2d3e4f5"),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	c.Collateral.PCSURL = ""
	if got, err := registered(c); err != nil || len(got) != 0 {
		t.Errorf("nobody may be asked, and these are: %v (%v)", got, err)
	}
}
